// Version, errors, instruction-set levels, threads.
#include "api/arrays.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/host.hpp"
#include "runtime/openmp.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

using namespace onepass;

const char* onepass_version(void) { return ONEPASS_VERSION; }
int32_t onepass_abi_version(void) { return ONEPASS_ABI_VERSION; }
onepass_status onepass_require(int32_t major, int32_t minor, int32_t abi) {
  if (abi == ONEPASS_ABI_VERSION && major == ONEPASS_VERSION_MAJOR && minor <= ONEPASS_VERSION_MINOR) return ONEPASS_OK;
  return api::fail(ONEPASS_UNAVAILABLE,
                   "the library is onepass %s with ABI %d, the program was compiled for %d.%d with ABI %d",
                   ONEPASS_VERSION, ONEPASS_ABI_VERSION, major, minor, abi);
}
const char* onepass_last_error(void) { return runtime::last_error(); }

onepass_status onepass_init(void) {
  return api::guarded([] { return runtime::kernels() != nullptr ? ONEPASS_OK : ONEPASS_UNAVAILABLE; });
}

const char* onepass_isa(void) { return onepass_init() == ONEPASS_OK ? runtime::kernels()->isa : ""; }
size_t onepass_isa_count(void) { return runtime::isa_count(); }
const char* onepass_isa_name(size_t i) { return i < runtime::isa_count() ? runtime::isa(i).name : ""; }
int32_t onepass_isa_available(size_t i) { return i < runtime::isa_count() && runtime::isa(i).available; }

onepass_status onepass_set_threads(int32_t threads) {
  ONEPASS_TRY(api::check_threads(threads));
  runtime::set_threads(threads);
  return ONEPASS_OK;
}
int32_t onepass_get_threads(void) { return runtime::get_threads(); }

onepass_status onepass_set_parallel_for(onepass_parallel_for parallel_for, void* host, int32_t threads) {
  if (parallel_for != nullptr && threads < 1)
    return api::fail(ONEPASS_INVALID_VALUE, "threads: expected those that parallel_for has, 1 or more, got %d",
                     threads);
  runtime::set_host(parallel_for, host);
  runtime::set_host_threads(parallel_for != nullptr ? threads : 0);
  return ONEPASS_OK;
}

void onepass_get_parallel_for(onepass_parallel_for* parallel_for, void** host, int32_t* threads) {
  const runtime::Host own = runtime::get_host();
  if (parallel_for != nullptr) *parallel_for = own.parallel_for;
  if (host != nullptr) *host = own.host;
  if (threads != nullptr) *threads = runtime::get_host_threads();
}

onepass_status onepass_find_openmp(void* library, onepass_parallel_for* parallel_for, void** host) {
  return api::guarded([&] {
    if (parallel_for == nullptr || host == nullptr)
      return api::fail(ONEPASS_INVALID_VALUE, "parallel_for, host: are NULL, expected where to put them");
    runtime::OpenMp* const found = runtime::find_openmp(library);
    if (found == nullptr)
      return api::fail(ONEPASS_UNAVAILABLE, "OpenMP: the process has no runtime with GOMP_parallel; load one first");
    *parallel_for = runtime::openmp_parallel_for;
    *host = found;
    return ONEPASS_OK;
  });
}
int32_t onepass_openmp_threads(const void* host) {
  return host == nullptr ? 1 : runtime::openmp_threads(static_cast<const runtime::OpenMp*>(host));
}

onepass_status onepass_stream_limit(const onepass_array* arrays, size_t reads, size_t updates, size_t writes,
                                    int32_t threads) {
  return api::guarded([&] {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(api::check_threads(threads));
    const std::size_t count = reads + updates + writes;
    if (reads > 2 || updates > 4 || writes > 1 || updates + writes == 0)
      return api::fail(ONEPASS_INVALID_VALUE,
                       "arrays: expected at most 2 read, 4 updated and 1 written, and one of the"
                       " latter two at least");
    float* data[7];
    std::int64_t n = 0;
    for (std::size_t k = 0; k < count; ++k) {
      ONEPASS_TRY(api::check_array("arrays", &arrays[k]));
      ONEPASS_TRY(api::check_contiguous("arrays", arrays[k]));
      if (k == 0) n = api::elements(arrays[k]);
      if (arrays[k].dtype != ONEPASS_FLOAT32 || api::elements(arrays[k]) != n)
        return api::fail(ONEPASS_INVALID_SHAPE, "arrays: expected float32 of one size");
      data[k] = static_cast<float*>(arrays[k].data);
    }
    const std::int64_t grains = (n + 15) / 16;
    const auto bytes = static_cast<std::int64_t>(4 * (reads + 2 * updates + writes)) * n;
    runtime::parallel(runtime::team_size(threads, grains, bytes), grains, [&](std::int64_t begin, std::int64_t end) {
      table->stream(data, reads, updates, writes, begin * 16, end * 16 < n ? end * 16 : n);
    });
    return ONEPASS_OK;
  });
}
