// Linear layers: BLAS inside the team.
#include <algorithm>
#include <climits>
#include <cmath>
#include <vector>

#include "api/arrays.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/serial_blas.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

// (rows, columns) with unit stride along the last axis.
struct Matrix {
  const onepass_array* array;
  std::int64_t rows, columns, stride;  // elements

  template <typename T>
  T* at(std::int64_t row, std::int64_t column) const {
    return static_cast<T*>(array->data) + row * stride + column;
  }
};

onepass_status check_matrix(const char* name, const onepass_array* a, std::int64_t rows, std::int64_t columns,
                            std::int32_t dtype, Matrix& m) {
  ONEPASS_TRY(check_float(name, a));
  if (dtype >= 0 && a->dtype != dtype)
    return fail(ONEPASS_INVALID_DTYPE, "%s: expected %s like weight, got %s; convert it first", name, type_name(dtype),
                describe(*a).c_str());
  if (a->ndim != 2 || (rows >= 0 && a->shape[0] != rows) || (columns >= 0 && a->shape[1] != columns)) {
    const auto text = [](std::int64_t n, const char* any) { return n >= 0 ? std::to_string(n) : any; };
    return fail(ONEPASS_INVALID_SHAPE, "%s: expected shape (%s, %s), got %s", name, text(rows, "rows").c_str(),
                text(columns, "columns").c_str(), shape_text(*a).c_str());
  }
  if (elements(*a) == 0) return fail(ONEPASS_INVALID_SHAPE, "%s: is empty, shape %s", name, shape_text(*a).c_str());
  const std::int64_t item = itemsize(a->dtype);
  m = {a, a->shape[0], a->shape[1], a->shape[0] == 1 ? a->shape[1] : stride(*a, 0) / item};
  if ((m.columns > 1 && stride(*a, 1) != item) || m.stride < m.columns)
    return fail(ONEPASS_INVALID_LAYOUT,
                "%s: expected rows without gaps between their elements; copy it with"
                " numpy.ascontiguousarray first",
                name);
  if (m.rows > INT_MAX || m.stride > INT_MAX)
    return fail(ONEPASS_INVALID_SHAPE, "%s: %s is too large for BLAS", name, shape_text(*a).c_str());
  return ONEPASS_OK;
}

// C = A B, split along the longer side of C into pieces that depend on the shapes alone, so that the bits do not depend
// on the threads.
template <typename T>
class Product {
 public:
  Product(Matrix a, bool transpose_a, Matrix b, bool transpose_b, Matrix c)
      : a_(a),
        b_(b),
        c_(c),
        transpose_a_(transpose_a),
        transpose_b_(transpose_b),
        inner_(transpose_a ? a.rows : a.columns),
        by_rows_(c.rows >= c.columns) {
    // BLAS packs the operand that is not split once for each piece: pieces are large, 2 Mflop take about 30 us
    constexpr std::int64_t kPieceFlops = 1 << 21, kMostPieces = 64, kShortest = 64;
    const std::int64_t side = by_rows_ ? c.rows : c.columns;
    pieces_ = std::clamp<std::int64_t>(std::min(flops() / kPieceFlops, side / kShortest), 1, kMostPieces);
    length_ = (side + pieces_ - 1) / pieces_;
    length_ = (length_ + kShortest - 1) / kShortest * kShortest;
    pieces_ = (side + length_ - 1) / length_;
  }
  std::int64_t flops() const { return 2 * c_.rows * c_.columns * inner_; }
  std::int64_t pieces() const { return pieces_; }

  // Piece i; then finish(first row, rows, first column, columns) while it is in cache.
  template <typename Finish>
  void run(std::int64_t i, Finish&& finish) const {
    const std::int64_t begin = i * length_, side = by_rows_ ? c_.rows : c_.columns;
    const std::int64_t n = std::min(length_, side - begin);
    const std::int64_t row = by_rows_ ? begin : 0, rows = by_rows_ ? n : c_.rows;
    const std::int64_t column = by_rows_ ? 0 : begin, columns = by_rows_ ? c_.columns : n;
    runtime::gemm(transpose_a_, transpose_b_, static_cast<int>(rows), static_cast<int>(columns),
                  static_cast<int>(inner_), transpose_a_ ? a_.at<T>(0, row) : a_.at<T>(row, 0),
                  static_cast<int>(a_.stride), transpose_b_ ? b_.at<T>(column, 0) : b_.at<T>(0, column),
                  static_cast<int>(b_.stride), c_.at<T>(row, column), static_cast<int>(c_.stride));
    finish(row, rows, column, columns);
  }

 private:
  Matrix a_, b_, c_;
  bool transpose_a_, transpose_b_;
  std::int64_t inner_;
  bool by_rows_;
  std::int64_t pieces_, length_;
};

onepass_status need_blas() {
  return runtime::has_blas() ? ONEPASS_OK : fail(ONEPASS_UNAVAILABLE, "linear: no BLAS; call onepass_set_blas first");
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
