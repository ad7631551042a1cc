// Tasks that threads share out among themselves. Each takes chunks of its own consecutive share, so that it streams
// through memory and meets the same data again in the next call, and then what is left of the others': a thread that
// does not come costs what it would have done, no more.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace onepass::runtime {

class Shares {
 public:
  // Allocates if there are more threads than before.
  void cut(int threads, std::int64_t tasks, std::int64_t chunks_per_share) {
    if (threads > capacity_) {
      share_ = std::make_unique<Share[]>(static_cast<std::size_t>(threads));
      capacity_ = threads;
    }
    Share* const share = share_.get();
    shares_ = threads;
    chunk_ = std::max<std::int64_t>(1, tasks / (threads * chunks_per_share));
    for (int s = 0; s < threads; ++s) {
      share[s].next.store(tasks * s / threads, std::memory_order_relaxed);
      share[s].end = tasks * (s + 1) / threads;
    }
  }
  int count() const { return shares_; }

  // run(begin, end), until nothing is left; own: this thread's number, of [0, count())
  template <typename F>
  void take(int own, F&& run) {
    Share* const share = share_.get();
    for (int k = 0; k < shares_; ++k) {
      Share& s = share[(own + k) % shares_];
      for (;;) {
        const std::int64_t begin = s.next.fetch_add(chunk_, std::memory_order_relaxed);
        if (begin >= s.end) break;
        run(begin, std::min(begin + chunk_, s.end));
      }
    }
  }

 private:
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};  // first task that nobody has taken
    std::int64_t end = 0;
  };
  int shares_ = 0, capacity_ = 0;
  std::int64_t chunk_ = 0;
  std::unique_ptr<Share[]> share_;
};

}  // namespace onepass::runtime
