// Pooling: a task is a plane.
#include <algorithm>

#include "api/windows.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

// body(kernels of T, window, plane, first element of its input, of its output) for each plane of x
template <typename T, typename Body>
void for_planes(const FloatKernels<T>& kernels, const Images& x, const Window& window, std::int32_t threads,
                Body&& body) {
  const std::int64_t planes = x.count * x.channels, outputs = window.out_height * window.out_width;
  const std::int64_t work = planes * (x.plane() + outputs * window.kernel[0] * window.kernel[1]);
  runtime::parallel(runtime::team_size(threads, planes, work * static_cast<std::int64_t>(sizeof(T))), planes,
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t i = begin; i < end; ++i) body(kernels, i * x.plane(), i * outputs);
                    });
}

// A window that lies in the padding alone has no largest element.
onepass_status check_padding(const Window& window) {
  for (int axis = 0; axis < 2; ++axis)
    if (2 * window.padding[axis] > window.kernel[axis])
      return fail(ONEPASS_INVALID_VALUE, "padding: expected at most half of kernel_size, got %lld of %lld",
                  static_cast<long long>(window.padding[axis]), static_cast<long long>(window.kernel[axis]));
  return ONEPASS_OK;
}

enum class Pool { max, average };

onepass_status forward(Pool pool, const onepass_array* x, const onepass_window* given, const onepass_array* y,
                       std::int32_t threads) {
  const KernelTable* table = runtime::kernels();
  if (table == nullptr) return ONEPASS_UNAVAILABLE;
  Images images;
  Window window;
  ONEPASS_TRY(check_threads(threads));
  ONEPASS_TRY(check_images("x", x, images));
  ONEPASS_TRY(check_window(given, images, window));
  ONEPASS_TRY(check_padding(window));
  ONEPASS_TRY(check_outputs_of("out", y, *x, images.count, images.channels, window));
  ONEPASS_TRY(check_written({"out", y}, {{"x", x}}));
  return with_float(x->dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(x->data);
    T* to = static_cast<T*>(y->data);
    for_planes(table->kernels<T>(), images, window, threads,
               [&](const FloatKernels<T>& kernels, std::int64_t in, std::int64_t out) {
                 (pool == Pool::max ? kernels.max_pool : kernels.average_pool)(from + in, to + out, window);
               });
    return ONEPASS_OK;
  });
}

// x: null for the mean, which needs it not
onepass_status backward(const onepass_array* dy, const onepass_array* x, const onepass_window* given,
                        const onepass_array* dx, std::int32_t threads) {
  const KernelTable* table = runtime::kernels();
  if (table == nullptr) return ONEPASS_UNAVAILABLE;
  Images images;
  Window window;
  ONEPASS_TRY(check_threads(threads));
  if (x != nullptr) {
    ONEPASS_TRY(check_images("x", x, images));
    ONEPASS_TRY(check_like("out", dx, "x", *x));
    ONEPASS_TRY(check_contiguous("out", *dx));
  } else {
    ONEPASS_TRY(check_float("dy", dy));
    ONEPASS_TRY(check_images("out", dx, images));
    if (dx->dtype != dy->dtype)
      return fail(ONEPASS_INVALID_DTYPE, "out: expected %s like dy, got %s; convert it first", type_name(dy->dtype),
                  describe(*dx).c_str());
  }
  ONEPASS_TRY(check_window(given, images, window));
  ONEPASS_TRY(check_padding(window));
  ONEPASS_TRY(check_outputs_of("dy", dy, *dx, images.count, images.channels, window));
  ONEPASS_TRY(check_written({"out", dx}, {{"dy", dy}, {"x", x}}));
  return with_float(dx->dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *slope = static_cast<const T*>(dy->data), *input = x ? static_cast<const T*>(x->data) : nullptr;
    T* to = static_cast<T*>(dx->data);
    for_planes(table->kernels<T>(), images, window, threads,
               [&](const FloatKernels<T>& kernels, std::int64_t in, std::int64_t out) {
                 std::fill_n(to + in, images.plane(), T(0));
                 if (input)
                   kernels.max_pool_backward(slope + out, input + in, to + in, window);
                 else
                   kernels.average_pool_backward(slope + out, to + in, window);
               });
    return ONEPASS_OK;
  });
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_max_pool2d(const onepass_array* x, const onepass_window* window, const onepass_array* y,
                                  int32_t threads) {
  return guarded([&] { return forward(Pool::max, x, window, y, threads); });
}

onepass_status onepass_max_pool2d_backward(const onepass_array* dy, const onepass_array* x,
                                           const onepass_window* window, const onepass_array* dx, int32_t threads) {
  return guarded([&]() -> onepass_status {
    if (x == nullptr) return fail(ONEPASS_INVALID_VALUE, "x: is null");
    return backward(dy, x, window, dx, threads);
  });
}

onepass_status onepass_avg_pool2d(const onepass_array* x, const onepass_window* window, const onepass_array* y,
                                  int32_t threads) {
  return guarded([&] { return forward(Pool::average, x, window, y, threads); });
}

onepass_status onepass_avg_pool2d_backward(const onepass_array* dy, const onepass_window* window,
                                           const onepass_array* dx, int32_t threads) {
  return guarded([&] { return backward(dy, nullptr, window, dx, threads); });
}
