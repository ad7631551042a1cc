// A parallel-for of the program that calls, for what it starts on one of its threads.
#pragma once

#include "onepass/onepass.h"
#include "runtime/team.hpp"

namespace onepass::runtime {

// The host's threads did not do all that they were given, each once.
struct HostFailure {};

struct Host {
  onepass_parallel_for parallel_for = nullptr;
  void* host = nullptr;
};

void set_host(onepass_parallel_for parallel_for, void* host);  // of the calling thread; null: none
Host get_host();
bool has_host();
// As run_team; throws HostFailure.
void run_on_host(int threads, std::int64_t tasks, Body body, void* context);

}  // namespace onepass::runtime
