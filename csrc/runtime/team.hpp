// The one team of threads. Work is a number of tasks that write apart from one another; each thread takes one
// consecutive share of them, so that a thread streams through memory and meets the same data again in the next call.
#pragma once

#include <cstdint>
#include <type_traits>

namespace onepass::runtime {

// Below this many bytes of memory traffic (or the time that they stand for) waking a second thread costs more than it
// brings; measured, docs/performance.md.
inline constexpr std::int64_t kSerialBytes = 512 * 1024;
// One byte of traffic takes about as long as this many floating-point operations of a matrix product.
inline constexpr std::int64_t kFlopsPerByte = 2;

int get_threads();
void set_threads(int threads);  // 0: the default

// Threads for work of this size: 1 in a forked child, inside another parallel region, and below kSerialBytes.
int team_size(int requested, std::int64_t tasks, std::int64_t bytes);

using Body = void (*)(void* context, int thread, int threads);
void run_team(int threads, Body body, void* context);

// body(begin, end) on every thread's share of [0, tasks). Subnormals are flushed inside.
template <typename F>
void parallel(int threads, std::int64_t tasks, F&& body) {
  struct Context {
    std::remove_reference_t<F>* body;
    std::int64_t tasks;
  } context{&body, tasks};
  run_team(
      threads,
      [](void* p, int thread, int count) {
        const auto& c = *static_cast<Context*>(p);
        const std::int64_t share = c.tasks / count, rest = c.tasks % count;
        const std::int64_t begin = share * thread + (thread < rest ? thread : rest);
        const std::int64_t end = begin + share + (thread < rest ? 1 : 0);
        if (begin < end) (*c.body)(begin, end);
      },
      &context);
}

}  // namespace onepass::runtime
