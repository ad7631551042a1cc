#include "api/windows.hpp"

namespace onepass::api {

onepass_status check_images(const char* name, const onepass_array* x, Images& images) {
  ONEPASS_TRY(check_float(name, x));
  if (x->ndim != 4)
    return fail(ONEPASS_INVALID_SHAPE, "%s: expected shape (images, channels, height, width), got %s", name,
                shape_text(*x).c_str());
  if (elements(*x) == 0) return fail(ONEPASS_INVALID_SHAPE, "%s: is empty, shape %s", name, shape_text(*x).c_str());
  ONEPASS_TRY(check_contiguous(name, *x));
  images = {x->shape[0], x->shape[1], x->shape[2], x->shape[3]};
  return ONEPASS_OK;
}

onepass_status check_window(const onepass_window* given, const Images& x, Window& window) {
  if (given == nullptr) return fail(ONEPASS_INVALID_VALUE, "window: is null");
  constexpr std::int64_t kMost = 1 << 20;  // sums of these do not overflow
  const std::int64_t inputs[] = {x.height, x.width};
  std::int64_t outputs[2];
  for (int axis = 0; axis < 2; ++axis) {
    const long long kernel = given->kernel[axis], stride = given->stride[axis], padding = given->padding[axis];
    if (kernel < 1 || kernel > kMost)
      return fail(ONEPASS_INVALID_VALUE, "kernel_size: expected integers from 1 to 2^20, got %lld", kernel);
    if (stride < 1 || stride > kMost)
      return fail(ONEPASS_INVALID_VALUE, "stride: expected integers from 1 to 2^20, got %lld", stride);
    if (padding < 0 || padding > kMost)
      return fail(ONEPASS_INVALID_VALUE, "padding: expected integers from 0 to 2^20, got %lld", padding);
    if (inputs[axis] + 2 * padding < kernel)
      return fail(ONEPASS_INVALID_SHAPE, "x: %s %lld with padding %lld is less than the window's %lld",
                  axis == 0 ? "height" : "width", static_cast<long long>(inputs[axis]), padding, kernel);
    outputs[axis] = (inputs[axis] + 2 * padding - kernel) / stride + 1;
  }
  window = {x.height,
            x.width,
            outputs[0],
            outputs[1],
            {given->kernel[0], given->kernel[1]},
            {given->stride[0], given->stride[1]},
            {given->padding[0], given->padding[1]}};
  return ONEPASS_OK;
}

onepass_status check_outputs_of(const char* name, const onepass_array* a, const onepass_array& x, std::int64_t count,
                                std::int64_t channels, const Window& window) {
  const std::int64_t shape[] = {count, channels, window.out_height, window.out_width};
  const onepass_array model = {x.data, shape, nullptr, 4, x.dtype};
  ONEPASS_TRY(check_like(name, a, "the windows' outputs", model));
  return check_contiguous(name, *a);
}

}  // namespace onepass::api
