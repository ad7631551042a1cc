// Linear layers (BLAS inside the team), ReLU, mean squared error.
#include <algorithm>
#include <cmath>
#include <vector>

#include "api/product.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

// Calls body(kernels, begin, end) on ranges of n elements in multiples of a cache line.
template <typename T, typename Body>
void elementwise(const KernelTable& table, std::int64_t n, std::int64_t arrays, std::int32_t threads, Body&& body) {
  constexpr std::int64_t kGrain = 64 / sizeof(T);
  const std::int64_t grains = (n + kGrain - 1) / kGrain;
  const std::int64_t bytes = n * arrays * static_cast<std::int64_t>(sizeof(T));
  runtime::parallel(runtime::team_size(threads, grains, bytes), grains, [&](std::int64_t begin, std::int64_t end) {
    body(table.kernels<T>(), begin * kGrain, std::min(end * kGrain, n));
  });
}

onepass_status check_elementwise(const char* name, const onepass_array* a, const char* model_name,
                                 const onepass_array& model) {
  ONEPASS_TRY(check_like(name, a, model_name, model));
  return check_contiguous(name, *a);
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_set_blas(const onepass_blas* blas) {
  return guarded(
      [&] { return blas == nullptr ? fail(ONEPASS_INVALID_VALUE, "blas: is null") : runtime::set_blas(*blas); });
}

onepass_status onepass_linear(const onepass_array* x, const onepass_array* weight, const onepass_array* bias,
                              int32_t relu, const onepass_array* y, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(need_blas());
    ONEPASS_TRY(check_threads(threads));
    Matrix mx, mw, my;
    ONEPASS_TRY(check_matrix("weight", weight, -1, -1, -1, mw));
    ONEPASS_TRY(check_matrix("x", x, -1, mw.columns, weight->dtype, mx));
    ONEPASS_TRY(check_matrix("out", y, mx.rows, mw.rows, x->dtype, my));
    if (present(bias)) ONEPASS_TRY(check_vector("bias", bias, mw.rows, x->dtype));
    ONEPASS_TRY(check_apart("out", y, "x", x));
    ONEPASS_TRY(check_apart("out", y, "weight", weight));
    ONEPASS_TRY(check_apart("out", y, "bias", bias));
    return with_float(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      const T* b = present(bias) ? static_cast<const T*>(bias->data) : nullptr;
      const Product<T> product(mx, false, mw, true, my);
      const runtime::SerialBlas serial;
      runtime::parallel(runtime::team_size(threads, product.pieces(), product.flops() / runtime::kFlopsPerByte),
                        product.pieces(), [&](std::int64_t begin, std::int64_t end) {
                          for (std::int64_t i = begin; i < end; ++i)
                            product.run(
                                i, [&](std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
                                  table->kernels<T>().bias_relu(my.at<T>(row, column), b ? b + column : nullptr,
                                                                relu != 0, rows, columns, my.stride);
                                });
                        });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_linear_backward(const onepass_array* dy, const onepass_array* x, const onepass_array* weight,
                                       const onepass_array* dx, const onepass_array* dweight,
                                       const onepass_array* dbias, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(need_blas());
    ONEPASS_TRY(check_threads(threads));
    Matrix mdy, mx, mw, mdx = {}, mdw = {};
    ONEPASS_TRY(check_matrix("weight", weight, -1, -1, -1, mw));
    ONEPASS_TRY(check_matrix("x", x, -1, mw.columns, weight->dtype, mx));
    ONEPASS_TRY(check_matrix("dy", dy, mx.rows, mw.rows, x->dtype, mdy));
    const onepass_array* outputs[] = {dx, dweight, dbias};
    const char* names[] = {"dx", "dweight", "dbias"};
    if (present(dx)) ONEPASS_TRY(check_matrix("dx", dx, mx.rows, mx.columns, x->dtype, mdx));
    if (present(dweight)) ONEPASS_TRY(check_matrix("dweight", dweight, mw.rows, mw.columns, x->dtype, mdw));
    if (present(dbias)) ONEPASS_TRY(check_vector("dbias", dbias, mw.rows, x->dtype));
    for (int i = 0; i < 3; ++i) {
      ONEPASS_TRY(check_apart(names[i], outputs[i], "dy", dy));
      ONEPASS_TRY(check_apart(names[i], outputs[i], "x", x));
      ONEPASS_TRY(check_apart(names[i], outputs[i], "weight", weight));
      for (int j = 0; j < i; ++j) ONEPASS_TRY(check_apart(names[i], outputs[i], names[j], outputs[j]));
    }
    return with_float(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      std::vector<Product<T>> products;  // dx and dweight share one parallel region
      if (present(dx)) products.emplace_back(mdy, false, mw, false, mdx);
      if (present(dweight)) products.emplace_back(mdy, true, mx, false, mdw);
      std::int64_t tasks = present(dbias) ? 1 : 0, flops = 0;
      for (const Product<T>& product : products) {
        tasks += product.pieces();
        flops += product.flops();
      }
      const runtime::SerialBlas serial;
      runtime::parallel(runtime::team_size(threads, tasks, flops / runtime::kFlopsPerByte), tasks,
                        [&](std::int64_t begin, std::int64_t end) {
                          for (std::int64_t i = begin; i < end; ++i) {
                            std::int64_t piece = i;
                            bool done = false;
                            for (const Product<T>& product : products) {
                              done = piece < product.pieces();
                              if (done) {
                                product.run(piece, [](auto...) {});
                                break;
                              }
                              piece -= product.pieces();
                            }
                            if (!done)
                              table->kernels<T>().column_sums(mdy.at<T>(0, 0), static_cast<T*>(dbias->data), mdy.rows,
                                                              mdy.columns, mdy.stride);
                          }
                        });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_relu(const onepass_array* x, const onepass_array* y, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_float("x", x));
    ONEPASS_TRY(check_contiguous("x", *x));
    ONEPASS_TRY(check_elementwise("out", y, "x", *x));
    ONEPASS_TRY(check_in_place("out", *y, "x", *x));
    return with_float(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      elementwise<T>(*table, elements(*x), 2, threads, [&](const auto& k, std::int64_t begin, std::int64_t end) {
        k.relu(static_cast<const T*>(x->data) + begin, static_cast<T*>(y->data) + begin, end - begin);
      });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_relu_backward(const onepass_array* dy, const onepass_array* y, const onepass_array* dx,
                                     int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_float("dy", dy));
    ONEPASS_TRY(check_contiguous("dy", *dy));
    ONEPASS_TRY(check_elementwise("y", y, "dy", *dy));
    ONEPASS_TRY(check_elementwise("out", dx, "dy", *dy));
    ONEPASS_TRY(check_in_place("out", *dx, "dy", *dy));
    ONEPASS_TRY(check_apart("out", dx, "y", y));
    return with_float(dy->dtype, [&](auto zero) {
      using T = decltype(zero);
      elementwise<T>(*table, elements(*dy), 3, threads, [&](const auto& k, std::int64_t begin, std::int64_t end) {
        k.relu_backward(static_cast<const T*>(dy->data) + begin, static_cast<const T*>(y->data) + begin,
                        static_cast<T*>(dx->data) + begin, end - begin);
      });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_mean_squared_error(const onepass_array* prediction, const onepass_array* target,
                                          int32_t reduction, const onepass_array* loss, double* total,
                                          const onepass_array* grad, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_float("prediction", prediction));
    ONEPASS_TRY(check_contiguous("prediction", *prediction));
    ONEPASS_TRY(check_elementwise("target", target, "prediction", *prediction));
    if (reduction < ONEPASS_NONE || reduction > ONEPASS_SUM)
      return fail(ONEPASS_INVALID_VALUE, "reduction: unknown code %d", reduction);
    const std::int64_t n = elements(*prediction);
    if (n == 0) return fail(ONEPASS_INVALID_SHAPE, "prediction: is empty, shape %s", shape_text(*prediction).c_str());
    const bool each = reduction == ONEPASS_NONE;
    if (each) {
      ONEPASS_TRY(check_elementwise("loss", loss, "prediction", *prediction));
      ONEPASS_TRY(check_apart("loss", loss, "prediction", prediction));
      ONEPASS_TRY(check_apart("loss", loss, "target", target));
      ONEPASS_TRY(check_apart("loss", loss, "grad", grad));
    } else if (total == nullptr) {
      return fail(ONEPASS_INVALID_VALUE, "total: is null");
    }
    if (present(grad)) {
      ONEPASS_TRY(check_elementwise("grad", grad, "prediction", *prediction));
      ONEPASS_TRY(check_in_place("grad", *grad, "prediction", *prediction));
      ONEPASS_TRY(check_apart("grad", grad, "target", target));
    }
    return with_float(prediction->dtype, [&](auto zero) {
      using T = decltype(zero);
      const double scale = reduction == ONEPASS_MEAN ? 1.0 / static_cast<double>(n) : 1.0;
      constexpr std::int64_t kPart = 1 << 14;  // elements summed by one call; parts are added in order
      const std::int64_t parts = (n + kPart - 1) / kPart;
      std::vector<double> sums(static_cast<std::size_t>(parts));
      const std::int64_t bytes = 3 * n * static_cast<std::int64_t>(sizeof(T));
      runtime::parallel(runtime::team_size(threads, parts, bytes), parts, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t at = i * kPart;
          sums[static_cast<std::size_t>(i)] = table->kernels<T>().squared_error(
              static_cast<const T*>(prediction->data) + at, static_cast<const T*>(target->data) + at,
              each ? static_cast<T*>(loss->data) + at : nullptr,
              present(grad) ? static_cast<T*>(grad->data) + at : nullptr, static_cast<T>(scale),
              std::min(kPart, n - at));
        }
      });
      if (!each) {
        double sum = 0.0;
        for (const double s : sums) sum += s;
        *total = sum * scale;
      }
      return ONEPASS_OK;
    });
  });
}
