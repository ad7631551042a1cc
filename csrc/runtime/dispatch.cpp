#include "runtime/dispatch.hpp"

#include <array>
#include <cstdlib>
#include <string>
#include <string_view>

#include "runtime/cpu.hpp"
#include "runtime/error.hpp"

extern "C" {
#define ONEPASS_ISA_LEVEL(symbol, name, check) extern const onepass::KernelTable symbol;
#include "onepass_isa_levels.def"
#undef ONEPASS_ISA_LEVEL
}

namespace onepass::runtime {
namespace {

// onepass_isa_levels.def is written by cmake/IsaLevels.cmake: the levels of this build, lowest first.
const auto& levels() {
  static const std::array table = {
#define ONEPASS_ISA_LEVEL(symbol, name, check) Isa{name, &symbol, check()},
#include "onepass_isa_levels.def"
#undef ONEPASS_ISA_LEVEL
  };
  return table;
}

struct Choice {
  const KernelTable* table = nullptr;
  std::string error;
};

Choice choose() {
  const char* wanted = std::getenv("ONEPASS_ISA");
  Choice choice;
  std::string built;
  for (const Isa& level : levels()) {
    built += (built.empty() ? "" : ", ") + std::string(level.name) + (level.available ? "" : " (not on this CPU)");
    if (wanted == nullptr || *wanted == '\0') {
      if (level.available) choice.table = level.table;
    } else if (std::string_view(wanted) == level.name) {
      if (level.available) choice.table = level.table;
    }
  }
  if (choice.table == nullptr) {
    choice.error = wanted != nullptr && *wanted != '\0'
                       ? "ONEPASS_ISA=" + std::string(wanted) + " is not available; levels built: " + built
                       : "this CPU runs none of the instruction-set levels built: " + built;
  }
  return choice;
}

}  // namespace

std::size_t isa_count() { return levels().size(); }
Isa isa(std::size_t i) { return levels()[i]; }

const KernelTable* kernels() {
  static const Choice choice = choose();
  if (choice.table == nullptr) fail(ONEPASS_UNAVAILABLE, "%s", choice.error.c_str());
  return choice.table;
}

}  // namespace onepass::runtime
