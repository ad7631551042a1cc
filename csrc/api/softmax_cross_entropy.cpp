// Softmax, log-softmax, softmax cross-entropy: checks, then rows in parallel.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "api/rows.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

// What rows cost, as bytes of memory traffic that take as long: an element as much as eight elements moved, and the
// end of a row and its logarithm as much as 64 elements. Measured, docs/performance.md.
std::int64_t cost(std::int64_t rows, std::int64_t classes, std::int64_t item) {
  return rows * (classes + 64) * item * 8;
}

std::int64_t load_label(const char* p, std::int32_t dtype) {
  switch (dtype) {
    case ONEPASS_INT8: return *reinterpret_cast<const std::int8_t*>(p);
    case ONEPASS_UINT8: return *reinterpret_cast<const std::uint8_t*>(p);
    case ONEPASS_INT16: return *reinterpret_cast<const std::int16_t*>(p);
    case ONEPASS_UINT16: return *reinterpret_cast<const std::uint16_t*>(p);
    case ONEPASS_INT32: return *reinterpret_cast<const std::int32_t*>(p);
    case ONEPASS_UINT32: return *reinterpret_cast<const std::uint32_t*>(p);
    case ONEPASS_INT64: return *reinterpret_cast<const std::int64_t*>(p);
    default: return static_cast<std::int64_t>(*reinterpret_cast<const std::uint64_t*>(p));  // see fits
  }
}

// A label above the largest int64 would look negative, and could be taken for ignore_index.
bool fits(std::int64_t label, std::int32_t dtype) { return dtype != ONEPASS_UINT64 || label >= 0; }

// targets must be logits' shape without axis 1
onepass_status check_targets(const onepass_array* targets, const onepass_array& logits) {
  ONEPASS_TRY(check_array("targets", targets));
  if (is_any_float(targets->dtype)) return check_like("targets", targets, "logits", logits);
  std::vector<std::int64_t> expected;
  for (int i = 0; i < logits.ndim; ++i)
    if (i != 1) expected.push_back(logits.shape[i]);
  const onepass_array model = {nullptr, expected.data(), nullptr, logits.ndim - 1, targets->dtype};
  if (!same_shape(*targets, model))
    return fail(ONEPASS_INVALID_SHAPE,
                "targets: expected class indices of shape %s or probabilities of shape %s, got %s",
                shape_text(model).c_str(), shape_text(logits).c_str(), shape_text(*targets).c_str());
  return ONEPASS_OK;
}

onepass_status read_labels(const onepass_array& targets, std::int64_t classes, std::int64_t ignore_index,
                           std::vector<std::int64_t>& labels) {
  const Rows rows(targets, -1);
  labels.resize(static_cast<std::size_t>(rows.count()));
  for (std::int64_t r = 0; r < rows.count(); ++r) {
    const std::int64_t label = load_label(rows.at(r), targets.dtype);
    if (!fits(label, targets.dtype) || (label != ignore_index && (label < 0 || label >= classes))) {
      const std::string text =
          targets.dtype == ONEPASS_UINT64 ? std::to_string(static_cast<std::uint64_t>(label)) : std::to_string(label);
      return fail(ONEPASS_OUT_OF_RANGE, "targets%s is %s, expected 0 <= target < %lld or ignore_index (%lld)",
                  index_text(targets, r).c_str(), text.c_str(), static_cast<long long>(classes),
                  static_cast<long long>(ignore_index));
    }
    labels[static_cast<std::size_t>(r)] = label;
  }
  return ONEPASS_OK;
}

// One row in dense memory: in place where the row is dense, else through a buffer.
template <typename T>
class DenseRow {
 public:
  DenseRow(std::int64_t n, std::int64_t step)
      : n_(n), step_(step), buffer_(dense() ? 0 : static_cast<std::size_t>(n)) {}
  bool dense() const { return step_ == sizeof(T) || n_ == 1; }
  T* read(char* p) {
    T* row = place(p);
    if (!dense()) gather(p, step_, row, n_);
    return row;
  }
  T* place(char* p) { return dense() ? reinterpret_cast<T*>(p) : buffer_.data(); }
  void write(char* p) const {
    if (!dense()) scatter(buffer_.data(), p, step_, n_);
  }

 private:
  std::int64_t n_, step_;
  std::vector<T> buffer_;
};

