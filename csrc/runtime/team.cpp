#include "runtime/team.hpp"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "runtime/subnormals.hpp"

namespace onepass::runtime {
namespace {

std::atomic<int> chosen{0};
std::atomic<bool> forked{false};  // libgomp's threads do not survive a fork
[[maybe_unused]] const int watching_forks = pthread_atfork(nullptr, nullptr, [] { forked = true; });

// The CPU quota of this process's cgroup (version 2, then version 1), in whole CPUs; 0: none.
int cgroup_cpus() {
  double quota = 0.0, period = 0.0;
  char text[64] = "";
  if (std::FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(f, "%63s %lf", text, &period) == 2) quota = std::atof(text);  // "max": 0
    std::fclose(f);
  } else {
    if (std::FILE* q = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
      if (std::fscanf(q, "%lf", &quota) != 1) quota = 0.0;
      std::fclose(q);
    }
    if (std::FILE* p = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(p, "%lf", &period) != 1) period = 0.0;
      std::fclose(p);
    }
  }
  return quota > 0.0 && period > 0.0 ? std::max(1, static_cast<int>(std::ceil(quota / period))) : 0;
}

// OpenMP's own answer (OMP_NUM_THREADS, affinity), cut to the cgroup's quota unless the user named a number.
int default_threads() {
  static const int limit = [] {
    const char* named = std::getenv("OMP_NUM_THREADS");
    return named != nullptr && *named != '\0' ? 0 : cgroup_cpus();
  }();
  const int threads = omp_get_max_threads();
  return limit > 0 ? std::min(limit, threads) : threads;
}

}  // namespace

int get_threads() {
  const int threads = default_threads();
  const int set = chosen.load(std::memory_order_relaxed);
  return set > 0 ? set : threads;
}

void set_threads(int threads) { chosen = threads; }

int team_size(int requested, std::int64_t tasks, std::int64_t bytes) {
  if (tasks < 2 || bytes < kSerialBytes || forked.load(std::memory_order_relaxed) || omp_in_parallel()) return 1;
  const int threads = requested > 0 ? requested : get_threads();
  return static_cast<int>(std::min<std::int64_t>(threads, tasks));
}

void run_team(int threads, Body body, void* context) {
  if (threads <= 1 || forked.load(std::memory_order_relaxed)) {
    const FlushSubnormals flush;
    body(context, 0, 1);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const FlushSubnormals flush;
    body(context, omp_get_thread_num(), omp_get_num_threads());
  }
}

}  // namespace onepass::runtime
