#include "runtime/team.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#endif

#include "runtime/host.hpp"
#include "runtime/shares.hpp"
#include "runtime/subnormals.hpp"
#include "runtime/threads.hpp"

namespace onepass::runtime {
namespace {

constexpr int kMaxTeam = 256;
constexpr std::int64_t kChunksPerShare = 16;  // the last chunk is what the others may wait for
// A worker looks out for the next job: first without leaving its core, then offering it to every other thread, since
// one that waits for it may be another pool's (measured, docs/performance.md); then it sleeps.
constexpr std::chrono::microseconds kSpin{50}, kYield{2000};

std::atomic<bool> forked{false};  // threads do not survive a fork, a host's neither
[[maybe_unused]] const int watching_forks = pthread_atfork(nullptr, nullptr, [] {
  forked = true;
  set_host(nullptr, nullptr);
  set_host_threads(0);
});

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

struct alignas(64) Worker {
  std::atomic<std::uint32_t> job{0};  // the number of the job that it is called to
  pthread_t thread{};
};

struct Team {
  std::mutex busy;  // held by the caller at work
  int workers = 0;
  Worker worker[kMaxTeam];
  int caller_cpu = -1;  // that the workers keep away from

  // The job: number << 32 | closed | threads inside beside the caller. The fields below change only while it is closed
  // and nobody is inside.
  static constexpr std::uint64_t kClosed = std::uint64_t{1} << 31, kInside = kClosed - 1;
  alignas(64) std::atomic<std::uint64_t> ticket{kClosed};
  Body body = nullptr;
  void* context = nullptr;
  Shares shares;
  std::atomic<bool> failed{false};
  std::exception_ptr error;

  void run(int threads, std::int64_t tasks, Body task, void* with);
  void hire(int wanted);
  void keep_off_caller_cpu();
  void work(int own) noexcept;
  [[noreturn]] void serve(int own);
};

// Never destroyed: workers may still wait for a bell while the process ends.
Team& team() {
  static Team* const only = new Team;
  return *only;
}

void Team::hire(int wanted) {
  sigset_t all, kept;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &kept);  // signals are for the program's own threads
  try {
    for (; workers < wanted; ++workers) {
      std::thread thread([this, w = workers] { serve(w); });
      worker[workers].thread = thread.native_handle();
      thread.detach();
    }
  } catch (const std::system_error&) {  // no more threads to be had: fewer do the work
  }
  pthread_sigmask(SIG_SETMASK, &kept, nullptr);
  caller_cpu = -1;
}

// Linux may wake a worker on the very core of its caller, although another is idle (on a virtual machine a halted core
// counts as taken), and it would sit there until the caller is through. So workers may run where the caller may, except
// on its core.
void Team::keep_off_caller_cpu() {
#if defined(__linux__)
  const int cpu = sched_getcpu();
  if (cpu == caller_cpu) return;
  caller_cpu = cpu;
  cpu_set_t allowed;
  if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  if (CPU_COUNT(&allowed) > 1) CPU_CLR(cpu, &allowed);
  for (int w = 0; w < workers; ++w) pthread_setaffinity_np(worker[w].thread, sizeof(allowed), &allowed);
#endif
}

void Team::serve(int own) {
  std::atomic<std::uint32_t>& bell = worker[own].job;
  for (std::uint32_t seen = 0;;) {
    const auto since = std::chrono::steady_clock::now();
    while (bell.load(std::memory_order_acquire) == seen) {
      for (int i = 0; i < 32 && bell.load(std::memory_order_relaxed) == seen; ++i) pause();
      const auto waited = std::chrono::steady_clock::now() - since;
      if (waited > kYield)
        bell.wait(seen, std::memory_order_acquire);
      else if (waited > kSpin)
        std::this_thread::yield();
    }
    seen = bell.load(std::memory_order_acquire);
    std::uint64_t now = ticket.load(std::memory_order_acquire);
    const auto open = [&] { return now >> 32 == seen && (now & kClosed) == 0; };
    while (open() &&
           !ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
    }
    if (!open()) continue;  // came too late: it is done
    work(own + 1);
    ticket.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void Team::work(int own) noexcept {
  const FlushSubnormals flush;
  try {
    shares.take(own, [&](std::int64_t begin, std::int64_t end) {
      if (!failed.load(std::memory_order_relaxed)) body(context, begin, end);
    });
  } catch (...) {
    if (!failed.exchange(true)) error = std::current_exception();
  }
}

void Team::run(int threads, std::int64_t tasks, Body task, void* with) {
  threads = std::min(threads, kMaxTeam);
  if (workers < threads - 1) hire(threads - 1);
  body = task;
  context = with;
  shares.cut(std::min(threads, workers + 1), tasks, kChunksPerShare);
  failed.store(false, std::memory_order_relaxed);
  const auto number = static_cast<std::uint32_t>(ticket.load(std::memory_order_relaxed) >> 32) + 1;
  ticket.store(std::uint64_t{number} << 32, std::memory_order_release);
  keep_off_caller_cpu();
  for (int w = 0; w + 1 < shares.count(); ++w) {
    worker[w].job.store(number, std::memory_order_release);
    worker[w].job.notify_one();
  }
  work(0);
  std::uint64_t now = ticket.fetch_or(kClosed, std::memory_order_acq_rel);
  for (int i = 0; (now & kInside) != 0; now = ticket.load(std::memory_order_acquire)) {
    if (++i < 10000)
      pause();
    else
      std::this_thread::yield();  // it may need this very core
  }
  if (failed.load(std::memory_order_relaxed)) std::rethrow_exception(std::exchange(error, nullptr));
}

}  // namespace

bool is_forked() { return forked.load(std::memory_order_relaxed); }

void run_team(int threads, std::int64_t tasks, Body body, void* context) {
  if (threads > 1 && has_host()) return run_on_host(threads, tasks, body, context);
  if (threads > 1 && !is_forked()) {
    Team& t = team();
    const std::unique_lock lock(t.busy, std::try_to_lock);
    if (lock) return t.run(threads, tasks, body, context);
  }
  const FlushSubnormals flush;
  if (tasks > 0) body(context, 0, tasks);
}

}  // namespace onepass::runtime
