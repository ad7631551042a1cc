// Negative log likelihood: picks one element a row, and writes a gradient that is zero elsewhere.
#include <algorithm>
#include <cstring>
#include <string>

#include "api/cross_entropy_rows.hpp"
#include "api/loss_arguments.hpp"
#include "runtime/dispatch.hpp"

namespace onepass::api {
namespace {

// An array's axes but the second, which counts classes.
struct RowView {
  std::int64_t shape[ONEPASS_MAX_DIMENSIONS], strides[ONEPASS_MAX_DIMENSIONS];
  onepass_array array;
  std::int64_t class_step = 0;  // bytes

  explicit RowView(const onepass_array& a) : array{a.data, shape, strides, a.ndim - 1, a.dtype} {
    for (int axis = 0, kept = 0; axis < a.ndim; ++axis) {
      if (axis == 1) continue;
      shape[kept] = a.shape[axis];
      strides[kept++] = stride(a, axis);
    }
    class_step = stride(a, 1);
  }
  RowView(const RowView&) = delete;
  RowView& operator=(const RowView&) = delete;
};

struct Labels {
  const onepass_array& targets;
  std::int64_t classes, ignore_index;

  // Calls visit(label) for every row that counts, in C order, or fails at the first label out of range.
  template <typename Visit>
  onepass_status each(Visit&& visit) const {
    const onepass_array* arrays[] = {&targets};
    const Layout layout(arrays, 1, Order::c);
    const std::int64_t step = layout.strides[0][layout.ndim - 1];
    std::int64_t row = 0, wrong = -1;
    std::string text;
    layout.walk(0, elements(targets), [&](const std::int64_t* at, std::int64_t length) {
      const char* p = static_cast<const char*>(targets.data) + at[0];
      for (std::int64_t i = 0; i < length && wrong < 0; ++i, ++row) {
        std::int64_t label = 0;
        const bool fits = load_integer(p + i * step, targets.dtype, label);
        if (fits && label == ignore_index) continue;
        if (!fits || label < 0 || label >= classes) {
          wrong = row;
          text = integer_text(p + i * step, targets.dtype);
          break;
        }
        visit(label);
      }
    });
    if (wrong < 0) return ONEPASS_OK;
    return fail(ONEPASS_OUT_OF_RANGE, "targets%s is %s, expected 0 <= target < %lld or ignore_index (%lld)",
                index_text(targets, wrong).c_str(), text.c_str(), static_cast<long long>(classes),
                static_cast<long long>(ignore_index));
  }
};

void fill_zero(char* p, std::int64_t step, std::size_t item, std::int64_t n) {
  if (step == static_cast<std::int64_t>(item)) {
    std::memset(p, 0, static_cast<std::size_t>(n) * item);
    return;
  }
  for (std::int64_t i = 0; i < n; ++i) std::memset(p + i * step, 0, item);
}

// n rows `step` bytes apart, along the axis that lies closer together
void zero_rows(char* p, std::int64_t step, std::int64_t n, std::int64_t class_step, std::int64_t classes,
               std::size_t item) {
  if (std::abs(class_step) < std::abs(step)) {
    for (std::int64_t i = 0; i < n; ++i) fill_zero(p + i * step, class_step, item, classes);
  } else {
    for (std::int64_t c = 0; c < classes; ++c) fill_zero(p + c * class_step, step, item, n);
  }
}

template <typename T>
struct Likelihood {
  const FloatKernels<T>& kernels;
  const Labels& labels;
  const RowView &values, &grads;  // grads: values where there is none
  bool wanted;
  const onepass_array* loss;     // or null
  const std::vector<T>& weight;  // (C), or empty
  double scale;
  Layout layout;  // of targets, values, grads and loss (targets again where it is absent), in C order

  double sum(std::int64_t begin, std::int64_t end) const {
    double total = 0.0;
    layout.walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
      for (std::int64_t i = 0; i < length; i += kStage) total += run(at, i, std::min(kStage, length - i));
    });
    return total;
  }

 private:
  std::int64_t step(int operand) const { return layout.strides[operand][layout.ndim - 1]; }

  // at most kStage rows along the innermost axis, the first one's neighbour number `first`
  double run(const std::int64_t* at, std::int64_t first, std::int64_t n) const {
    const auto item = static_cast<std::size_t>(itemsize(values.array.dtype));
    alignas(64) char raw[kStage * sizeof(T)];
    alignas(64) T picked[kStage], weights[kStage], losses[kStage];
    std::int64_t label[kStage];
    const char* targets = static_cast<const char*>(labels.targets.data) + at[0] + first * step(0);
    const char* from = static_cast<const char*>(values.array.data) + at[1] + first * step(1);
    char* to = static_cast<char*>(grads.array.data) + at[2] + first * step(2);
    const Codec<T>& codec = kernels.codecs.of[values.array.dtype];
    for (std::int64_t i = 0; i < n; ++i) {
      load_integer(targets + i * step(0), labels.targets.dtype, label[i]);
      if (label[i] == labels.ignore_index) label[i] = -1;
      weights[i] = label[i] < 0 ? T(0) : weight.empty() ? T(1) : weight[static_cast<std::size_t>(label[i])];
      const char* p = from + i * step(1) + std::max<std::int64_t>(label[i], 0) * values.class_step;
      std::memcpy(raw + static_cast<std::size_t>(i) * item, p, item);
    }
    codec.decode(raw, picked, n);
    for (std::int64_t i = 0; i < n; ++i)
      if (label[i] < 0) picked[i] = T(0);  // whatever stands there
    const double total = kernels.weighted_losses(picked, weights, losses, n);
    if (loss != nullptr) {
      scatter_items(reinterpret_cast<const char*>(losses), static_cast<char*>(loss->data) + at[3] + first * step(3),
                    step(3), sizeof(T), n);
    }
    if (wanted) {
      for (std::int64_t i = 0; i < n; ++i) losses[i] = static_cast<T>(-static_cast<double>(weights[i]) * scale);
      codec.encode(losses, raw, n, nullptr, 0);
      zero_rows(to, step(2), n, grads.class_step, labels.classes, item);
      for (std::int64_t i = 0; i < n; ++i)
        if (label[i] >= 0)
          std::memcpy(to + i * step(2) + label[i] * grads.class_step, raw + static_cast<std::size_t>(i) * item, item);
    }
    return total;
  }
};

