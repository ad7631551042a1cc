// A loop that moves bytes and computes next to nothing: the machine's limit for a kernel's streams.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/loops.hpp"

namespace {

constexpr int kMaxReads = 3, kMaxUpdates = 5, kMaxWrites = 2;

template <int reads, int updates, int writes>
void stream_loop(float* const* arrays, std::int64_t begin, std::int64_t end) {
  const float* read[kMaxReads] = {};
  float* update[kMaxUpdates] = {};
  float* write[kMaxWrites] = {};
  for (int k = 0; k < reads; ++k) read[k] = arrays[k];
  for (int k = 0; k < updates; ++k) update[k] = arrays[reads + k];
  for (int k = 0; k < writes; ++k) write[k] = arrays[reads + updates + k];
  ONEPASS_INDEPENDENT
  for (std::int64_t i = begin; i < end; ++i) {
    float sum = 1.0F;
    for (int k = 0; k < reads; ++k) sum += read[k][i];
    for (int k = 0; k < updates; ++k) update[k][i] = sum - update[k][i];
    for (int k = 0; k < writes; ++k) write[k][i] = sum;
  }
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
