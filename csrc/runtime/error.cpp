#include "runtime/error.hpp"

#include <cstdarg>
#include <cstdio>

namespace onepass::runtime {
namespace {
thread_local char message[1024] = "";
}

onepass_status fail(onepass_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  return status;
}

const char* last_error() { return message; }

}  // namespace onepass::runtime
