#include "api/batch_norm.hpp"

namespace onepass::api {

onepass_status check_channels_of(const onepass_array* x, std::int32_t channel_axis, Shape& shape) {
  ONEPASS_TRY(check_any_float("x", x));
  if (x->ndim < 2) return fail(ONEPASS_INVALID_SHAPE, "x: expected at least 2 axes, got %s", describe(*x).c_str());
  if (channel_axis < -x->ndim || channel_axis >= x->ndim)
    return fail(ONEPASS_INVALID_VALUE, "channel_axis: %d is out of range for x, %s", channel_axis,
                describe(*x).c_str());
  if (elements(*x) == 0) return fail(ONEPASS_INVALID_SHAPE, "x: is empty, shape %s", shape_text(*x).c_str());
  shape = Shape(*x, channel_axis < 0 ? channel_axis + x->ndim : channel_axis);
  return ONEPASS_OK;
}

onepass_status check_wholes(std::initializer_list<Named> arrays, const onepass_array& x) {
  for (const Named& a : arrays)
    if (present(a.array)) ONEPASS_TRY(check_like(a.name, a.array, "x", x));
  return ONEPASS_OK;
}

onepass_status check_vectors(std::initializer_list<Named> arrays, const onepass_array& x, const Shape& shape) {
  for (const Named& a : arrays)
    if (present(a.array)) ONEPASS_TRY(check_vector(a.name, a.array, shape.channels, computed_dtype(x.dtype)));
  return ONEPASS_OK;
}

onepass_status check_count(std::int64_t count) {
  if (count >= 1) return ONEPASS_OK;
  return fail(ONEPASS_INVALID_VALUE, "count: expected 1 or more, got %lld", static_cast<long long>(count));
}

}  // namespace onepass::api
