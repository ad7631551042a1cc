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
  static constexpr float round = 12582912.0F;    // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  static constexpr float lowest = -87.3365402F;  // below it the result is subnormal, and flushed
  static constexpr int mantissa = 23;
  static constexpr std::int32_t bias = 127;
  // 1/k!, k = 7 ... 2: truncation below 2^-27 for |r| <= 0.3466
  static constexpr float taylor[] = {1.98412698e-4F, 1.38888889e-3F, 8.33333333e-3F,
                                     4.16666667e-2F, 1.66666667e-1F, 0.5F};
};

template <>
struct ExpConstants<double> {
  static constexpr double log2e = 1.44269504088896340736;
  static constexpr double ln2_high = 0.693145751953125;
  static constexpr double ln2_low = 1.42860682030941723212e-6;
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double lowest = -708.39641853226408;
  static constexpr int mantissa = 52;
  static constexpr std::int64_t bias = 1023;
  // 1/k!, k = 13 ... 2
  static constexpr double taylor[] = {1.6059043836821614599e-10, 2.0876756987868098979e-9, 2.5052108385441718775e-8,
                                      2.7557319223985890653e-7,  2.7557319223985890653e-6, 2.4801587301587301587e-5,
                                      1.9841269841269841270e-4,  1.3888888888888888889e-3, 8.3333333333333333333e-3,
                                      4.1666666666666666667e-2,  1.6666666666666666667e-1, 0.5};
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
    const Vector shifted = x.v[i] * K::log2e + K::round;
    const Vector n = shifted - K::round;
    const Vector f = (x.v[i] - n * K::ln2_high) - n * K::ln2_low;
    // pairs of coefficients, then Horner in f^2: half the latency of Horner in f
    const Vector f2 = f * f;
    Vector p = f * K::taylor[0] + K::taylor[1];
    for (std::size_t k = 2; k < sizeof(K::taylor) / sizeof(T); k += 2)
      p = p * f2 + (f * K::taylor[k] + K::taylor[k + 1]);
    p = (p * f2 + f) + T(1);
    const Integers scale = (reinterpret_cast<Integers>(shifted) + K::bias) << K::mantissa;
    const Vector value = p * reinterpret_cast<Vector>(scale);
    r.v[i] = x.v[i] < K::lowest ? Vector{} : value;
  }
  return r;
}

// log(x) for x > 0 and not subnormal; inf and NaN pass through. Within 1 unit in the last place.
// x = 2^e m, m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m-1)/(m+1).
inline double log_positive(double x) {
  if (!(x < std::numeric_limits<double>::infinity())) return x;
  const auto bits = std::bit_cast<std::uint64_t>(x);
  // moves the split of the exponent from 1 to sqrt(1/2)
  const std::uint64_t moved = bits + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu);
  const auto e = static_cast<std::int64_t>(moved >> 52) - 1023;
  const double m = std::bit_cast<double>((moved & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu);
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  double tail = 0.0;  // sum of z^k / (2k + 1), k = 1 ... 11
  for (int k = 11; k >= 1; --k) tail = (tail + 1.0 / (2 * k + 1)) * z;
  // f - s f + 2 s tail, with s f = f^2 / (2 + f), keeps the leading term exact; e ln2 is split as in exp
  const double n = static_cast<double>(e);
  const double low = n * ExpConstants<double>::ln2_low - s * (f - 2.0 * tail);
  return (n * ExpConstants<double>::ln2_high + (low + f));
}

// log(1 + x) for x >= 0; exact to rounding for small x too (Kahan's correction of the rounded sum).
inline double log1p_nonnegative(double x) {
  const double u = 1.0 + x;
  if (!(u < std::numeric_limits<double>::infinity())) return u;
  const double lost = x - (u - 1.0);
  return log_positive(u) + lost / u;
}

}  // namespace
