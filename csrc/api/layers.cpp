// Linear layers: BLAS inside the team.
#include <algorithm>
#include <cmath>
#include <vector>

#include "api/product.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

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
