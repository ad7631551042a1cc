// New memory for states: zeroed by all threads, in huge pages where the system has them.
#include <algorithm>
#include <cstring>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "api/arrays.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

constexpr std::int64_t kHugePage = 2 << 20;

// Asks for huge pages in whatever whole ones lie inside; a system without them says no, which changes nothing.
void advise_huge(char* data, std::int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto start = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t low = (start + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t high = (start + static_cast<std::uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (low < high) madvise(reinterpret_cast<void*>(low), high - low, MADV_HUGEPAGE);
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
#endif
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_zero(const onepass_array* arrays, size_t count, int32_t threads) {
  return guarded([&]() -> onepass_status {
    if (arrays == nullptr && count > 0) return fail(ONEPASS_INVALID_VALUE, "arrays: is null");
    ONEPASS_TRY(check_threads(threads));
    struct Piece {
      char* data;
      std::int64_t bytes;
    };
    std::vector<Piece> pieces;
    std::int64_t total = 0;
    for (std::size_t i = 0; i < count; ++i) {
      ONEPASS_TRY(check_array("arrays", &arrays[i]));
      const Extent extent_of = extent(arrays[i]);
      const std::int64_t bytes = elements(arrays[i]) * itemsize(arrays[i].dtype);
      if (extent_of.high - extent_of.low != bytes || overlaps_itself(arrays[i]))
        return fail(ONEPASS_INVALID_LAYOUT, "arrays: expected dense arrays, got gaps in number %zu", i);
      char* data = reinterpret_cast<char*>(extent_of.low);
      advise_huge(data, bytes);
      for (std::int64_t at = 0; at < bytes; at += kHugePage)
        pieces.push_back({data + at, std::min(kHugePage, bytes - at)});
      total += bytes;
    }
    const auto tasks = static_cast<std::int64_t>(pieces.size());
    runtime::parallel(runtime::team_size(threads, tasks, total), tasks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Piece& piece = pieces[static_cast<std::size_t>(i)];
        std::memset(piece.data, 0, static_cast<std::size_t>(piece.bytes));
      }
    });
    return ONEPASS_OK;
  });
}
