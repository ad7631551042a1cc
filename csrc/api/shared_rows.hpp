// Threads that share rows, or one row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/table.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {

// What rows cost, as bytes of memory traffic that take as long: an element as much as eight elements moved, and the
// end of a row and its logarithm as much as 64 elements. Measured, docs/performance.md.
inline std::int64_t softmax_cost(std::int64_t rows, std::int64_t columns, std::int64_t item) {
  return rows * (columns + 64) * item * 8;
}

// Rows taken sixteen at once: an element the same, the end of a row as much as four.
inline std::int64_t few_classes_cost(std::int64_t rows, std::int64_t classes, std::int64_t item) {
  return rows * (classes + 4) * item * 8;
}

// Threads that share each row, one row after another, because rows are few and long; 1: rows are shared out whole. A
// shared row passes three parallel regions (maximum, sums, result), of which each must be worth waking the team:
// 8 x 4 bytes x columns / 3 >= kSerialBytes holds for float32 rows of 49,152 columns and more. From two rows a thread
// on, whole rows keep all threads busy for three quarters of the time or more. Which way is taken changes no bit.
inline int threads_within_row(std::int32_t threads, std::int64_t rows, std::int64_t columns, std::int64_t item) {
  const std::int64_t pieces = (columns + kRowPiece - 1) / kRowPiece;
  const int team = runtime::team_size(threads, pieces, softmax_cost(1, columns, item) / 3);
  return rows < 2 * team ? team : 1;
}

// body(piece, begin, end) for every piece of a row.
template <typename Body>
void share_row(int team, std::int64_t columns, Body&& body) {
  runtime::parallel(team, (columns + kRowPiece - 1) / kRowPiece, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) body(i, i * kRowPiece, std::min((i + 1) * kRowPiece, columns));
  });
}

// The largest element of a row whose pieces load(begin, end) brings in.
template <typename T, typename Load>
T shared_maximum(const KernelTable& table, int team, const T* x, std::int64_t columns, Load&& load) {
  std::vector<T> maxima(static_cast<std::size_t>((columns + kRowPiece - 1) / kRowPiece));
  share_row(team, columns, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    load(begin, end);
    maxima[static_cast<std::size_t>(i)] = table.kernels<T>().piece_maximum(x + begin, end - begin);
  });
  T max = -std::numeric_limits<T>::infinity();
  for (const T m : maxima) max = m > max ? m : max;
  return max;
}

// (Log-)softmax of one row, by one thread or by a team; load(begin, end) brings x in, store(begin, end) takes out away.
template <typename T, typename Load, typename Store>
void softmax_of_row(const KernelTable& table, int team, const T* x, T* out, std::int64_t columns, bool log,
                    const RowsAhead& ahead, Load&& load, Store&& store) {
  const FloatKernels<T>& k = table.kernels<T>();
  if (team == 1) {
    load(0, columns);
    k.softmax_row(x, out, columns, log, ahead);
    return store(0, columns);
  }
  const RowPeak<T> peak = k.softmax_peak(x, columns, shared_maximum(table, team, x, columns, load), log);
  std::vector<double> sums(static_cast<std::size_t>((columns + kRowPiece - 1) / kRowPiece));
  share_row(team, columns, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    sums[static_cast<std::size_t>(i)] = k.softmax_sum(x, out, begin, end, peak, log, {x, out});
  });
  double others = 0.0;
  for (const double sum : sums) others += sum;
  share_row(team, columns, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    k.softmax_write(x, out, begin, end, peak, others, log);
    store(begin, end);
  });
}

}  // namespace onepass::api
