// Matrix products by BLAS inside the team.
#pragma once

#include <algorithm>
#include <cstdint>

#include "api/arrays.hpp"
#include "runtime/serial_blas.hpp"

namespace onepass::api {

// (rows, columns) with unit stride along the last axis.
struct Matrix {
  void* data;
  std::int64_t rows, columns, stride;  // elements

  template <typename T>
  T* at(std::int64_t row, std::int64_t column) const {
    return static_cast<T*>(data) + row * stride + column;
  }
};

// Unit stride along the last axis, float32 or float64. rows, columns, dtype: what they must be, or -1.
onepass_status check_matrix(const char* name, const onepass_array* a, std::int64_t rows, std::int64_t columns,
                            std::int32_t dtype, Matrix& m);
onepass_status need_blas();

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
    // BLAS packs the operand that is not split once for each piece: pieces are large, 2 Mflop take about 40 us; what is
    // less than two of them is halved
    constexpr std::int64_t kPieceFlops = 1 << 21, kMostPieces = 64, kShortest = 64, kShortestHalf = 32, kGrain = 16;
    const std::int64_t side = by_rows_ ? c.rows : c.columns;
    pieces_ = std::clamp<std::int64_t>(std::min(flops() / kPieceFlops, side / kShortest), 1, kMostPieces);
    if (pieces_ == 1 && flops() >= kPieceFlops && side >= 2 * kShortestHalf) pieces_ = 2;
    length_ = ((side + pieces_ - 1) / pieces_ + kGrain - 1) / kGrain * kGrain;
    pieces_ = (side + length_ - 1) / length_;
  }
  std::int64_t flops() const { return 2 * c_.rows * c_.columns * inner_; }
  std::int64_t pieces() const { return pieces_; }

  // Piece i, added to what is there if accumulate; then finish(first row, rows, first column, columns) while it is in
  // cache.
  template <typename Finish>
  void run(std::int64_t i, Finish&& finish, bool accumulate = false) const {
    const std::int64_t begin = i * length_, side = by_rows_ ? c_.rows : c_.columns;
    const std::int64_t n = std::min(length_, side - begin);
    const std::int64_t row = by_rows_ ? begin : 0, rows = by_rows_ ? n : c_.rows;
    const std::int64_t column = by_rows_ ? 0 : begin, columns = by_rows_ ? c_.columns : n;
    runtime::gemm(transpose_a_, transpose_b_, static_cast<int>(rows), static_cast<int>(columns),
                  static_cast<int>(inner_), transpose_a_ ? a_.at<T>(0, row) : a_.at<T>(row, 0),
                  static_cast<int>(a_.stride), transpose_b_ ? b_.at<T>(column, 0) : b_.at<T>(0, column),
                  static_cast<int>(b_.stride), c_.at<T>(row, column), static_cast<int>(c_.stride), accumulate);
    finish(row, rows, column, columns);
  }

 private:
  Matrix a_, b_, c_;
  bool transpose_a_, transpose_b_;
  std::int64_t inner_;
  bool by_rows_;
  std::int64_t pieces_, length_;
};

}  // namespace onepass::api
