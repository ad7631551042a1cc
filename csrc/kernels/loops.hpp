// ONEPASS_INDEPENDENT before a loop: iterations touch no memory of one another, although an output may be an input.
#pragma once

#if defined(__clang__)
#define ONEPASS_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define ONEPASS_INDEPENDENT _Pragma("GCC ivdep")
#endif
