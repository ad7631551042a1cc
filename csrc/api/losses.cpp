// Losses of elements: checks, then runs in parallel and their sums in order.
#include <atomic>
#include <cmath>
#include <limits>
#include <string>

#include "api/loss_arguments.hpp"
#include "runtime/dispatch.hpp"

namespace onepass::api {
namespace {

constexpr std::int64_t kPart = 16 * kLossBlock;  // elements summed by one task

// kernel(runs, scale, n) returns the sum of n losses; the runs' last two operands are loss and grad.
template <typename T, typename Kernel>
void reduce(const Runs<T, true>& runs, std::int64_t n, std::int64_t work, const LossOutputs& out, std::int32_t threads,
            Kernel&& kernel) {
  const double scale = out.reduction == ONEPASS_MEAN ? 1.0 / static_cast<double>(n) : 1.0;
  const double total = sum_of_parts(n, kPart, work, threads, [&](std::int64_t begin, std::int64_t end) {
    double sum = 0.0;
    runs.visit(begin, end, [&](T* const* p, std::int64_t, std::int64_t length) {
      sum += kernel(p, static_cast<T>(scale), length);
    });
    return sum;
  });
  if (!out.each()) *out.total = total * scale;
}

onepass_status check_pair(const onepass_array* prediction, const onepass_array* target, const LossOutputs& out) {
  ONEPASS_TRY(check_any_float("prediction", prediction));
  ONEPASS_TRY(check_like_or_wide("target", target, "prediction", *prediction));
  ONEPASS_TRY(check_filled("prediction", *prediction));
  return check_element_outputs(out, {"prediction", prediction}, {{"target", target}});
}

// Integers must be 0 or 1.
onepass_status check_binary(const onepass_array& targets, std::int32_t threads) {
  const onepass_array* arrays[] = {&targets};
  const Layout layout(arrays, 1, Order::c);
  const std::int64_t n = elements(targets), step = layout.strides[0][layout.ndim - 1];
  std::atomic<std::int64_t> first{n};  // wrong in C order
  const auto search = [&](std::int64_t begin, std::int64_t end) {
    layout.walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
      const char* p = static_cast<const char*>(targets.data) + at[0];
      with_integer(p, targets.dtype, [&](auto type) {
        using Integer = decltype(type);
        bool wrong = false;
        for (std::int64_t i = 0; i < length; ++i)
          wrong |= static_cast<std::uint64_t>(*reinterpret_cast<const Integer*>(p + i * step)) > 1;
        for (std::int64_t i = 0; wrong && i < length; ++i) {
          if (static_cast<std::uint64_t>(*reinterpret_cast<const Integer*>(p + i * step)) <= 1) continue;
          for (std::int64_t seen = first; begin + i < seen && !first.compare_exchange_weak(seen, begin + i);) {
          }
          break;
        }
      });
      begin += length;
    });
  };
  const std::int64_t parts = (n + kPart - 1) / kPart;
  runtime::parallel(runtime::team_size(threads, parts, n * itemsize(targets.dtype)), parts,
                    [&](std::int64_t begin, std::int64_t end) { search(begin * kPart, std::min(end * kPart, n)); });
  if (first == n) return ONEPASS_OK;
  const char* value = nullptr;
  layout.walk(first, first + 1,
              [&](const std::int64_t* at, std::int64_t) { value = static_cast<const char*>(targets.data) + at[0]; });
  return fail(ONEPASS_OUT_OF_RANGE,
              "targets%s is %s, expected 0 or 1; pass probabilities as floats of the logits' type",
              index_text(targets, first).c_str(), integer_text(value, targets.dtype).c_str());
}

