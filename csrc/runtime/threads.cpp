#include "runtime/threads.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace onepass::runtime {
namespace {

std::atomic<int> chosen{0};
thread_local int host_threads = 0;

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

int cpus() {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// OMP_NUM_THREADS (its first number: that of the outermost region), else what affinity and the cgroup's quota leave.
int default_threads() {
  static const int threads = [] {
    if (const char* named = std::getenv("OMP_NUM_THREADS")) {
      const int number = std::atoi(named);
      if (number > 0) return number;
    }
    const int quota = cgroup_cpus(), available = cpus();
    return quota > 0 ? std::min(quota, available) : available;
  }();
  return threads;
}

}  // namespace

int get_threads() {
  if (host_threads > 0) return host_threads;
  const int set = chosen.load(std::memory_order_relaxed);
  return set > 0 ? set : default_threads();
}

void set_threads(int threads) { chosen = threads; }
void set_host_threads(int threads) { host_threads = threads; }
int get_host_threads() { return host_threads; }

int team_size(int requested, std::int64_t tasks, std::int64_t bytes) {
  if (tasks < 2 || bytes < kSerialBytes) return 1;
  int threads = requested > 0 ? requested : get_threads();
  if (host_threads > 0) threads = std::min(threads, host_threads);
  return static_cast<int>(std::min<std::int64_t>(threads, tasks));
}

}  // namespace onepass::runtime
