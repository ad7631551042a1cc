// Functions of one double, for the constants of a step, from + - * / and moves of the exponent alone: the same bits on
// every platform, which libm's exp, log and pow do not promise. Their twins stand in python/onepass/_update_steps.py.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/math.hpp"

namespace {

// base^exponent by repeated squaring
inline double power(double base, std::int64_t exponent) {
  double result = 1.0;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result *= base;
    base *= base;
  }
  return result;
}

// A sum of two doubles, the second below half a unit in the last place of the first; products as in Dekker 1971.
struct DoubleDouble {
  double high, low;
};

inline DoubleDouble multiply(DoubleDouble a, DoubleDouble b) {
  const auto upper = [](double x) {  // its leading 26 bits
    const double c = 134217729.0 * x;
    return c - (c - x);
  };
  const double a1 = upper(a.high), a2 = a.high - a1, b1 = upper(b.high), b2 = b.high - b1;
  const double product = a.high * b.high;
  const double rounded_off = (((a1 * b1 - product) + a1 * b2) + a2 * b1) + a2 * b2;
  const double rest = rounded_off + (a.high * b.low + a.low * b.high);
  const double high = product + rest;
  return {high, rest - (high - product)};
}

// base^exponent for |base| <= 1, rounded once, for what subtracts it from a number near to it
inline double accurate_power(double base, std::int64_t exponent) {
  DoubleDouble result = {1.0, 0.0}, factor = {base, 0.0};
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = multiply(result, factor);
    factor = multiply(factor, factor);
  }
  return result.high;
}

// exp(x) within 1 unit in the last place; zero below -708 and infinity above 709
inline double exponential(double x) {
  using K = ExpConstants<double>;
  if (!(x >= -708.0)) return x != x ? x : 0.0;
  if (x > 709.0) return std::numeric_limits<double>::infinity();
  const auto n = static_cast<std::int64_t>(x * K::log2e + (x < 0.0 ? -0.5 : 0.5));
  const auto whole = static_cast<double>(n);
  const double r = (x - whole * K::ln2_high) - whole * K::ln2_low;
  double p = 0.0;  // r / 14 (1 + r / 13 (1 + ...)): Taylor's polynomial without a table
  for (int k = 14; k >= 2; --k) p = (p + 1.0) * (r / k);
  p = (p * r + r) + 1.0;
  return p * std::bit_cast<double>(static_cast<std::uint64_t>(n + 1023) << 52);
}

// log(x) within 1 unit in the last place; NaN for what is negative, zero or subnormal
inline double logarithm(double x) {
  return x >= std::numeric_limits<double>::min() ? log_positive(x) : std::numeric_limits<double>::quiet_NaN();
}

// base^exponent for a real exponent and base > 0
inline double real_power(double base, double exponent) { return exponential(exponent * logarithm(base)); }

}  // namespace
