// One-pass kernels that layers need beside the large ones.
#pragma once

#include <cstdint>

#include "kernels/lanes.hpp"
#include "kernels/loops.hpp"

namespace {

template <typename T>
void bias_relu(T* y, const T* __restrict bias, bool relu, std::int64_t rows, std::int64_t columns,
               std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    T* __restrict row = y + r * stride;
    if (bias)
      for (std::int64_t c = 0; c < columns; ++c) row[c] = row[c] + bias[c];
    if (relu)
      for (std::int64_t c = 0; c < columns; ++c) row[c] = row[c] < T(0) ? T(0) : row[c];
  }
}

// Sums of (rows, columns) over the rows: 64 rows in T, then in double.
template <typename T>
void column_sums(const T* x, T* sums, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  constexpr std::int64_t kTile = 256, kRows = 64;
  for (std::int64_t tile = 0; tile < columns; tile += kTile) {
    const std::int64_t n = columns - tile < kTile ? columns - tile : kTile;
    double total[kTile] = {};
    for (std::int64_t block = 0; block < rows; block += kRows) {
      const std::int64_t end = rows - block < kRows ? rows : block + kRows;
      T part[kTile] = {};
      for (std::int64_t r = block; r < end; ++r) {
        const T* __restrict row = x + r * stride + tile;
        for (std::int64_t c = 0; c < n; ++c) part[c] += row[c];
      }
      for (std::int64_t c = 0; c < n; ++c) total[c] += static_cast<double>(part[c]);
    }
    for (std::int64_t c = 0; c < n; ++c) sums[tile + c] = static_cast<T>(total[c]);
  }
}

// sums (columns) += x (rows, columns), row by row.
template <typename T>
void add_column_sums(const T* x, double* sums, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * stride;
    ONEPASS_INDEPENDENT
    for (std::int64_t c = 0; c < columns; ++c) sums[c] += static_cast<double>(row[c]);
  }
}

// In double: a float32 gradient of 1e20 still has a norm.
template <typename T>
double sum_of_squares(const T* x, std::int64_t n) {
  Lanes<double> sum = Lanes<double>::all(0.0);
  for_groups(n, [&](std::int64_t j, std::int64_t count) {
    T padded[kLanes] = {};
    const T* p = x + j;
    if (count < kLanes) {
      for (std::int64_t l = 0; l < count; ++l) padded[l] = p[l];
      p = padded;
    }
    const Lanes<double> v = load_double(p);
    sum = sum + v * v;
  });
  return sum.sum();
}

}  // namespace
