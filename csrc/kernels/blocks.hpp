// States in 8 bits: blocks of 128 small floating-point numbers that share a power of two, the scale.
//
// A block's scale is the exponent byte of its largest magnitude (0: all are zero; 255: one was not finite, and then
// none is any more). A code has three bits of mantissa; its exponent counts up to the largest number's:
//   signed        sign, E (4 bits), m   +-(2^E (1 + m/8) - 1) 2^(scale - 127 - 14): gradual down to zero, as in mu-law
//   never negative      E (5 bits), m     2^E (1 + m/8)       2^(scale - 127 - 30): never zero in a block that is not,
//                                       so that nothing divides by a second moment that was lost
// The top exponent is free for what is rounded up. Codes of 64 numbers lie in sixteen words: word k holds numbers k,
// 16 + k, 32 + k and 48 + k, from its lowest byte on, so that no level has to move bytes across lanes.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/formats.hpp"

namespace {

constexpr std::int64_t kBlockNumbers = 128;
constexpr std::uint32_t kSmallestScale = 32;  // below it, scales of the lowest codes would be subnormal

template <bool nonnegative>
struct BlockCode {
  static constexpr std::uint32_t kRange = nonnegative ? 30 : 14;  // exponent of the largest number
  static constexpr std::uint32_t kOne = 127U << 23, kTwo = 128U << 23;
  static constexpr std::uint32_t kMask = nonnegative ? 0xffU << 20 : 0x7fU << 20;

  static float scale(std::uint32_t exponent) {
    return std::bit_cast<float>((exponent == 0 || exponent == 255 ? exponent : exponent - kRange - 1) << 23);
  }
  // code: the byte at bits 20 to 27 (others: anything); top: at bits 24 to 31. Twice the number, in units of the scale.
  static float decode(std::uint32_t code, std::uint32_t top, float scale) {
    const float number = std::bit_cast<float>((code & kMask) | kTwo);
    if constexpr (nonnegative) return number * scale;
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>((number - 2.0F) * scale);
    return std::bit_cast<float>(magnitude | (top & 0x80000000U));
  }
  // What encode() adds for `added`, twenty bits: it takes kOne away as well.
  static std::uint32_t offset(std::uint32_t added) { return added | (0U - kOne); }
  // The byte at bits 20 to 27, garbage below.
  static std::uint32_t encode(float x, float inverse, std::uint32_t offset) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if constexpr (nonnegative) {
      const auto number = std::bit_cast<std::int32_t>(x * inverse);
      constexpr auto one = static_cast<std::int32_t>(kOne);
      return static_cast<std::uint32_t>(number > one ? number : one) + offset;
    }
    const float number = std::bit_cast<float>(bits & 0x7fffffffU) * inverse + 1.0F;
    const std::uint32_t code = std::bit_cast<std::uint32_t>(number) + offset;
    return code | ((bits >> 4) & 0x08000000U);
  }
};

template <int bits>
std::uint32_t shifted(std::uint32_t x) {
  if constexpr (bits >= 0)
    return x << bits;
  else
    return x >> -bits;
}

// visit(std::integral_constant<int, 0>) ... of a word's four bytes
template <typename Visit>
void for_bytes(Visit&& visit) {
  visit(std::integral_constant<int, 0>{});
  visit(std::integral_constant<int, 1>{});
  visit(std::integral_constant<int, 2>{});
  visit(std::integral_constant<int, 3>{});
}

template <bool nonnegative>
void decode_blocks(const void* codes, const std::uint8_t* scales, float* to, std::int64_t blocks) {
  using Code = BlockCode<nonnegative>;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::uint32_t* __restrict words = static_cast<const std::uint32_t*>(codes) + block * (kBlockNumbers / 4);
    float* __restrict out = to + block * kBlockNumbers;
    for (int line = 0; line < kBlockNumbers; line += 64) prefetch(words, line + 1024);
    const float scale = Code::scale(scales[block]);
    for (int half = 0; half < 2; ++half) {
      ONEPASS_INDEPENDENT
      for (int k = 0; k < 16; ++k) {
        const std::uint32_t word = words[16 * half + k];
        for_bytes([&](auto byte) {
          out[64 * half + 16 * byte + k] =
              Code::decode(shifted<20 - 8 * byte>(word), shifted<24 - 8 * byte>(word), scale);
        });
      }
    }
  }
}