template <typename T>
onepass_status cross_entropy(const KernelTable& table, const onepass_array& logits, const onepass_array& targets,
                             const onepass_array* weight, const onepass_cross_entropy_options& options,
                             const onepass_array* loss, double* total, const onepass_array* grad,
                             std::int32_t threads) {
  const std::int64_t classes = logits.shape[1];
  const Rows logit_rows(logits, 1);
  const std::int64_t rows = logit_rows.count();
  const bool probabilities = is_float(targets.dtype);
  const T* weights = present(weight) ? static_cast<const T*>(weight->data) : nullptr;
  std::vector<std::int64_t> labels;
  double mass = static_cast<double>(rows);  // what the mean divides by
  if (!probabilities) {
    ONEPASS_TRY(read_labels(targets, classes, options.ignore_index, labels));
    mass = 0.0;
    for (const std::int64_t label : labels)
      if (label != options.ignore_index) mass += weights ? static_cast<double>(weights[label]) : 1.0;
  }
  const bool mean = options.reduction == ONEPASS_MEAN;
  const double scale = mean ? 1.0 / mass : 1.0;
  const bool wanted = present(grad);
  const Rows grad_rows(wanted ? *grad : logits, 1);
  const Rows target_rows(probabilities ? targets : logits, 1);
  std::vector<double> losses(static_cast<std::size_t>(rows));
  const std::int64_t bytes = cost(rows, classes, sizeof(T));
  runtime::parallel(runtime::team_size(threads, rows, bytes), rows, [&](std::int64_t begin, std::int64_t end) {
    DenseRow<T> x(classes, logit_rows.step()), g(classes, wanted ? grad_rows.step() : std::int64_t{sizeof(T)});
    DenseRow<T> t(classes, probabilities ? target_rows.step() : std::int64_t{sizeof(T)});
    const auto ahead = [&](const Rows& own, std::int64_t r) { return own.at(r + 1 < end ? r + 1 : r); };
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t label = probabilities ? -1 : labels[static_cast<std::size_t>(r)];
      char* grad_at = grad_rows.at(r);
      if (!probabilities && label == options.ignore_index) {
        if (wanted) {
          std::fill_n(g.place(grad_at), classes, T(0));
          g.write(grad_at);
        }
        continue;
      }
      losses[static_cast<std::size_t>(r)] = table.kernels<T>().cross_entropy_row({
          .classes = classes,
          .logits = x.read(logit_rows.at(r)),
          .grad = wanted ? g.place(grad_at) : nullptr,
          .label = label,
          .probabilities = probabilities ? t.read(target_rows.at(r)) : nullptr,
          .weight = weights,
          .label_smoothing = options.label_smoothing,
          .z_loss = options.z_loss,
          .scale = scale,
          .ahead = {ahead(logit_rows, r), ahead(grad_rows, r)},
      });
      if (wanted) g.write(grad_at);
    }
  });
  if (present(loss)) {
    T* out = static_cast<T*>(loss->data);
    for (std::int64_t r = 0; r < rows; ++r) out[r] = static_cast<T>(losses[static_cast<std::size_t>(r)]);
  } else {
    double sum = 0.0;
    for (const double l : losses) sum += l;
    *total = mean ? sum / mass : sum;
  }
  return ONEPASS_OK;
}

