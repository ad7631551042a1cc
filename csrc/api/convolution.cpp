// Convolution as matrix products: the columns of some output rows are made while they fit in cache, and used up.
#include <algorithm>
#include <memory>
#include <vector>

#include "api/dense_row.hpp"
#include "api/product.hpp"
#include "api/windows.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

constexpr std::int64_t kColumnBytes = 512 << 10;  // beside weights and outputs in a core's second cache
constexpr std::int64_t kMostBlocks = 32, kFewestBlocks = 4, kPartialBytes = 64 << 20;  // of the weight's gradient

template <typename T>
struct Convolution {
  const KernelTable& table;
  Images x;
  Window window;
  std::int64_t outputs;  // channels
  std::int32_t threads;

  std::int64_t taps() const { return x.channels * window.kernel[0] * window.kernel[1]; }
  std::int64_t plane() const { return window.out_height * window.out_width; }
  // a window of one element at every place: the columns are the image
  bool pointwise() const {
    const auto all = [](const std::int64_t(&pair)[2], std::int64_t value) {
      return pair[0] == value && pair[1] == value;
    };
    return all(window.kernel, 1) && all(window.stride, 1) && all(window.padding, 0);
  }
  // Output rows whose columns are made at once: a function of the shapes, as the bits may not depend on the threads.
  std::int64_t strip() const {
    const auto row = taps() * window.out_width * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t rows = std::clamp<std::int64_t>(kColumnBytes / row, 1, window.out_height);
    const std::int64_t strips = (window.out_height + rows - 1) / rows;
    return (window.out_height + strips - 1) / strips;  // of equal lengths
  }
  std::int64_t strips() const { return (window.out_height + strip() - 1) / strip(); }
  std::int64_t flops() const { return 2 * x.count * outputs * taps() * plane(); }
  std::int64_t cost() const {  // as bytes: the products, and what is moved for them
    return flops() / runtime::kFlopsPerByte + x.count * taps() * plane() * static_cast<std::int64_t>(sizeof(T));
  }
  std::unique_ptr<T[]> columns() const {
    return std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(taps() * strip() * window.out_width));
  }
  const FloatKernels<T>& kernels() const { return table.kernels<T>(); }

  void forward(const T* input, const T* weight, const T* bias, bool relu, T* y) const {
    Idle<std::unique_ptr<T[]>> idle;
    const std::int64_t tasks = x.count * strips();
    const int team = runtime::team_size(threads, tasks, cost());
    runtime::parallel(team, tasks, [&](std::int64_t begin, std::int64_t end) {
      auto room = idle.take([&] { return std::make_unique<std::unique_ptr<T[]>>(columns()); });
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t image = i / strips(), first = i % strips() * strip();
        const std::int64_t last = std::min(first + strip(), window.out_height), n = (last - first) * window.out_width;
        const T* from = input + image * x.image();
        T* to = y + image * outputs * plane() + first * window.out_width;
        const bool direct = pointwise();
        if (!direct) kernels().unfold(from, room->get(), window, x.channels, first, last);
        gemm(false, false, outputs, n, taps(), weight, taps(), direct ? from + first * window.out_width : room->get(),
             direct ? plane() : n, to, plane(), false);
        if (bias || relu) kernels().row_bias_relu(to, bias, relu, outputs, n, plane());
      }
      idle.leave(std::move(room));
    });
  }

  // What a thread works with.
  struct Worker {
    std::unique_ptr<T[]> columns, slopes;
  };

  // Each output may be null. Weight and bias gradients are sums over blocks of images, of fixed size, in order.
  void backward(const T* dy, const T* input, const T* weight, T* dx, T* dweight, T* dbias) const {
    const std::int64_t size = outputs * taps(), bytes = size * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t most = std::clamp(kPartialBytes / bytes, kFewestBlocks, kMostBlocks);
    const std::int64_t length = (x.count + most - 1) / most, blocks = (x.count + length - 1) / length;
    std::vector<double> bias_sums(static_cast<std::size_t>(dbias ? blocks * outputs : 0));
    std::unique_ptr<T[]> partial;  // the first block's is dweight itself
    if (dweight && blocks > 1)
      partial = std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>((blocks - 1) * size));
    Idle<Worker> idle;
    const int team = runtime::team_size(threads, blocks, 2 * cost());
    runtime::parallel(team, blocks, [&](std::int64_t begin, std::int64_t end) {
      auto worker = idle.take([&] {
        auto made = std::make_unique<Worker>();
        if (dweight && !pointwise()) made->columns = columns();
        if (dx && !pointwise()) made->slopes = columns();
        return made;
      });
      for (std::int64_t block = begin; block < end; ++block) {
        T* sums = !dweight ? nullptr : block == 0 ? dweight : partial.get() + (block - 1) * size;
        for (std::int64_t i = block * length; i < std::min((block + 1) * length, x.count); ++i) {
          const T* slope = dy + i * outputs * plane();
          const std::int64_t at = i * x.image();
          if (sums) add_weight_gradient(slope, input + at, worker->columns.get(), sums, i != block * length);
          if (dx) input_gradient(slope, weight, worker->slopes.get(), dx + at);
          if (dbias) kernels().add_row_sums(slope, bias_sums.data() + block * outputs, outputs, plane());
        }
      }
      idle.leave(std::move(worker));
    });
    for (std::int64_t o = 0; dbias && o < outputs; ++o) {
      double sum = 0;
      for (std::int64_t block = 0; block < blocks; ++block)
        sum += bias_sums[static_cast<std::size_t>(block * outputs + o)];
      dbias[o] = static_cast<T>(sum);
    }
    if (partial) add_partials(partial.get(), blocks - 1, size, dweight);
  }

 private:
  void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
            std::int64_t lda, const T* b, std::int64_t ldb, T* c, std::int64_t ldc, bool accumulate) const {
    runtime::gemm(transpose_a, transpose_b, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), a,
                  static_cast<int>(lda), b, static_cast<int>(ldb), c, static_cast<int>(ldc), accumulate);
  }

  template <typename Visit>  // visit(first row, last row, offset in a plane, elements)
  void for_strips(Visit&& visit) const {
    for (std::int64_t first = 0; first < window.out_height; first += strip()) {
      const std::int64_t last = std::min(first + strip(), window.out_height);
      visit(first, last, first * window.out_width, (last - first) * window.out_width);
    }
  }

  // sums (+)= slope columns^T
  void add_weight_gradient(const T* slope, const T* image, T* room, T* sums, bool accumulate) const {
    for_strips([&](std::int64_t first, std::int64_t last, std::int64_t offset, std::int64_t n) {
      const bool direct = pointwise();
      if (!direct) kernels().unfold(image, room, window, x.channels, first, last);
      gemm(false, true, outputs, taps(), n, slope + offset, plane(), direct ? image + offset : room,
           direct ? plane() : n, sums, taps(), accumulate || first > 0);
    });
  }

  // image = fold(weight^T slope)
  void input_gradient(const T* slope, const T* weight, T* room, T* image) const {
    const bool direct = pointwise();
    if (!direct) std::fill_n(image, x.image(), T(0));
    for_strips([&](std::int64_t first, std::int64_t last, std::int64_t offset, std::int64_t n) {
      gemm(true, false, taps(), n, outputs, weight, taps(), slope + offset, plane(), direct ? image + offset : room,
           direct ? plane() : n, false);
      if (!direct) kernels().fold(room, image, window, x.channels, first, last);
    });
  }

  void add_partials(const T* partial, std::int64_t blocks, std::int64_t size, T* sum) const {
    constexpr std::int64_t kRun = 4096;
    const std::int64_t runs = (size + kRun - 1) / kRun;
    const int team = runtime::team_size(threads, runs, blocks * size * static_cast<std::int64_t>(sizeof(T)));
    runtime::parallel(team, runs, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t run = begin; run < end; ++run)
        for (std::int64_t block = 0; block < blocks; ++block)
          for (std::int64_t i = run * kRun; i < std::min((run + 1) * kRun, size); ++i)
            sum[i] += partial[block * size + i];
    });
  }
};

