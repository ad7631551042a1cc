// exp and log from + - * and bit moves: no libm, no fused multiply-add, so the bits are the same on every machine.
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

// exp(x) for x <= 0 (or NaN): within 2 units in the last place; zero where the result would be subnormal.
template <typename T>
inline Lanes<T> exp_nonpositive(const Lanes<T>& x) {
  using L = Lanes<T>;
  using K = ExpConstants<T>;
  using Vector = typename L::Vector;
  using Integers = typename L::Integers;
  L r;
  for (int i = 0; i < L::kVectors; ++i) {
    // Adding `round` leaves the nearest integer n, plus the bias of an exponent, in the low bits of `shifted`.
    const Vector shifted = x.v[i] * K::log2e + K::round;
    const Vector n = shifted - K::round;
    const Vector f = (x.v[i] - n * K::ln2_high) - n * K::ln2_low;
    // pairs of coefficients, then Horner in f^2: half the latency of Horner in f
    const Vector f2 = f * f;
    Vector p = K::tail[0] - Vector{};
    for (std::size_t k = 1; k < sizeof(K::tail) / sizeof(T); k += 2) p = p * f2 + (f * K::tail[k] + K::tail[k + 1]);
    p = (p * f2 + f) + T(1);
    const Vector value = p * reinterpret_cast<Vector>(reinterpret_cast<Integers>(shifted) << K::mantissa);
    r.v[i] = x.v[i] < K::lowest ? Vector{} : value;
  }
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

}  // namespace
