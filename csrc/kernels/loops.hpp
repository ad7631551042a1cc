// Loops over long streams. ONEPASS_INDEPENDENT before a loop: iterations touch no memory of one another, although an
// output may be an input.
#pragma once

#include <cstdint>

#if defined(__clang__)
#define ONEPASS_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define ONEPASS_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace {

// Asks for the cache line at an address that may lie behind an array's end.
inline void prefetch(const void* base, std::int64_t bytes) {
  __builtin_prefetch(
      reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(base) + static_cast<std::uintptr_t>(bytes)));
}

// body(i) for i in [begin, end), asking for each stream's lines kAhead bytes early: the hardware's prefetchers stop at
// every page, and a division fills the reorder buffer before the next loads are seen. T is the widest stream's type.
// Measured in docs/performance.md.
template <typename T, typename Body, typename... Streams>
inline void for_each_ahead(std::int64_t begin, std::int64_t end, Body body, const Streams*... streams) {
  constexpr std::int64_t kLine = 64, kAhead = 1024, kStep = 256 / sizeof(T);
  const auto ahead = [](const auto* stream, std::int64_t from) {
    constexpr auto item = static_cast<std::int64_t>(sizeof(*stream));
    for (std::int64_t at = 0; at < kStep * item; at += kLine) prefetch(stream, from * item + kAhead + at);
  };
  std::int64_t i = begin;
  for (; i + kStep <= end; i += kStep) {
    (ahead(streams, i), ...);
    ONEPASS_INDEPENDENT
    for (std::int64_t j = i; j < i + kStep; ++j) body(j);
  }
  ONEPASS_INDEPENDENT
  for (; i < end; ++i) body(i);
}

}  // namespace