onepass_status check_convolution(const onepass_array* x, const onepass_array* weight, const onepass_window* given,
                                 Images& images, Window& window) {
  Images kernel;
  if (weight != nullptr && weight->ndim >= 0 && weight->ndim != 4)
    return fail(ONEPASS_INVALID_SHAPE,
                "weight: expected shape (outputs, channels, kernel height, kernel width), got %s",
                shape_text(*weight).c_str());
  ONEPASS_TRY(check_images("weight", weight, kernel));
  ONEPASS_TRY(check_images("x", x, images));
  if (weight->dtype != x->dtype)
    return fail(ONEPASS_INVALID_DTYPE, "x: expected %s like weight, got %s; convert it first", type_name(weight->dtype),
                describe(*x).c_str());
  if (kernel.channels != images.channels)
    return fail(ONEPASS_INVALID_SHAPE, "x: expected %lld channels (axis 1) like weight, got %s%s",
                static_cast<long long>(kernel.channels), shape_text(*x).c_str(),
                kernel.channels == images.width
                    ? "; images with channels last: numpy.ascontiguousarray(x.transpose(0, 3, 1, 2)) first"
                    : "");
  ONEPASS_TRY(check_window(given, images, window));
  if (window.kernel[0] != kernel.height || window.kernel[1] != kernel.width)
    return fail(ONEPASS_INVALID_SHAPE, "weight: %s does not have the window's kernel", shape_text(*weight).c_str());
  constexpr std::int64_t kMost = 1 << 30;  // BLAS counts in int
  if (kernel.count > kMost || kernel.image() > kMost)
    return fail(ONEPASS_INVALID_SHAPE, "weight: %s is too large for BLAS", shape_text(*weight).c_str());
  if (window.out_height > kMost / window.out_width || images.plane() > kMost)
    return fail(ONEPASS_INVALID_SHAPE, "x: %s is too large for BLAS", shape_text(*x).c_str());
  return ONEPASS_OK;
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_conv2d(const onepass_array* x, const onepass_array* weight, const onepass_array* bias,
                              const onepass_window* given, int32_t relu, const onepass_array* y, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(need_blas());
    ONEPASS_TRY(check_threads(threads));
    Images images;
    Window window;
    ONEPASS_TRY(check_convolution(x, weight, given, images, window));
    const std::int64_t outputs = weight->shape[0];
    if (present(bias)) ONEPASS_TRY(check_vector("bias", bias, outputs, x->dtype));
    ONEPASS_TRY(check_outputs_of("out", y, *x, images.count, outputs, window));
    ONEPASS_TRY(check_written({"out", y}, {{"x", x}, {"weight", weight}, {"bias", bias}}));
    return with_float(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      const runtime::SerialBlas serial;
      const Convolution<T> convolution = {*table, images, window, outputs, threads};
      convolution.forward(static_cast<const T*>(x->data), static_cast<const T*>(weight->data),
                          present(bias) ? static_cast<const T*>(bias->data) : nullptr, relu != 0,
                          static_cast<T*>(y->data));
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_conv2d_backward(const onepass_array* dy, const onepass_array* x, const onepass_array* weight,
                                       const onepass_window* given, const onepass_array* dx,
                                       const onepass_array* dweight, const onepass_array* dbias, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(need_blas());
    ONEPASS_TRY(check_threads(threads));
    Images images;
    Window window;
    ONEPASS_TRY(check_convolution(x, weight, given, images, window));
    const std::int64_t outputs = weight->shape[0];
    ONEPASS_TRY(check_outputs_of("dy", dy, *x, images.count, outputs, window));
    if (present(dx)) {
      ONEPASS_TRY(check_like("dx", dx, "x", *x));
      ONEPASS_TRY(check_contiguous("dx", *dx));
    }
    if (present(dweight)) {
      ONEPASS_TRY(check_like("dweight", dweight, "weight", *weight));
      ONEPASS_TRY(check_contiguous("dweight", *dweight));
    }
    if (present(dbias)) ONEPASS_TRY(check_vector("dbias", dbias, outputs, x->dtype));
    const Named inputs[] = {{"dy", dy}, {"x", x}, {"weight", weight}};
    const Named written[] = {{"dx", dx}, {"dweight", dweight}, {"dbias", dbias}};
    for (int i = 0; i < 3; ++i) {
      for (const Named& input : inputs)
        ONEPASS_TRY(check_apart(written[i].name, written[i].array, input.name, input.array));
      for (int j = 0; j < i; ++j)
        ONEPASS_TRY(check_apart(written[i].name, written[i].array, written[j].name, written[j].array));
    }
    return with_float(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto data = [](const onepass_array* a) { return present(a) ? static_cast<T*>(a->data) : nullptr; };
      const runtime::SerialBlas serial;
      const Convolution<T> convolution = {*table, images, window, outputs, threads};
      convolution.backward(data(dy), data(x), data(weight), data(dx), data(dweight), data(dbias));
      return ONEPASS_OK;
    });
  });
}
