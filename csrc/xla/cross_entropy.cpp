// Softmax cross-entropy.
//
// operands    logits (..., C, ...); targets: integers of the logits' shape without C, or floats of the logits' shape;
//             weight (n_classes), or no such operand
// results     loss: a scalar, or for ONEPASS_NONE like integer targets; the gradient, in the memory of the logits, or
//             no such result
// attributes  axis: of C, counted from the end (1: the last); reduction, ignore_index, n_classes; label_smoothing,
//             z_loss
#include <array>

#include "xla/call.hpp"
#include "xla/handlers.hpp"

namespace onepass::xla {
namespace {

void write_loss(const abi::Buffer& loss, std::int64_t i, double total) {
  if (loss.type == abi::Type::f64)
    static_cast<double*>(loss.data)[i] = total;
  else
    static_cast<float*>(loss.data)[i] = static_cast<float>(total);
}

void compute(const Call& call) {
  const bool weighted = call.inputs() == 3, with_gradient = call.outputs() == 2;
  call.expect(weighted ? 3 : 2, with_gradient ? 2 : 1);
  const abi::Buffer &logits = call.input(0), &targets = call.input(1), &loss = call.output(0);
  const onepass_cross_entropy_options options = {
      call.integer("ignore_index"), call.real("label_smoothing"), call.real("z_loss"),
      static_cast<std::int32_t>(call.integer("reduction")), call.integer("n_classes")};
  const std::int64_t axis = logits.rank - call.integer("axis");
  if (axis < 0 || axis >= logits.rank) throw Failure(abi::ErrorCode::internal, "onepass: axis out of range");
  if (element_count(logits) == 0) return;  // a vmap over nothing
  const bool each = options.reduction == ONEPASS_NONE;
  std::int64_t copies = 1;  // rows that have a loss of their own anyway need no copies
  if (!each) copies = element_count(loss);
  if (each && weighted) copies = copies_of(call.input(2), 1);
  const std::int64_t classes = logits.shape[axis];
  std::int64_t inner = 1;
  for (std::int64_t i = axis + 1; i < logits.rank; ++i) inner *= logits.shape[i];
  const std::int64_t outer = element_count(logits) / (classes * inner * copies);

  const std::array<std::int64_t, 3> whole = {outer, classes, inner};
  const std::array<std::int64_t, 2> rows = {outer, inner};
  const std::size_t spare = inner == 1 ? 1 : 0;  // an axis that need not be there
  const std::span<const std::int64_t> logits_shape(whole.data(), whole.size() - spare);
  const std::span<const std::int64_t> rows_shape(rows.data(), rows.size() - spare);
  const std::array<std::int64_t, 1> weight_shape = {weighted ? call.input(2).shape[call.input(2).rank - 1] : 0};
  if (with_gradient) start_from(logits, call.output(1));
  for (std::int64_t i = 0; i < copies; ++i) {
    const onepass_array x = part_of(with_gradient ? call.output(1) : logits, copies, i, logits_shape);
    const onepass_array t = part_of(targets, copies, i, is_floating(targets) ? logits_shape : rows_shape);
    const onepass_array w = weighted ? part_of(call.input(2), copies, i, weight_shape) : absent();
    const onepass_array l = each ? part_of(loss, copies, i, rows_shape) : absent();
    const onepass_array g = with_gradient ? x : absent(), none = absent();
    double total = 0.0;
    raise_if(onepass_softmax_cross_entropy(&x, &t, &w, &options, &l, &total, &g, &none, 0));
    if (!each) write_loss(loss, i, total);
  }
}

}  // namespace

abi::Error* cross_entropy(abi::Frame* frame) { return run(frame, compute); }

}  // namespace onepass::xla
