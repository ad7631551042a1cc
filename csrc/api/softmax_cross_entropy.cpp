// Softmax cross-entropy: checks, then rows in parallel.
#include <vector>

#include "api/cross_entropy_rows.hpp"
#include "runtime/dispatch.hpp"

namespace onepass::api {
namespace {

// What is written like the logits. wide: float32 will do beside logits of 16 bits.
onepass_status check_output(const char* name, const onepass_array* out, const onepass_array& logits,
                            const onepass_array* targets, const onepass_array* weight, bool wide) {
  ONEPASS_TRY(check_array(name, out));
  if (wide && !is_float(logits.dtype) && out->dtype == ONEPASS_FLOAT32)
    ONEPASS_TRY(check_shape_like(name, *out, "logits", logits));
  else
    ONEPASS_TRY(check_like(name, out, "logits", logits));
  if (overlaps_itself(*out))
    return fail(ONEPASS_OVERLAP, "%s: several of its elements share memory; pass a copy", name);
  ONEPASS_TRY(check_apart(name, out, "targets", targets));
  return check_apart(name, out, "weight", weight);
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_softmax_cross_entropy(const onepass_array* logits, const onepass_array* targets,
                                             const onepass_array* weight, const onepass_cross_entropy_options* options,
                                             const onepass_array* loss, double* total, const onepass_array* grad,
                                             const onepass_array* log_probabilities, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_any_float("logits", logits));
    if (logits->ndim < 2)
      return fail(ONEPASS_INVALID_SHAPE, "logits: expected (N, C) or (N, C, d1, ...), got %s",
                  describe(*logits).c_str());
    if (elements(*logits) == 0)
      return fail(ONEPASS_INVALID_SHAPE, "logits: is empty, shape %s", shape_text(*logits).c_str());
    std::int64_t classes = 0;
    ONEPASS_TRY(check_targets(targets, *logits));
    ONEPASS_TRY(check_cross_entropy_options(options, logits->shape[1], classes));
    ONEPASS_TRY(check_class_weight("weight", weight, classes, logits->dtype));
    const std::int64_t rows = elements(*logits) / logits->shape[1];
    if (options->reduction == ONEPASS_NONE) {
      ONEPASS_TRY(check_losses(loss, rows, logits->dtype));
      ONEPASS_TRY(check_apart("loss", loss, "logits", logits));
      ONEPASS_TRY(check_apart("loss", loss, "targets", targets));
      ONEPASS_TRY(check_apart("loss", loss, "grad", grad));
    } else if (total == nullptr) {
      return fail(ONEPASS_INVALID_VALUE, "total: is null");
    }
    if (present(grad)) {
      ONEPASS_TRY(check_output("grad", grad, *logits, targets, weight, false));
      ONEPASS_TRY(check_in_place("grad", *grad, "logits", *logits));
    }
    if (present(log_probabilities)) {
      ONEPASS_TRY(check_output("log_probabilities", log_probabilities, *logits, targets, weight, true));
      ONEPASS_TRY(check_apart("log_probabilities", log_probabilities, "logits", logits));
      ONEPASS_TRY(check_apart("log_probabilities", log_probabilities, "grad", grad));
      if (options->reduction == ONEPASS_NONE)
        ONEPASS_TRY(check_apart("log_probabilities", log_probabilities, "loss", loss));
    }
    return with_computed(logits->dtype, [&](auto zero) -> onepass_status {
      using T = decltype(zero);
      Targets<T> read;
      ONEPASS_TRY(read.read(*table, *targets, rows, weight, classes, options->ignore_index));
      const double scale = options->reduction == ONEPASS_MEAN ? 1.0 / read.mass() : 1.0;
      const CrossEntropyRows<T> all = {*table, *options, classes, read.weight(), scale, threads};
      std::vector<double> losses(static_cast<std::size_t>(rows));
      all.run(*logits, read.labels(), *targets, grad, log_probabilities, losses.data());
      give_losses<T>(losses, options->reduction, read.mass(), loss, total);
      return ONEPASS_OK;
    });
  });
}
