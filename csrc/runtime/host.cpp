#include "runtime/host.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <utility>

#include "runtime/subnormals.hpp"

namespace onepass::runtime {
namespace {

constexpr std::int64_t kChunksPerThread = 16;

thread_local Host own;

// The sum of a random number for each chunk of [begin, end) (Steele, Lea and Flood 2014, SplitMix64): chunks that ran
// twice do not make up for others that did not run.
std::uint64_t marks(std::int64_t begin, std::int64_t end) {
  std::uint64_t sum = 0;
  for (std::int64_t chunk = begin; chunk < end; ++chunk) {
    auto z = (static_cast<std::uint64_t>(chunk) + 1) * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    sum += z ^ z >> 31;
  }
  return sum;
}

struct Job {
  Body body;
  void* context;
  std::int64_t tasks, chunks;
  std::atomic<std::uint64_t> ran{0};  // the sum of the marks of the chunks that have run
  std::atomic<bool> failed{false};
  std::exception_ptr error;

  Job(Body b, void* c, std::int64_t t, std::int64_t n) : body(b), context(c), tasks(t), chunks(n) {}

  std::int64_t first(std::int64_t chunk) const {  // without tasks * chunk, which may be too large
    return tasks / chunks * chunk + std::min(chunk, tasks % chunks);
  }
  void run(std::int64_t begin, std::int64_t end) noexcept {
    if (begin < 0 || end > chunks || begin >= end) return;  // is missed in `ran`, or is nothing
    const FlushSubnormals flush;
    try {
      if (!failed.load(std::memory_order_relaxed)) body(context, first(begin), first(end));
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
    ran.fetch_add(marks(begin, end), std::memory_order_release);
  }
};

}  // namespace

void set_host(onepass_parallel_for parallel_for, void* host) { own = {parallel_for, host}; }
Host get_host() { return own; }
bool has_host() { return own.parallel_for != nullptr; }

void run_on_host(int threads, std::int64_t tasks, Body body, void* context) {
  if (tasks <= 0) return;
  Job job(body, context, tasks, std::min(tasks, threads * kChunksPerThread));
  const Host host = std::exchange(own, {});  // what the host's code calls on this thread is its own affair
  struct Restore {
    const Host& host;
    ~Restore() { own = host; }
  } const restore{host};
  host.parallel_for(
      host.host, job.chunks,
      [](void* p, std::int64_t begin, std::int64_t end) { static_cast<Job*>(p)->run(begin, end); }, &job);
  if (job.failed.load(std::memory_order_acquire)) std::rethrow_exception(job.error);
  if (job.ran.load(std::memory_order_acquire) != marks(0, job.chunks)) throw HostFailure{};
}

}  // namespace onepass::runtime