onepass_status check_arguments(const onepass_array* x, const onepass_array* targets, const onepass_array* weight,
                               const LossOutputs& out) {
  ONEPASS_TRY(check_any_float("log_probabilities", x));
  if (x->ndim < 2)
    return fail(ONEPASS_INVALID_SHAPE, "log_probabilities: expected (N, C) or (N, C, d1, ...), got %s",
                describe(*x).c_str());
  ONEPASS_TRY(check_filled("log_probabilities", *x));
  ONEPASS_TRY(check_array("targets", targets));
  if (targets->dtype < ONEPASS_INT8)
    return fail(ONEPASS_INVALID_DTYPE, "targets: expected class indices of an integer type, got %s; convert it first",
                type_name(targets->dtype));
  RowView rows(*x);
  rows.array.dtype = targets->dtype;
  ONEPASS_TRY(check_shape_like("targets", *targets, "log_probabilities without their classes", rows.array));
  rows.array.dtype = x->dtype;
  ONEPASS_TRY(check_class_weight("weight", weight, x->shape[1], x->dtype));
  ONEPASS_TRY(check_reduction(out));
  if (out.each()) {
    ONEPASS_TRY(check_each_loss(out.loss, "targets, of the type of log_probabilities", rows.array));
    ONEPASS_TRY(check_apart("loss", out.loss, "log_probabilities", x));
    ONEPASS_TRY(check_apart("loss", out.loss, "targets", targets));
    ONEPASS_TRY(check_apart("loss", out.loss, "weight", weight));
    ONEPASS_TRY(check_apart("loss", out.loss, "grad", out.grad));
  }
  if (present(out.grad)) {
    ONEPASS_TRY(check_like("grad", out.grad, "log_probabilities", *x));
    ONEPASS_TRY(check_distinct("grad", *out.grad));
    ONEPASS_TRY(check_in_place("grad", *out.grad, "log_probabilities", *x));
    ONEPASS_TRY(check_apart("grad", out.grad, "targets", targets));
    ONEPASS_TRY(check_apart("grad", out.grad, "weight", weight));
  }
  return ONEPASS_OK;
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_nll_loss(const onepass_array* log_probabilities, const onepass_array* targets,
                                const onepass_array* weight, int64_t ignore_index, int32_t reduction,
                                const onepass_array* loss, double* total, const onepass_array* grad, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    const LossOutputs out = {reduction, loss, total, grad};
    ONEPASS_TRY(check_arguments(log_probabilities, targets, weight, out));
    const std::int64_t classes = log_probabilities->shape[1];
    const Labels labels = {*targets, classes, ignore_index};
    return with_computed(log_probabilities->dtype, [&](auto zero) -> onepass_status {
      using T = decltype(zero);
      std::vector<T> weights(static_cast<std::size_t>(present(weight) ? classes : 0));
      if (present(weight)) table->kernels<T>().codecs.of[weight->dtype].decode(weight->data, weights.data(), classes);
      double mass = 0.0;  // what the mean divides by
      ONEPASS_TRY(labels.each([&](std::int64_t label) {
        mass += weights.empty() ? 1.0 : static_cast<double>(weights[static_cast<std::size_t>(label)]);
      }));
      const bool mean = reduction == ONEPASS_MEAN, wanted = present(grad);
      const RowView values(*log_probabilities), grads(wanted ? *grad : *log_probabilities);
      const onepass_array* arrays[] = {targets, &values.array, &grads.array, out.each() ? loss : targets};
      const Likelihood<T> likelihood = {table->kernels<T>(),
                                        labels,
                                        values,
                                        grads,
                                        wanted,
                                        out.each() ? loss : nullptr,
                                        weights,
                                        mean ? 1.0 / mass : 1.0,
                                        Layout(arrays, 4, Order::c)};
      const std::int64_t rows = elements(*targets), part = 8 * kStage;
      const std::int64_t bytes = rows * (64 + (wanted ? classes * itemsize(log_probabilities->dtype) : 0));
      const double sum = sum_of_parts(rows, part, bytes, threads,
                                      [&](std::int64_t begin, std::int64_t end) { return likelihood.sum(begin, end); });
      if (!out.each()) *total = mean ? sum / mass : sum;
      return ONEPASS_OK;
    });
  });
}