// Twenty bits for each of an element's states from its 32: windows whose highest bits, which decide nearly always, lie
// eight apart, from the param's (bits_for<0>) as well.
template <int state>
std::uint32_t block_bits_for(std::uint32_t random) {
  return std::rotl(random, 12 + 8 * state) & 0xfffffU;
}

template <bool nonnegative, bool stochastic, int state>
inline __attribute__((always_inline)) void encode_block_codes(const float* __restrict in,
                                                              std::uint32_t* __restrict words, float inverse,
                                                              const std::uint32_t* __restrict random) {
  for (int half = 0; half < 2; ++half) {
    ONEPASS_INDEPENDENT
    for (int k = 0; k < 16; ++k) {
      std::uint32_t word = 0;
      for_bytes([&](auto byte) {
        const int i = 64 * half + 16 * byte + k;
        const std::uint32_t added = stochastic ? block_bits_for<state>(random[i]) : 0x80000U;
        const std::uint32_t code =
            BlockCode<nonnegative>::encode(in[i], inverse, BlockCode<nonnegative>::offset(added));
        word |= shifted<8 * byte - 20>(code) & (0xffU << (8 * byte));
      });
      words[16 * half + k] = word;
    }
  }
}

// Largest magnitudes (as bits) of a block's numbers, by lane of sixteen.
struct BlockMaximum {
  std::uint32_t lane[16];

  void see(int k, float x) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x) & 0x7fffffffU;
    lane[k] = magnitude > lane[k] ? magnitude : lane[k];
  }
  std::uint32_t exponent() const {
    typedef std::uint32_t Four __attribute__((vector_size(16), aligned(4), may_alias));
    const Four* four = reinterpret_cast<const Four*>(lane);
    const Four low = four[0] > four[1] ? four[0] : four[1], high = four[2] > four[3] ? four[2] : four[3];
    const Four both = low > high ? low : high;
    const std::uint32_t even = both[0] > both[2] ? both[0] : both[2], odd = both[1] > both[3] ? both[1] : both[3];
    const std::uint32_t largest = (even > odd ? even : odd) >> 23;
    return largest != 0 && largest < kSmallestScale ? kSmallestScale : largest;
  }
};

// To nearest, ties away from zero, unless stochastic: then with the bits of `state`, as Codec::encode.
template <bool nonnegative, bool stochastic, int state>
void encode_seen_blocks(const float* in, const BlockMaximum* maximum, std::uint32_t* words, std::uint8_t* scales,
                        std::int64_t blocks, const std::uint32_t* random) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::uint32_t exponent = maximum[block].exponent();
    scales[block] = static_cast<std::uint8_t>(exponent);
    if (exponent == 0 || exponent == 255) {
      std::memset(words, 0, kBlockNumbers);
    } else {
      const float inverse = std::bit_cast<float>((254U + BlockCode<nonnegative>::kRange - exponent) << 23);
      encode_block_codes<nonnegative, stochastic, state>(in, words, inverse, random);
    }
    in += kBlockNumbers;
    words += kBlockNumbers / 4;
    if (stochastic) random += kBlockNumbers;
  }
}

constexpr std::int64_t kBlocksAtOnce = 4;

template <bool nonnegative>
void encode_blocks(const float* from, void* codes, std::uint8_t* scales, std::int64_t blocks,
                   const std::uint32_t* random, int state) {
  const auto encode = random == nullptr ? encode_seen_blocks<nonnegative, false, 0>
                      : state == 0      ? encode_seen_blocks<nonnegative, true, 0>
                      : state == 1      ? encode_seen_blocks<nonnegative, true, 1>
                                        : encode_seen_blocks<nonnegative, true, 2>;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t at = block * kBlockNumbers;
    BlockMaximum maximum = {};
    for (int i = 0; i < kBlockNumbers; i += 16)
      for (int k = 0; k < 16; ++k) maximum.see(k, from[at + i + k]);
    encode(from + at, &maximum, static_cast<std::uint32_t*>(codes) + at / 4, scales + block, 1,
           random == nullptr ? nullptr : random + at);
  }
}

}  // namespace
