#include <cmath>

#include "api/row_norm.hpp"

namespace onepass::api {
namespace {

onepass_status check_last_axes(const onepass_array& x, int axes, Arguments& a) {
  if (x.ndim < 1) return fail(ONEPASS_INVALID_SHAPE, "x: expected at least 1 axis, got %s", describe(x).c_str());
  if (axes < 0 || axes > x.ndim)
    return fail(ONEPASS_INVALID_VALUE, "axes: expected 1 to %d, the number of x's axes, got %d", x.ndim, axes);
  a.first = a.parameter_axis = x.ndim - axes;
  a.parameter_axes = axes;
  for (int axis = 0; axis < x.ndim; ++axis) (axis < a.first ? a.shape.samples : a.shape.segments) *= x.shape[axis];
  return ONEPASS_OK;
}

onepass_status check_groups(const onepass_array& x, std::int64_t groups, Arguments& a) {
  if (x.ndim < 2)
    return fail(ONEPASS_INVALID_SHAPE, "x: expected (N, C) or (N, C, d1, ...), got %s", describe(x).c_str());
  const std::int64_t channels = x.shape[1];
  if (groups < 1 || channels % groups != 0)
    return fail(ONEPASS_INVALID_VALUE, "groups: expected a divisor of the %lld channels of x, got %lld",
                static_cast<long long>(channels), static_cast<long long>(groups));
  a.groups = groups;
  a.shape = {x.shape[0], groups, channels / groups, elements(x) / (x.shape[0] * channels)};
  if (a.shape.length() < 2)
    return fail(ONEPASS_INVALID_SHAPE,
                "x: expected more than one value to normalize by, got one: shape %s, %lld groups",
                shape_text(x).c_str(), static_cast<long long>(groups));
  return ONEPASS_OK;
}

}  // namespace

onepass_status check_x(const onepass_array* x, const onepass_row_norm_options* options, Arguments& a) {
  ONEPASS_TRY(check_any_float("x", x));
  if (options == nullptr) return fail(ONEPASS_INVALID_VALUE, "options: is null");
  if (!(options->eps >= 0.0) || !std::isfinite(options->eps))
    return fail(ONEPASS_INVALID_VALUE, "eps: expected a finite number >= 0, got %g", options->eps);
  if (elements(*x) == 0) return fail(ONEPASS_INVALID_SHAPE, "x: is empty, shape %s", shape_text(*x).c_str());
  if (x->dtype == ONEPASS_FLOAT64) a.dtype = ONEPASS_FLOAT64;
  return options->axes != 0 ? check_last_axes(*x, options->axes, a) : check_groups(*x, options->groups, a);
}

onepass_status check_parameter(const char* name, const onepass_array* p, const onepass_array& x, const Arguments& a) {
  if (!present(p)) return ONEPASS_OK;
  ONEPASS_TRY(check_like(name, p, "gamma and beta beside x",
                         {nullptr, x.shape + a.parameter_axis, nullptr, a.parameter_axes, a.dtype}));
  return check_contiguous(name, *p);
}

onepass_status check_all_apart(const char* const* names, const onepass_array* const* arrays, int written, int count) {
  for (int i = 0; i < written; ++i)
    for (int j = i + 1; j < count; ++j) ONEPASS_TRY(check_apart(names[i], arrays[i], names[j], arrays[j]));
  return ONEPASS_OK;
}

}  // namespace onepass::api