// Applies a row kernel along axis; log: log-softmax.
onepass_status along_axis(const onepass_array* x, std::int32_t axis, const onepass_array* out, std::int32_t threads,
                          bool log) {
  const KernelTable* table = runtime::kernels();
  if (table == nullptr) return ONEPASS_UNAVAILABLE;
  ONEPASS_TRY(check_threads(threads));
  ONEPASS_TRY(check_float("x", x));
  if (axis < -x->ndim || axis >= x->ndim)
    return fail(ONEPASS_INVALID_VALUE, "axis: %d is out of range for %s", axis, describe(*x).c_str());
  if (axis < 0) axis += x->ndim;
  ONEPASS_TRY(check_like("out", out, "x", *x));
  if (elements(*x) == 0) return fail(ONEPASS_INVALID_SHAPE, "x: is empty, shape %s", shape_text(*x).c_str());
  if (overlaps_itself(*out)) return fail(ONEPASS_OVERLAP, "out: several of its elements share memory; pass a copy");
  ONEPASS_TRY(check_in_place("out", *out, "x", *x));
  return with_float(x->dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = log ? table->kernels<T>().log_softmax_row : table->kernels<T>().softmax_row;
    const std::int64_t n = x->shape[axis];
    const Rows from(*x, axis), to(*out, axis);
    const std::int64_t bytes = cost(from.count(), n, sizeof(T));
    runtime::parallel(runtime::team_size(threads, from.count(), bytes), from.count(),
                      [&](std::int64_t begin, std::int64_t end) {
                        DenseRow<T> source(n, from.step()), target(n, to.step());
                        for (std::int64_t r = begin; r < end; ++r) {
                          const std::int64_t next = r + 1 < end ? r + 1 : r;
                          kernel(source.read(from.at(r)), target.place(to.at(r)), n, {from.at(next), to.at(next)});
                          target.write(to.at(r));
                        }
                      });
    return ONEPASS_OK;
  });
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_softmax_cross_entropy(const onepass_array* logits, const onepass_array* targets,
                                             const onepass_array* weight, const onepass_cross_entropy_options* options,
                                             const onepass_array* loss, double* total, const onepass_array* grad,
                                             int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_float("logits", logits));
    if (logits->ndim < 2)
      return fail(ONEPASS_INVALID_SHAPE, "logits: expected (N, C) or (N, C, d1, ...), got %s",
                  describe(*logits).c_str());
    if (elements(*logits) == 0)
      return fail(ONEPASS_INVALID_SHAPE, "logits: is empty, shape %s", shape_text(*logits).c_str());
    ONEPASS_TRY(check_targets(targets, *logits));
    if (present(weight)) ONEPASS_TRY(check_vector("weight", weight, logits->shape[1], logits->dtype));
    if (options == nullptr) return fail(ONEPASS_INVALID_VALUE, "options: is null");
    if (!(options->label_smoothing >= 0.0 && options->label_smoothing <= 1.0))
      return fail(ONEPASS_INVALID_VALUE, "label_smoothing: expected a number in [0, 1], got %g",
                  options->label_smoothing);
    if (!(options->z_loss >= 0.0) || !std::isfinite(options->z_loss))
      return fail(ONEPASS_INVALID_VALUE, "z_loss: expected a finite number >= 0, got %g", options->z_loss);
    if (options->reduction < ONEPASS_NONE || options->reduction > ONEPASS_SUM)
      return fail(ONEPASS_INVALID_VALUE, "reduction: unknown code %d", options->reduction);
    if (options->reduction == ONEPASS_NONE) {
      ONEPASS_TRY(check_array("loss", loss));
      ONEPASS_TRY(check_contiguous("loss", *loss));
      if (loss->dtype != logits->dtype || elements(*loss) * logits->shape[1] != elements(*logits))
        return fail(ONEPASS_INVALID_SHAPE, "loss: expected one element a row of logits, of their type, got %s",
                    describe(*loss).c_str());
      ONEPASS_TRY(check_apart("loss", loss, "logits", logits));
      ONEPASS_TRY(check_apart("loss", loss, "targets", targets));
      ONEPASS_TRY(check_apart("loss", loss, "grad", grad));
    } else if (total == nullptr) {
      return fail(ONEPASS_INVALID_VALUE, "total: is null");
    }
    if (present(grad)) {
      ONEPASS_TRY(check_like("grad", grad, "logits", *logits));
      if (overlaps_itself(*grad))
        return fail(ONEPASS_OVERLAP, "grad: several of its elements share memory; pass a copy");
      ONEPASS_TRY(check_in_place("grad", *grad, "logits", *logits));
      ONEPASS_TRY(check_apart("grad", grad, "targets", targets));
      ONEPASS_TRY(check_apart("grad", grad, "weight", weight));
    }
    return with_float(logits->dtype, [&](auto zero) {
      return cross_entropy<decltype(zero)>(*table, *logits, *targets, weight, *options,
                                           options->reduction == ONEPASS_NONE ? loss : nullptr, total, grad, threads);
    });
  });
}

onepass_status onepass_softmax(const onepass_array* x, int32_t axis, const onepass_array* out, int32_t threads) {
  return guarded([&] { return along_axis(x, axis, out, threads, false); });
}

onepass_status onepass_log_softmax(const onepass_array* x, int32_t axis, const onepass_array* out, int32_t threads) {
  return guarded([&] { return along_axis(x, axis, out, threads, true); });
}
