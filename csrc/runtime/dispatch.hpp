// Which kernels run: the highest level that both the library has and the CPU runs, or the one ONEPASS_ISA names.
#pragma once

#include <cstddef>

#include "kernels/table.hpp"

namespace onepass::runtime {

struct Isa {
  const char* name;
  const KernelTable* table;
  bool available;
};

std::size_t isa_count();
Isa isa(std::size_t i);  // lowest first

// The table in use, or null with the reason in last_error().
const KernelTable* kernels();

}  // namespace onepass::runtime
