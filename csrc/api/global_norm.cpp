// The norm of all gradients.
#include <algorithm>
#include <cmath>
#include <vector>

#include "api/plan.hpp"
#include "api/staged.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_global_norm(const onepass_array* arrays, size_t count, double* norm, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    if (norm == nullptr || (arrays == nullptr && count > 0))
      return fail(ONEPASS_INVALID_VALUE, "arrays or norm: is null");
    ONEPASS_TRY(check_threads(threads));
    constexpr std::int64_t kPart = 1 << 15;  // elements summed by one call; parts are added in order
    struct Part {
      std::size_t array;
      std::int64_t begin;
    };
    std::vector<Part> parts;
    std::vector<Layout> layouts;
    layouts.reserve(count);
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < count; ++i) {
      ONEPASS_TRY(check_any_float(tensor_name("arrays", i, count).c_str(), &arrays[i]));
      const onepass_array* one[] = {&arrays[i]};
      layouts.emplace_back(one, 1);
      const std::int64_t n = elements(arrays[i]);
      bytes += n * itemsize(arrays[i].dtype);
      for (std::int64_t begin = 0; begin < n; begin += kPart) parts.push_back({i, begin});
    }
    std::vector<double> sums(parts.size());
    const auto tasks = static_cast<std::int64_t>(parts.size());
    runtime::parallel(runtime::team_size(threads, tasks, bytes), tasks, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t p = from; p < to; ++p) {
        const Part& part = parts[static_cast<std::size_t>(p)];
        const onepass_array& a = arrays[part.array];
        const Layout& layout = layouts[part.array];
        const std::int64_t end = std::min(part.begin + kPart, elements(a));
        with_float(a.dtype, [&](auto zero) {  // float16 and bfloat16 as double, where their squares are exact
          using T = decltype(zero);
          const FloatKernels<T>& kernels = table->kernels<T>();
          const Stored stored = {static_cast<char*>(a.data), a.dtype, 0};
          const bool direct = is_float(a.dtype) && layout.ndim == 1 && layout.dense(0, sizeof(T));
          alignas(64) T buffer[kStage];
          double sum = 0.0;
          for (std::int64_t at = part.begin; at < end; at += kStage) {
            const std::int64_t n = std::min(kStage, end - at);
            const T* run = direct ? static_cast<const T*>(a.data) + at : buffer;
            if (!direct) stage_in(kernels.codecs, layout, stored, at, at + n, buffer);
            sum += kernels.sum_of_squares(run, n);
          }
          sums[static_cast<std::size_t>(p)] = sum;
          return ONEPASS_OK;
        });
      }
    });
    double total = 0.0;
    for (const double sum : sums) total += sum;
    *norm = std::sqrt(total);
    return ONEPASS_OK;
  });
}
