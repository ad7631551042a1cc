// Elements of arrays in any storage format and with any strides, moved in short runs to dense buffers of the type that
// is computed in, and back.
#pragma once

#include <algorithm>
#include <cstring>

#include "api/plan.hpp"
#include "kernels/table.hpp"

namespace onepass::api {

constexpr std::int64_t kStage = 256;  // elements of a run: a few buffers of it stay in the first-level cache

// Copies n elements of `item` bytes that lie `step` bytes apart to a dense run; n <= kStage.
inline void gather_items(const char* from, std::int64_t step, std::size_t item, char* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) std::memcpy(to + static_cast<std::size_t>(i) * item, from + i * step, item);
}
inline void scatter_items(const char* from, char* to, std::int64_t step, std::size_t item, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) std::memcpy(to + i * step, from + static_cast<std::size_t>(i) * item, item);
}

// One operand of a layout.
struct Stored {
  char* data;
  std::int32_t dtype;
  int operand;
};

// Elements [begin, end) of the layout's order, at most kStage of them, into a dense run of T.
template <typename T>
void stage_in(const Codecs<T>& codecs, const Layout& layout, const Stored& a, std::int64_t begin, std::int64_t end,
              T* to) {
  alignas(64) char raw[kStage * sizeof(double)];
  const std::int64_t step = layout.strides[a.operand][layout.ndim - 1], item = itemsize(a.dtype);
  const Codec<T>& codec = codecs.of[a.dtype];
  layout.walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
    const char* from = a.data + at[a.operand];
    if (step != item) {
      gather_items(from, step, static_cast<std::size_t>(item), raw, length);
      from = raw;
    }
    codec.decode(from, to, length);
    to += length;
  });
}

// The way back; random and array as for Codec::encode.
template <typename T>
void stage_out(const Codecs<T>& codecs, const Layout& layout, const Stored& a, std::int64_t begin, std::int64_t end,
               const T* from, const std::uint32_t* random, int array) {
  alignas(64) char raw[kStage * sizeof(double)];
  const std::int64_t step = layout.strides[a.operand][layout.ndim - 1], item = itemsize(a.dtype);
  const Codec<T>& codec = codecs.of[a.dtype];
  layout.walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
    char* to = a.data + at[a.operand];
    codec.encode(from, step == item ? to : raw, length, random, array);
    if (step != item) scatter_items(raw, to, step, static_cast<std::size_t>(item), length);
    from += length;
    if (random != nullptr) random += length;
  });
}

// ---- float32 numbers in two halves

// Items of an array where they are, or gathered into a buffer.
inline const char* items_of(const Layout& layout, const Stored& a, std::int64_t begin, std::int64_t end, char* buffer) {
  const auto item = static_cast<std::size_t>(itemsize(a.dtype));
  const std::int64_t step = layout.strides[a.operand][layout.ndim - 1];
  if (layout.ndim == 1 && step == itemsize(a.dtype)) return a.data + begin * step;
  char* to = buffer;
  layout.walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
    gather_items(a.data + at[a.operand], step, item, to, length);
    to += static_cast<std::size_t>(length) * item;
  });
  return buffer;
}

inline void load_halves(const KernelTable& table, const Layout& layout, const Stored& upper, const Stored& lower,
                        std::int64_t begin, std::int64_t end, float* to) {
  alignas(64) char raw[2][kStage * sizeof(std::uint16_t)];
  table.join_halves(items_of(layout, upper, begin, end, raw[0]), items_of(layout, lower, begin, end, raw[1]), to,
                    end - begin);
}

inline void store_halves(const KernelTable& table, const Layout& layout, const Stored& upper, const Stored& lower,
                         std::int64_t begin, std::int64_t end, const float* from) {
  const Stored* halves[] = {&upper, &lower};
  const auto dense = [&](const Stored& a) {
    return layout.ndim == 1 && layout.dense(a.operand, sizeof(std::uint16_t));
  };
  if (dense(upper) && dense(lower)) {
    const auto at = static_cast<std::size_t>(begin) * sizeof(std::uint16_t);
    table.split_halves(from, upper.data + at, lower.data + at, end - begin);
    return;
  }
  alignas(64) char raw[2][kStage * sizeof(std::uint16_t)];
  table.split_halves(from, raw[0], raw[1], end - begin);
  for (int i = 0; i < 2; ++i) {
    const Stored& a = *halves[i];
    const std::int64_t step = layout.strides[a.operand][layout.ndim - 1];
    const char* source = raw[i];
    layout.walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
      scatter_items(source, a.data + at[a.operand], step, sizeof(std::uint16_t), length);
      source += static_cast<std::size_t>(length) * sizeof(std::uint16_t);
    });
  }
}

// ---- 8-bit blocks: all codes of an array, then all scales

constexpr std::int64_t kBlockElements = 128;
static_assert(kStage % kBlockElements == 0);

inline std::int64_t block_count(std::int64_t elements) { return (elements + kBlockElements - 1) / kBlockElements; }

inline std::uint8_t* block_scales(char* data, std::int64_t elements) {
  return reinterpret_cast<std::uint8_t*>(data + block_count(elements) * kBlockElements);
}

// Elements [begin, end), begin a multiple of a block's; `to` has room for whole blocks.
inline void load_blocks(const BlockCodec& codec, char* data, std::int64_t elements, std::int64_t begin,
                        std::int64_t end, float* to) {
  codec.decode(data + begin, block_scales(data, elements) + begin / kBlockElements, to, block_count(end - begin));
}

inline void store_blocks(const BlockCodec& codec, char* data, std::int64_t elements, std::int64_t begin,
                         std::int64_t end, float* from, const std::uint32_t* random, int state) {
  const std::int64_t blocks = block_count(end - begin);
  std::fill(from + (end - begin), from + blocks * kBlockElements, 0.0F);  // behind the last element
  codec.encode(from, data + begin, block_scales(data, elements) + begin / kBlockElements, blocks, random, state);
}

// ---- keys of stochastic rounding

inline std::uint64_t mix(std::uint64_t x) {  // SplitMix64 (Steele, Lea and Flood 2014)
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

// high: the index's bits above the lowest 32.
inline std::uint32_t rounding_key(std::uint64_t seed, std::int64_t step, std::size_t tensor, std::int64_t high) {
  std::uint64_t key = mix(seed);
  for (const std::uint64_t part :
       {static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(tensor), static_cast<std::uint64_t>(high)})
    key = mix(key ^ part);
  return static_cast<std::uint32_t>(key >> 32);
}

// The counters of a tensor's random bits in one step. A key serves 2^32 elements.
class RandomBits {
 public:
  RandomBits(const onepass_plan& plan, std::int64_t step, std::size_t tensor)
      : seed_(plan.seed), step_(step), tensor_(tensor), stochastic_(plan.stochastic) {}

  std::int64_t until(std::int64_t index) const { return ((index >> 32) + 1) << 32; }  // where the key ends
  std::uint32_t counter(std::int64_t index) {
    if (!stochastic_) return 0;
    if (index >> 32 != high_) {
      high_ = index >> 32;
      key_ = rounding_key(seed_, step_, tensor_, high_);
    }
    return key_ + static_cast<std::uint32_t>(index);
  }

 private:
  std::uint64_t seed_;
  std::int64_t step_;
  std::size_t tensor_;
  bool stochastic_;
  std::int64_t high_ = -1;
  std::uint32_t key_ = 0;
};

}  // namespace onepass::api
