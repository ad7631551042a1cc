// Elements of arrays in any storage format and with any strides, moved in short runs to dense buffers of the type that
// is computed in, and back.
#pragma once

#include <algorithm>
#include <cstring>

#include "api/arrays.hpp"
#include "kernels/table.hpp"

namespace onepass::api {

constexpr std::int64_t kStage = 512;  // elements of a run: a few buffers of it stay in the first-level cache

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

}  // namespace onepass::api
