// The one team of threads. Work is a number of tasks that write apart from one another.
//
// Nobody waits for a thread that has not begun (shares.hpp): one that another pool (BLAS, OpenMP) keeps from its core
// costs what it would have done, no more; a barrier would cost the scheduler's time slice (docs/performance.md).
#pragma once

#include <cstdint>
#include <type_traits>

namespace onepass::runtime {

using Body = void (*)(void* context, std::int64_t begin, std::int64_t end);

// body on ranges that together are [0, tasks), on up to `threads` threads: the host's, where the calling thread has set
// a parallel-for, else the team's. Serial in a forked child, and while the team works for another caller. Subnormals
// are flushed inside. An exception of body's is passed on.
void run_team(int threads, std::int64_t tasks, Body body, void* context);

// Whether this process is the child of a fork: the team's threads and every host's are its parent's alone.
bool is_forked();

// body(begin, end)
template <typename F>
void parallel(int threads, std::int64_t tasks, F&& body) {
  run_team(
      threads, tasks,
      [](void* p, std::int64_t begin, std::int64_t end) { (*static_cast<std::remove_reference_t<F>*>(p))(begin, end); },
      &body);
}

}  // namespace onepass::runtime