onepass_status check_binary_targets(const onepass_array* targets, const onepass_array& logits) {
  ONEPASS_TRY(check_array("targets", targets));
  if (is_any_float(targets->dtype)) return check_like_or_wide("targets", targets, "logits", logits);
  if (targets->dtype < ONEPASS_INT8)
    return fail(ONEPASS_INVALID_DTYPE, "targets: expected integers or %s like logits, got %s; convert it first",
                type_name(logits.dtype), type_name(targets->dtype));
  return check_shape_like("targets", *targets, "logits", logits);
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_mean_squared_error(const onepass_array* prediction, const onepass_array* target,
                                          int32_t reduction, const onepass_array* loss, double* total,
                                          const onepass_array* grad, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    const LossOutputs out = {reduction, loss, total, grad};
    ONEPASS_TRY(check_pair(prediction, target, out));
    return with_computed(prediction->dtype, [&](auto zero) {
      using T = decltype(zero);
      const Runs<T, true> runs(
          *table, {{prediction, false}, {target, false}, {out.each() ? loss : nullptr, true}, {grad, true}});
      const auto kernel = table->kernels<T>().squared_error;
      reduce(runs, elements(*prediction), runs.bytes(), out, threads,
             [&](T* const* p, T scale, std::int64_t n) { return kernel(p[0], p[1], p[2], p[3], scale, n); });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_huber_loss(const onepass_array* prediction, const onepass_array* target, double delta,
                                  int32_t smooth_l1, int32_t reduction, const onepass_array* loss, double* total,
                                  const onepass_array* grad, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    const LossOutputs out = {reduction, loss, total, grad};
    ONEPASS_TRY(check_pair(prediction, target, out));
    if (!std::isfinite(delta) || delta < 0.0 || (delta == 0.0 && smooth_l1 == 0))
      return fail(ONEPASS_INVALID_VALUE, "%s: expected a finite number %s 0, got %g", smooth_l1 ? "beta" : "delta",
                  smooth_l1 ? ">=" : ">", delta);
    return with_computed(prediction->dtype, [&](auto zero) {
      using T = decltype(zero);
      const Huber<T> shape = {
          .corner = static_cast<T>(delta),
          .curvature = static_cast<T>(!smooth_l1    ? 1.0
                                      : delta > 0.0 ? 1.0 / delta
                                                    : 0.0),
          .slope = static_cast<T>(smooth_l1 ? 1.0 : delta),
      };
      const Runs<T, true> runs(
          *table, {{prediction, false}, {target, false}, {out.each() ? loss : nullptr, true}, {grad, true}});
      const auto kernel = table->kernels<T>().huber;
      reduce(runs, elements(*prediction), runs.bytes(), out, threads,
             [&](T* const* p, T scale, std::int64_t n) { return kernel(p[0], p[1], shape, p[2], p[3], scale, n); });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_binary_cross_entropy(const onepass_array* logits, const onepass_array* targets,
                                            const onepass_array* weight, const onepass_array* pos_weight,
                                            int32_t reduction, const onepass_array* loss, double* total,
                                            const onepass_array* grad, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    const LossOutputs out = {reduction, loss, total, grad};
    ONEPASS_TRY(check_any_float("logits", logits));
    ONEPASS_TRY(check_filled("logits", *logits));
    ONEPASS_TRY(check_binary_targets(targets, *logits));
    if (present(weight)) ONEPASS_TRY(check_like_or_wide("weight", weight, "logits", *logits));
    if (present(pos_weight)) ONEPASS_TRY(check_like_or_wide("pos_weight", pos_weight, "logits", *logits));
    ONEPASS_TRY(check_element_outputs(out, {"logits", logits},
                                      {{"targets", targets}, {"weight", weight}, {"pos_weight", pos_weight}}));
    if (!is_any_float(targets->dtype)) ONEPASS_TRY(check_binary(*targets, threads));
    return with_computed(logits->dtype, [&](auto zero) {
      using T = decltype(zero);
      const Runs<T, true> runs(*table, {{logits, false},
                                        {targets, false},
                                        {weight, false},
                                        {pos_weight, false},
                                        {out.each() ? loss : nullptr, true},
                                        {grad, true}});
      const auto kernel = table->kernels<T>().binary_cross_entropy;
      reduce(
          runs, elements(*logits), runs.bytes() * kTranscendental, out, threads,
          [&](T* const* p, T scale, std::int64_t n) { return kernel(p[0], p[1], p[2], p[3], p[4], p[5], scale, n); });
      return ONEPASS_OK;
    });
  });
}
