// What losses have in common: their outputs' checks, and the sum over parts.
#pragma once

#include <vector>

#include "api/runs.hpp"

namespace onepass::api {

// Where a loss goes.
struct LossOutputs {
  std::int32_t reduction;
  const onepass_array* loss;  // written for ONEPASS_NONE
  double* total;              // for the other reductions
  const onepass_array* grad;  // may be absent

  bool each() const { return reduction == ONEPASS_NONE; }
};

inline onepass_status check_reduction(const LossOutputs& out) {
  if (out.reduction < ONEPASS_NONE || out.reduction > ONEPASS_SUM)
    return fail(ONEPASS_INVALID_VALUE, "reduction: unknown code %d", out.reduction);
  if (!out.each() && out.total == nullptr) return fail(ONEPASS_INVALID_VALUE, "total: is null");
  return ONEPASS_OK;
}

inline onepass_status check_filled(const char* name, const onepass_array& a) {
  if (elements(a) == 0) return fail(ONEPASS_INVALID_SHAPE, "%s: is empty, shape %s", name, shape_text(a).c_str());
  return ONEPASS_OK;
}

inline onepass_status check_distinct(const char* name, const onepass_array& a) {
  if (overlaps_itself(a)) return fail(ONEPASS_OVERLAP, "%s: several of its elements share memory; pass a copy", name);
  return ONEPASS_OK;
}

struct NamedArray {
  const char* name;
  const onepass_array* array;  // may be absent
};

// A loss of each element of `model`, in the type that is computed in.
inline onepass_status check_each_loss(const onepass_array* loss, const char* model_name, onepass_array model) {
  model.dtype = computed_type(model.dtype);
  ONEPASS_TRY(check_like("loss", loss, model_name, model));
  return check_distinct("loss", *loss);
}

// Like the model, or float32 beside one of 16 bits.
inline onepass_status check_like_or_wide(const char* name, const onepass_array* a, const char* model_name,
                                         onepass_array model) {
  ONEPASS_TRY(check_array(name, a));
  if (is_narrow(model.dtype) && a->dtype == ONEPASS_FLOAT32) model.dtype = ONEPASS_FLOAT32;
  return check_like(name, a, model_name, model);
}

// loss and grad of elements: like the first argument; grad may be it, and everything else is apart.
inline onepass_status check_element_outputs(const LossOutputs& out, const NamedArray& first,
                                            std::initializer_list<NamedArray> others) {
  ONEPASS_TRY(check_reduction(out));
  if (out.each()) {
    ONEPASS_TRY(check_each_loss(out.loss, first.name, *first.array));
    ONEPASS_TRY(check_apart("loss", out.loss, first.name, first.array));
    ONEPASS_TRY(check_apart("loss", out.loss, "grad", out.grad));
    for (const NamedArray& other : others) ONEPASS_TRY(check_apart("loss", out.loss, other.name, other.array));
  }
  if (present(out.grad)) {
    ONEPASS_TRY(check_like("grad", out.grad, first.name, *first.array));
    ONEPASS_TRY(check_distinct("grad", *out.grad));
    ONEPASS_TRY(check_in_place("grad", *out.grad, first.name, *first.array));
    for (const NamedArray& other : others) ONEPASS_TRY(check_apart("grad", out.grad, other.name, other.array));
  }
  return ONEPASS_OK;
}

// Sum of body(begin, end) over parts of n in their order, made in parallel. How many there are depends on n alone.
template <typename Body>
double sum_of_parts(std::int64_t n, std::int64_t part, std::int64_t work, std::int32_t threads, Body&& body) {
  const std::int64_t parts = (n + part - 1) / part;
  std::vector<double> sums(static_cast<std::size_t>(parts));
  runtime::parallel(runtime::team_size(threads, parts, work), parts, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      sums[static_cast<std::size_t>(i)] = body(i * part, std::min((i + 1) * part, n));
  });
  double sum = 0.0;
  for (const double s : sums) sum += s;
  return sum;
}

}  // namespace onepass::api
