// exp, log, tanh and the normal distribution from + - * / and bit moves: no libm, no fused multiply-add, so the bits
// are the same on every machine.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/lanes.hpp"

namespace {

template <typename T>
struct ExpConstants;

// exp(x) = 2^n exp(r), n = round(x log2 e), |r| <= log(2)/2. ln2_high has so few bits that n * ln2_high is exact
// (Cody and Waite, Software Manual for the Elementary Functions, 1980).
template <>
struct ExpConstants<float> {
  static constexpr float log2e = 1.44269504088896341F;
  static constexpr float ln2_high = 0.693359375F;
  static constexpr float ln2_low = -2.12194440054690583e-4F;
  static constexpr float round = 12582912.0F + 127.0F;  // 1.5 * 2^23 + bias: see exp_nonpositive
  static constexpr float lowest = -87.3365402F;         // below it the result is subnormal, and flushed
  static constexpr int mantissa = 23;
  // (exp(r) - 1 - r) / r^2, interpolated at 5 Chebyshev nodes of |r| <= log(2)/2: exp within 2^-26.6
  static constexpr float tail[] = {1.39261759e-3F, 8.36317334e-3F, 4.16665561e-2F, 1.66665778e-1F, 0.5F};
};

template <>
struct ExpConstants<double> {
  static constexpr double log2e = 1.44269504088896340736;
  static constexpr double ln2_high = 0.693145751953125;
  static constexpr double ln2_low = 1.42860682030941723212e-6;
  static constexpr double round = 6755399441055744.0 + 1023.0;  // 1.5 * 2^52 + bias
  static constexpr double lowest = -708.39641853226408;
  static constexpr int mantissa = 52;
  // the same at 11 nodes: exp within 2^-61
  static constexpr double tail[] = {2.0914679376583935e-9,
                                    2.5105206373957010e-8,
                                    2.7557273661348637e-7,
                                    2.7557255425746435e-6,
                                    2.4801587325533363e-5,
                                    1.9841269874800493e-4,
                                    1.3888888888883752e-3,
                                    8.3333333333261410e-3,
                                    4.1666666666666670e-2,
                                    0.1666666666666667,
                                    0.5};
};

template <typename T>
using Vector = typename Lanes<T>::Vector;
template <typename T>
using Integers = typename Lanes<T>::Integers;

// 2^n exp(f) where the low bits of `shifted` are those of n plus the bias of an exponent.
template <typename T>
inline Vector<T> scaled_exp(const Vector<T>& shifted, const Vector<T>& f) {
  using K = ExpConstants<T>;
  // pairs of coefficients, then Horner in f^2: half the latency of Horner in f
  const Vector<T> f2 = f * f;
  Vector<T> p = K::tail[0] - Vector<T>{};
  for (std::size_t k = 1; k < sizeof(K::tail) / sizeof(T); k += 2) p = p * f2 + (f * K::tail[k] + K::tail[k + 1]);
  p = (p * f2 + f) + T(1);
  return p * reinterpret_cast<Vector<T>>(reinterpret_cast<Integers<T>>(shifted) << K::mantissa);
}

// exp(x) for x <= 0 (or NaN): within 2 units in the last place; zero where the result would be subnormal.
template <typename T>
inline Vector<T> exp_nonpositive(const Vector<T>& x) {
  using K = ExpConstants<T>;
  // Adding `round` leaves the nearest integer n, plus the bias of an exponent, in the low bits of `shifted`.
  const Vector<T> shifted = x * K::log2e + K::round;
  const Vector<T> n = shifted - K::round;
  const Vector<T> value = scaled_exp<T>(shifted, (x - n * K::ln2_high) - n * K::ln2_low);
  return x < K::lowest ? Vector<T>{} : value;
}
template <typename T>
inline Lanes<T> exp_nonpositive(const Lanes<T>& x) {
  Lanes<T> r;
  for (int i = 0; i < Lanes<T>::kVectors; ++i) r.v[i] = exp_nonpositive<T>(x.v[i]);
  return r;
}

// log(x) for x > 0 and not subnormal; inf and NaN pass through. Within 1 unit in the last place.
// x = 2^e m, m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m-1)/(m+1). Without a branch: loops over it vectorize.
inline double log_positive(double x) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const auto bits = std::bit_cast<std::uint64_t>(x);
  // moves the split of the exponent from 1 to sqrt(1/2)
  const std::uint64_t moved = bits + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu);
  // the biased exponent in the low bits of 2^52: an integer becomes a double without a conversion
  const double n = std::bit_cast<double>((moved >> 52) | 0x4330000000000000u) - (0x1p52 + 1023.0);
  const double m = std::bit_cast<double>((moved & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu);
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  double tail = 0.0;  // sum of z^k / (2k + 1), k = 1 ... 11
  for (int k = 11; k >= 1; --k) tail = (tail + 1.0 / (2 * k + 1)) * z;
  // f - s f + 2 s tail, with s f = f^2 / (2 + f), keeps the leading term exact; e ln2 is split as in exp
  const double low = n * ExpConstants<double>::ln2_low - s * (f - 2.0 * tail);
  const double value = n * ExpConstants<double>::ln2_high + (low + f);
  return x < infinity ? value : x;
}

