// Storage formats: decoded to the type that is computed in, encoded by rounding to nearest even, or stochastically.
// Bit moves and exact operations only, so the bits are those of any correct conversion, at every level.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/loops.hpp"
#include "kernels/table.hpp"

namespace {

using Half = std::uint16_t;  // the bits of a float16 or bfloat16

// Thirty-two random bits of a counter (Wellons' search for integer hashes, 2018: low bias of every bit on every bit).
inline std::uint32_t random_bits(std::uint32_t counter) {
  counter ^= counter >> 16;
  counter *= 0x21f0aaadU;
  counter ^= counter >> 15;
  counter *= 0x735a2d97U;
  counter ^= counter >> 15;
  return counter;
}

struct BFloat16 {
  static constexpr std::uint32_t kNaN = 0x7fc0U;  // one for all: processors differ in sign and payload

  static float decode(Half h) { return std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16); }
  // added: what is added to the bits below the last that is kept; it never carries out of an infinity
  static Half pack(float x, std::uint32_t added) {
    const std::uint32_t rounded = (std::bit_cast<std::uint32_t>(x) + added) >> 16;
    return static_cast<Half>(x == x ? rounded : kNaN);
  }
  static Half nearest(float x) { return pack(x, 0x7fffU + ((std::bit_cast<std::uint32_t>(x) >> 16) & 1U)); }
  static Half stochastic(float x, std::uint32_t random) { return pack(x, random & 0xffffU); }
};

struct Float16 {
  static constexpr std::uint32_t kNaN = 0x7e00U;
  static constexpr std::uint32_t kRebias = 112U << 23;          // exponents: float's bias less float16's
  static constexpr std::uint32_t kSmallestNormal = 113U << 23;  // 2^-14

  static float decode(Half h) {
    const std::uint32_t magnitude = h & 0x7fffU, exponent = h & 0x7c00U;
    // a subnormal is a whole number of 2^-24; as a float it is normal, so that nothing is flushed
    const float small = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24F;
    const std::uint32_t large = (magnitude << 13) + kRebias + (exponent == 0x7c00U ? kRebias : 0U);
    const std::uint32_t bits = exponent == 0U ? std::bit_cast<std::uint32_t>(small) : large;
    return std::bit_cast<float>(bits | (static_cast<std::uint32_t>(h & 0x8000U) << 16));
  }
  static Half pack(std::uint32_t u, std::uint32_t added, std::uint32_t small) {
    const std::uint32_t magnitude = u & 0x7fffffffU;
    std::uint32_t h = (magnitude + added - kRebias) >> 13;
    h = h > 0x7c00U ? 0x7c00U : h;  // infinity
    h = magnitude < kSmallestNormal ? small : h;
    h |= (u >> 16) & 0x8000U;
    return static_cast<Half>(magnitude > 0x7f800000U ? kNaN : h);
  }
  static Half nearest(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const float magnitude = std::bit_cast<float>(u & 0x7fffffffU);
    // the last bit of a number just above 1/2 is worth 2^-24
    const std::uint32_t small = std::bit_cast<std::uint32_t>(magnitude + 0.5F) - std::bit_cast<std::uint32_t>(0.5F);
    return pack(u, 0xfffU + ((u >> 13) & 1U), small);
  }
  static Half stochastic(float x, std::uint32_t random) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t magnitude = u & 0x7fffffffU, added = random & 0x1fffU;
    const float kept = magnitude < kSmallestNormal ? std::bit_cast<float>(magnitude) : 0.0F;
    const auto fixed = static_cast<std::uint32_t>(static_cast<std::int32_t>(kept * 0x1p37F));  // in 2^-37
    return pack(u, added, (fixed + added) >> 13);
  }
};

template <typename Format, typename T>
void decode_half(const void* from, T* to, std::int64_t n) {
  const Half* __restrict in = static_cast<const Half*>(from);
  T* __restrict out = to;
  for_each_ahead<Half>(
      0, n, [&](std::int64_t i) { out[i] = static_cast<T>(Format::decode(in[i])); }, in);
}

