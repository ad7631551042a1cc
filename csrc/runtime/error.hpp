// The last error of a thread: a status and one sentence. Nothing here allocates or throws.
#pragma once

#include "onepass/onepass.h"

namespace onepass::runtime {

__attribute__((format(printf, 2, 3))) onepass_status fail(onepass_status status, const char* format, ...);
const char* last_error();

}  // namespace onepass::runtime