// log(1 + x) for x >= 0; exact to rounding for small x too (Kahan's correction of the rounded sum).
inline double log1p_nonnegative(double x) {
  const double u = 1.0 + x;
  const double lost = x - (u - 1.0), value = log_positive(u) + lost / u;
  return u < std::numeric_limits<double>::infinity() ? value : u;
}

template <typename T>
inline Vector<T> magnitude(const Vector<T>& x) {
  constexpr auto mask = std::numeric_limits<typename IntegerLike<T>::Type>::max();
  return reinterpret_cast<Vector<T>>(reinterpret_cast<Integers<T>>(x) & mask);
}
// value >= 0 with x's sign
template <typename T>
inline Vector<T> with_sign_of(const Vector<T>& x, const Vector<T>& value) {
  constexpr auto mask = std::numeric_limits<typename IntegerLike<T>::Type>::min();
  return reinterpret_cast<Vector<T>>(reinterpret_cast<Integers<T>>(value) | (reinterpret_cast<Integers<T>>(x) & mask));
}
template <typename T, std::size_t n>
inline Vector<T> polynomial(const T (&coefficients)[n], const Vector<T>& x) {
  Vector<T> p = coefficients[0] - Vector<T>{};
  for (std::size_t k = 1; k < n; ++k) p = p * x + coefficients[k];
  return p;
}

// What tails of distributions are computed in, so that a product of one with something large is not lost where the tail
// alone would be subnormal.
constexpr int kSpareBits = 64;
constexpr double kSpare = 0x1p-64;

template <typename T>
struct ElementaryConstants;
template <>
struct ElementaryConstants<float> {
  static constexpr float lowest = -131.697964F;  // log 2^(-126 - kSpareBits)
  static constexpr std::int32_t high_mask = ~0xfff;
  static constexpr float far = 17.0F;  // exp(-far^2 / 2) is below exp(lowest)
  // The following are interpolated at Chebyshev nodes. (tanh(x) / x - 1) / x^2 in x^2 <= 0.625^2: tanh within 2^-25.8
  static constexpr float tanh[] = {-6.09671417e-3F, 2.0997179e-2F, -5.38509096e-2F, 0.133327697F, -0.333333289F};
  // (atanh(s) / s - 1) / s^2 in s^2 <= 1/9: log(1 + x) within 2^-30
  static constexpr float atanh[] = {0.116121646F, 0.108532879F, 0.14296179F, 0.199998532F, 0.333333337F};
  // (1 + slope a) P(X > a) / exp(-a^2 / 2) of the normal distribution in (a - middle) / (a + middle): within 2^-27.5
  static constexpr float middle = 4.25F;
  static constexpr float tail[] = {-0.0001294045359827578F, -0.0003848499618470669F, 0.0010023766662925482F,
                                   0.0013515236787497997F,  -0.01204456202685833F,   0.034285761415958405F,
                                   -0.05964416638016701F,   0.06464289873838425F,    -0.02353854663670063F,
                                   -0.06786175817251205F,   0.626387894153595F};
};
template <>
struct ElementaryConstants<double> {
  static constexpr double lowest = -752.75783808810061;  // log 2^(-1022 - kSpareBits)
  static constexpr std::int64_t high_mask = ~0x7ffffffLL;
  static constexpr double far = 39.0;
  // the same within 2^-54.4, 2^-62 and 2^-59
  static constexpr double tanh[] = {-1.724487449484433e-5,  7.959955735264808e-5,  -2.3077616269519858e-4,
                                    5.8743728600943819e-4,  -1.455309297534642e-3, 3.5920589774734553e-3,
                                    -8.8632298309257087e-3, 2.1869488260559115e-2, -5.3968253961395571e-2,
                                    0.13333333333326658,    -0.33333333333333323};
  static constexpr double atanh[] = {7.8152889004614252e-2, 3.7460718977753837e-2, 5.4225891974400074e-2,
                                     5.8671395306515987e-2, 6.6675893157246279e-2, 7.6922719824302746e-2,
                                     9.0909099489813572e-2, 0.11111111099118385,   0.1428571428580005,
                                     0.19999999999999761,   0.33333333333333333};
  static constexpr double middle = 5.75;
  static constexpr double tail[] = {
      7.589709659773046e-10,  2.1716266201562994e-9,  -5.6348400362771596e-9, -1.862594625429417e-8,
      4.371219713491528e-8,   1.0323213906844408e-7,  -3.9409603340676542e-7, -2.9564075922116903e-7,
      3.3753071141024316e-6,  -3.4969621825057173e-6, -2.040526949916436e-5,  8.0543532915016828e-5,
      -5.2629049313418554e-5, -5.8951069033548953e-4, 3.0343019391648076e-3,  -8.9873735191729726e-3,
      1.9668189447606578e-2,  -3.397988098753568e-2,  4.6844930337210559e-2,  -4.9407238872631522e-2,
      3.2267079452111508e-2,  9.0823791371545609e-3,  -6.9679827707407534e-2, 0.61586944642201048};
};