// Beside states in blocks, two elements of a parameter share 32 random bits, and the second takes them turned.
constexpr std::int64_t kPairDistance = 16;
inline std::uint32_t second_of_pair(std::uint32_t random) { return std::rotl(random, 20); }

// 32 random bits for each of n elements, the first with random_bits(counter). In pairs: it begins a pair.
template <bool pairs>
void fill_random(std::uint32_t counter, std::uint32_t* out, std::int64_t n) {
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) {
    const bool second = pairs && (i & kPairDistance) != 0;
    const std::uint32_t random = random_bits(counter + static_cast<std::uint32_t>(pairs ? i & ~kPairDistance : i));
    out[i] = second ? second_of_pair(random) : random;
  }
}

// Sixteen bits for each of an element's arrays from its 32: any two arrays' bits are independent.
template <std::size_t array>
std::uint32_t bits_for(std::uint32_t random) {
  const std::uint32_t low = random & 0xffffU, high = random >> 16;
  return array == 0 ? low : array == 1 ? high : array == 2 ? low ^ high : (low + high) & 0xffffU;
}

template <typename Format, std::size_t array>
void encode_stochastic(const float* __restrict in, Half* __restrict out, std::int64_t n,
                       const std::uint32_t* __restrict random) {
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) out[i] = Format::stochastic(in[i], bits_for<array>(random[i]));
}

template <typename Format>
void encode_half(const float* from, void* to, std::int64_t n, const std::uint32_t* random, int array) {
  const float* __restrict in = from;
  Half* __restrict out = static_cast<Half*>(to);
  if (random == nullptr) {
    ONEPASS_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) out[i] = Format::nearest(in[i]);
    return;
  }
  switch (array) {
    case 0: return encode_stochastic<Format, 0>(in, out, n, random);
    case 1: return encode_stochastic<Format, 1>(in, out, n, random);
    case 2: return encode_stochastic<Format, 2>(in, out, n, random);
    default: return encode_stochastic<Format, 3>(in, out, n, random);
  }
}

template <typename From, typename T>
void decode_float(const void* from, T* to, std::int64_t n) {
  const From* __restrict in = static_cast<const From*>(from);
  T* __restrict out = to;
  for_each_ahead<From>(
      0, n, [&](std::int64_t i) { out[i] = static_cast<T>(in[i]); }, in);
}

template <typename T>
void encode_same(const T* from, void* to, std::int64_t n, const std::uint32_t*, int) {
  std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
}

// float32 numbers whose upper halves, a bfloat16 array, and lower halves are kept apart.
inline void join_halves(const void* upper, const void* lower, float* to, std::int64_t n) {
  const Half* __restrict high = static_cast<const Half*>(upper);
  const Half* __restrict low = static_cast<const Half*>(lower);
  float* __restrict out = to;
  for_each_ahead<Half>(
      0, n,
      [&](std::int64_t i) {
        out[i] = std::bit_cast<float>((static_cast<std::uint32_t>(high[i]) << 16) | static_cast<std::uint32_t>(low[i]));
      },
      high, low);
}
inline void split_halves(const float* from, void* upper, void* lower, std::int64_t n) {
  const float* __restrict in = from;
  Half* __restrict high = static_cast<Half*>(upper);
  Half* __restrict low = static_cast<Half*>(lower);
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(in[i]);
    high[i] = static_cast<Half>(bits >> 16);
    low[i] = static_cast<Half>(bits & 0xffffU);
  }
}

// In the order of onepass_dtype's first four.
template <typename T>
constexpr onepass::Codecs<T> codecs();
template <>
constexpr onepass::Codecs<float> codecs() {
  return {{{decode_float<float, float>, encode_same<float>},
           {decode_float<double, float>, nullptr},
           {decode_half<Float16, float>, encode_half<Float16>},
           {decode_half<BFloat16, float>, encode_half<BFloat16>}}};
}
template <>
constexpr onepass::Codecs<double> codecs() {
  return {{{decode_float<float, double>, nullptr},
           {decode_float<double, double>, encode_same<double>},
           {decode_half<Float16, double>, nullptr},
           {decode_half<BFloat16, double>, nullptr}}};
}

}  // namespace
