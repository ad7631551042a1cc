// An OpenMP runtime that an adapter's framework works with.
#pragma once

#include <algorithm>

#include "bindings/arrays.hpp"

class OpenMp {
 public:
  explicit OpenMp(std::uintptr_t library) {
    raise_if(onepass_find_openmp(reinterpret_cast<void*>(library), &parallel_for_, &host_));
  }
  // Between the two, what this thread starts runs in OpenMP's threads.
  void enter() const {
    onepass_set_parallel_for(parallel_for_, host_, std::min(onepass_openmp_threads(host_), onepass_get_threads()));
  }
  void leave() const { onepass_set_parallel_for(nullptr, nullptr, 0); }

 private:
  onepass_parallel_for parallel_for_ = nullptr;
  void* host_ = nullptr;
};
