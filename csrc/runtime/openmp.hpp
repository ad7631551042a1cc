// Threads of an OpenMP runtime that another library of the process has loaded, as a host's parallel-for: torch's, say.
// Two pools whose threads look out for work hold each other's cores (docs/performance.md).
#pragma once

#include <cstdint>

#include "onepass/onepass.h"

namespace onepass::runtime {

struct OpenMp;

// Looked for among the process's own symbols, then in a handle of dlopen and what that depends on; null: none. Lives as
// long as the process.
OpenMp* find_openmp(void* library);
int openmp_threads(const OpenMp* runtime);  // that a region of the calling thread would have now
void openmp_parallel_for(void* runtime, std::int64_t tasks, onepass_range range, void* context);

}  // namespace onepass::runtime
