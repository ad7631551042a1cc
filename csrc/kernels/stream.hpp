// A loop that moves bytes and computes next to nothing: the machine's limit for a kernel's streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/loops.hpp"

namespace {

constexpr int kMaxReads = 3, kMaxUpdates = 5, kMaxWrites = 2;

template <std::size_t reads, std::size_t updates, std::size_t writes, std::size_t... k>
void stream_loop(float* const* arrays, std::int64_t begin, std::int64_t end, std::index_sequence<k...>) {
  float* const own[] = {arrays[k]...};
  for_each_ahead<float>(
      begin, end,
      [&](std::int64_t i) {
        float sum = 1.0F;
        for (std::size_t s = 0; s < reads; ++s) sum += own[s][i];
        for (std::size_t s = reads; s < reads + updates; ++s) own[s][i] = sum - own[s][i];
        for (std::size_t s = reads + updates; s < sizeof...(k); ++s) own[s][i] = sum;
      },
      arrays[k]...);
}

template <std::size_t reads, std::size_t updates, std::size_t writes>
void stream_loop(float* const* arrays, std::int64_t begin, std::int64_t end) {
  if constexpr (reads + updates + writes > 0)
    stream_loop<reads, updates, writes>(arrays, begin, end, std::make_index_sequence<reads + updates + writes>());
}

// Some compiler must not find that a loop without outputs is dead: reads alone are summed into the caller's array.
inline void stream(float* const* arrays, std::size_t reads, std::size_t updates, std::size_t writes, std::int64_t begin,
                   std::int64_t end) {
  using Loop = void (*)(float* const*, std::int64_t, std::int64_t);
#define ONEPASS_UPDATES(r, w) \
  { stream_loop<r, 0, w>, stream_loop<r, 1, w>, stream_loop<r, 2, w>, stream_loop<r, 3, w>, stream_loop<r, 4, w> }
#define ONEPASS_WRITES(r) \
  { ONEPASS_UPDATES(r, 0), ONEPASS_UPDATES(r, 1) }
  static constexpr Loop loops[3][2][5] = {ONEPASS_WRITES(0), ONEPASS_WRITES(1), ONEPASS_WRITES(2)};
#undef ONEPASS_WRITES
#undef ONEPASS_UPDATES
  loops[reads][writes][updates](arrays, begin, end);
}

}  // namespace