// 2^kSpareBits exp(-(high + low)) for high, low >= 0, low small beside high.
template <typename T>
inline Vector<T> exp_spare(const Vector<T>& high, const Vector<T>& low) {
  using K = ExpConstants<T>;
  const Vector<T> x = Vector<T>{} - (high + low);
  const Vector<T> shifted = x * K::log2e + (K::round + T(kSpareBits));
  const Vector<T> n = shifted - (K::round + T(kSpareBits));
  const Vector<T> f = ((Vector<T>{} - high - n * K::ln2_high) - n * K::ln2_low) - low;
  const Vector<T> value = scaled_exp<T>(shifted, f);
  return x < ElementaryConstants<T>::lowest ? Vector<T>{} : value;
}

// log(1 + x) for 0 <= x <= 1 as 2 atanh(x / (2 + x)).
template <typename T>
inline Vector<T> log1p_unit(const Vector<T>& x) {
  const Vector<T> s = x / (x + T(2));
  const Vector<T> twice = s + s, z = s * s;
  return twice + twice * (z * polynomial<T>(ElementaryConstants<T>::atanh, z));
}

// tanh: a polynomial near zero, 1 - 2 / (1 + exp(2 x)) elsewhere.
template <typename T>
inline Vector<T> hyperbolic_tangent(const Vector<T>& x) {
  const Vector<T> a = magnitude<T>(x), z = a * a;
  const Vector<T> near = a + a * (z * polynomial<T>(ElementaryConstants<T>::tanh, z));
  const Vector<T> e = exp_nonpositive<T>(a * T(-2));
  const Vector<T> far = T(1) - (e + e) / (e + T(1));
  return with_sign_of<T>(x, a < T(0.625) ? near : far);
}

// Of the normal distribution at a >= 0: 2^kSpareBits exp(-a^2 / 2), and P(X > a) without that exponential, after
// Shepherd and Laframboise 1981 (Chebyshev approximation of (1 + 2 x) exp(x^2) erfc(x)). a is at most `far`.
template <typename T>
struct NormalTail {
  Vector<T> exponential, factor;

  explicit NormalTail(const Vector<T>& a) {
    using K = ElementaryConstants<T>;
    // a^2 in two parts, the first without rounding: an error of the exponent is one of the result
    const Vector<T> high = reinterpret_cast<Vector<T>>(reinterpret_cast<Integers<T>>(a) & K::high_mask);
    exponential = exp_spare<T>(high * high * T(0.5), (a - high) * (a + high) * T(0.5));
    const Vector<T> sum = a + K::middle, line = a * T(1.4140625) + T(1);
    const Vector<T> inverse = T(1) / (sum * line);
    factor = polynomial<T>(K::tail, ((a - K::middle) * line) * inverse) * (sum * inverse);
  }
};

}  // namespace
