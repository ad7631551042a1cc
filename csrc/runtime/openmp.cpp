#include "runtime/openmp.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/shares.hpp"
#include "runtime/team.hpp"

namespace onepass::runtime {

// What GCC's compiled regions call; LLVM's and Intel's runtimes have it, too.
struct OpenMp {
  void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
  int (*thread_number)();
  int (*max_threads)();
};

namespace {

template <typename Function>
bool look_up(void* library, const char* name, Function& found) {
  found = reinterpret_cast<Function>(dlsym(library, name));
  return found != nullptr;
}

struct Region {
  Shares shares;
  onepass_range range;
  void* context;
  const OpenMp* runtime;
};

}  // namespace

OpenMp* find_openmp(void* library) {
  OpenMp found{};
  if (!look_up(RTLD_DEFAULT, "GOMP_parallel", found.parallel) &&  // in the order in which the linker binds it
      (library == nullptr || !look_up(library, "GOMP_parallel", found.parallel)))
    return nullptr;
  Dl_info where{};  // of several runtimes in one process, all three from the one
  if (dladdr(reinterpret_cast<void*>(found.parallel), &where) == 0) return nullptr;
  void* const runtime = dlopen(where.dli_fname, RTLD_LAZY | RTLD_NOLOAD);  // never closed: it stays loaded
  if (runtime == nullptr || !look_up(runtime, "omp_get_thread_num", found.thread_number) ||
      !look_up(runtime, "omp_get_max_threads", found.max_threads))
    return nullptr;
  static std::mutex lock;
  static auto& known = *new std::vector<std::unique_ptr<OpenMp>>;
  const std::lock_guard guard(lock);
  for (const auto& one : known)
    if (one->parallel == found.parallel) return one.get();
  return known.emplace_back(std::make_unique<OpenMp>(found)).get();
}

int openmp_threads(const OpenMp* runtime) { return std::max(runtime->max_threads(), 1); }

void openmp_parallel_for(void* host, std::int64_t tasks, onepass_range range, void* context) {
  const auto* runtime = static_cast<const OpenMp*>(host);
  if (is_forked()) return range(context, 0, tasks);  // a region would wait for threads that are gone
  Region region{{}, range, context, runtime};
  region.shares.cut(openmp_threads(runtime), tasks, tasks);  // one by one: they are few
  // 0: as many threads as every other region has, since the runtime lets those go that one region does not need
  runtime->parallel(
      [](void* data) {
        auto& r = *static_cast<Region*>(data);
        const int own = r.runtime->thread_number();
        if (own < r.shares.count())
          r.shares.take(own, [&](std::int64_t begin, std::int64_t end) { r.range(r.context, begin, end); });
      },
      &region, 0, 0);
}

}  // namespace onepass::runtime
