// How many threads a call may use.
#pragma once

#include <cstdint>

namespace onepass::runtime {

// Below this many bytes of memory traffic (or the time that they stand for) waking a second thread costs more than it
// brings; measured, docs/performance.md.
inline constexpr std::int64_t kSerialBytes = 512 * 1024;
// One byte of traffic takes about as long as this many floating-point operations of a matrix product.
inline constexpr std::int64_t kFlopsPerByte = 2;

int get_threads();
void set_threads(int threads);       // 0: the default
void set_host_threads(int threads);  // of the calling thread, before those of set_threads; 0: none
int get_host_threads();

// Threads for work of this size: 1 below kSerialBytes.
int team_size(int requested, std::int64_t tasks, std::int64_t bytes);

}  // namespace onepass::runtime
