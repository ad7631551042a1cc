// Softmax, log-softmax, and softmax cross-entropy with its gradient, one row at a time: the row is read from memory
// once and stays in cache for the passes below.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/lanes.hpp"
#include "kernels/loops.hpp"
#include "kernels/math.hpp"
#include "kernels/table.hpp"

namespace {

using onepass::CrossEntropyRow;
using onepass::RowsAhead;

template <typename T>
T row_maximum(const T* x, std::int64_t n) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  Lanes<T> m = Lanes<T>::all(lowest);
  std::int64_t j = 0;
  if (n >= 4 * kLanes) {  // a comparison waits for the one before: four chains
    Lanes<T> chains[4] = {m, m, m, m};
    for (; j + 4 * kLanes <= n; j += 4 * kLanes)
      for (int k = 0; k < 4; ++k) chains[k] = maximum(Lanes<T>::load(x + j + k * kLanes), chains[k]);
    m = maximum(maximum(chains[0], chains[1]), maximum(chains[2], chains[3]));
  }
  for_groups(n - j, [&](std::int64_t k, std::int64_t count) { m = maximum(load_group(x + j + k, count, lowest), m); });
  return m.max();
}

template <typename T>
std::int64_t first_equal(const T* x, std::int64_t n, T value) {
  for (std::int64_t j = 0; j < n; ++j)
    if (x[j] == value) return j;
  return 0;  // all NaN
}

struct ExpSum {
  double others;   // sum over all elements but one
  double special;  // that one: kept apart, so that 1 - p of a confident row does not cancel
  double total() const { return others + special; }
  // log of the total; `largest` says that special is exp(0), or NaN where the largest logit is infinite
  double log(bool largest) const {
    return largest ? log1p_nonnegative(others) + (special - special) : log_positive(total());
  }
};

// exp(x - max) into e (if stored), and its sum. The next rows are fetched meanwhile: the loop computes far longer than
// it moves bytes, and the hardware's prefetchers stop at every page.
template <bool stored, typename T>
ExpSum exp_sum(const T* x, T* e, std::int64_t n, T max, std::int64_t special, const RowsAhead& ahead) {
  using L = Lanes<T>;
  const L shift = L::all(max);
  const std::int64_t special_group = special - special % kLanes;
  ExpSum result = {0.0, static_cast<double>(exp_nonpositive(L::all(x[special]) - shift).v[0][0])};
  for (std::int64_t block = 0; block < n; block += kBlock) {
    const std::int64_t length = n - block < kBlock ? n - block : kBlock;
    L sum = L::all(T(0));
    for_groups(length, [&](std::int64_t offset, std::int64_t count) {
      const std::int64_t j = block + offset;
      for (std::size_t byte = 0; byte < kLanes * sizeof(T); byte += 64) {
        const std::int64_t at = j * static_cast<std::int64_t>(sizeof(T)) + static_cast<std::int64_t>(byte);
        prefetch(ahead.read, at);
        if constexpr (stored) prefetch(ahead.write, at);
      }
      L v = exp_nonpositive(load_group(x + j, count, -std::numeric_limits<T>::infinity()) - shift);
      if constexpr (stored) store_group(v, e + j, count);
      if (j == special_group) [[unlikely]]
        v = v.without(static_cast<int>(special - special_group));
      sum = sum + v;
    });
    result.others += sum.sum();
  }
  return result;
}

template <typename T>
void scale_row(const T* x, T* out, T factor, std::int64_t n) {
  ONEPASS_INDEPENDENT
  for (std::int64_t j = 0; j < n; ++j) out[j] = x[j] * factor;
}

// out may be x.
template <typename T>
void softmax_row(const T* x, T* out, std::int64_t n, const RowsAhead& ahead) {
  const T max = row_maximum(x, n);
  const ExpSum sum = exp_sum<true>(x, out, n, max, 0, ahead);
  scale_row(out, out, static_cast<T>(1.0 / sum.total()), n);
}

// out may be x.
template <typename T>
void log_softmax_row(const T* x, T* out, std::int64_t n, const RowsAhead& ahead) {
  const T max = row_maximum(x, n);
  const ExpSum sum = exp_sum<false, T>(x, nullptr, n, max, first_equal(x, n, max), ahead);
  const T log_sum = static_cast<T>(sum.log(true));
  ONEPASS_INDEPENDENT
  for (std::int64_t j = 0; j < n; ++j) out[j] = (x[j] - max) - log_sum;
}

// A row whose target is one class and nothing else: loss = w (lse - x_y), grad = w (p - onehot).
template <bool stored, typename T>
double cross_entropy_one_class(const CrossEntropyRow<T>& row) {
  const std::int64_t n = row.classes, y = row.label;
  const double w = row.weight ? static_cast<double>(row.weight[y]) : 1.0;
  const T x_y = row.logits[y];
  const T max = row_maximum(row.logits, n);
  const ExpSum sum = exp_sum<stored>(row.logits, row.grad, n, max, y, row.ahead);
  const double log_sum = sum.log(x_y == max);
  const double lse = static_cast<double>(max) + log_sum;
  if constexpr (stored) {
    const double total = sum.total();
    // without a z-loss the gradient need not wait for the logarithm
    const double slope = row.z_loss != 0.0 ? w + 2.0 * row.z_loss * lse : w;
    scale_row(row.grad, row.grad, static_cast<T>(row.scale * slope / total), n);
    row.grad[y] = static_cast<T>(row.scale * ((slope - w) * sum.special - w * sum.others) / total);
  }
  return w * (log_sum + (static_cast<double>(max) - static_cast<double>(x_y))) + row.z_loss * lse * lse;
}

// Any target: t = (1 - s) target + s / C; loss = sum_j t_j w_j (lse - x_j), grad = (sum_j t_j w_j) p - t w.
template <bool stored, typename T>
double cross_entropy_any(const CrossEntropyRow<T>& row) {
  const std::int64_t n = row.classes;
  const double smooth = row.label_smoothing / static_cast<double>(n);
  const double keep = 1.0 - row.label_smoothing;
  const auto target = [&](std::int64_t j) {
    const double given = row.probabilities ? static_cast<double>(row.probabilities[j]) : (j == row.label ? 1.0 : 0.0);
    return (keep * given + smooth) * (row.weight ? static_cast<double>(row.weight[j]) : 1.0);
  };
  const T max = row_maximum(row.logits, n);
  Lanes<double> masses = Lanes<double>::all(0.0), distances = masses;
  for_groups(n, [&](std::int64_t j, std::int64_t count) {
    double t[kLanes] = {}, d[kLanes] = {};
    for (std::int64_t l = 0; l < count; ++l) {
      t[l] = target(j + l);
      const double far = static_cast<double>(max) - static_cast<double>(row.logits[j + l]);
      d[l] = t[l] != 0.0 ? t[l] * far : 0.0;  // a class of no weight may have a logit of minus infinity
    }
    masses = masses + Lanes<double>::load(t);
    distances = distances + Lanes<double>::load(d);
  });
  // without weights a class's smoothed distribution has mass 1 exactly
  const double mass = row.weight || row.probabilities ? masses.sum() : 1.0;
  const double distance = distances.sum();
  const std::int64_t special = first_equal(row.logits, n, max);
  const ExpSum sum = exp_sum<stored>(row.logits, row.grad, n, max, special, row.ahead);
  const double log_sum = sum.log(true);
  const double lse = static_cast<double>(max) + log_sum;
  if constexpr (stored) {
    const double slope = (mass + 2.0 * row.z_loss * lse) / sum.total();
    for (std::int64_t j = 0; j < n; ++j)
      row.grad[j] = static_cast<T>(row.scale * (slope * static_cast<double>(row.grad[j]) - target(j)));
  }
  return mass * log_sum + distance + row.z_loss * lse * lse;
}

template <typename T>
double cross_entropy_row(const CrossEntropyRow<T>& row) {
  const bool one_class = row.probabilities == nullptr && row.label_smoothing == 0.0;
  if (one_class) return row.grad ? cross_entropy_one_class<true>(row) : cross_entropy_one_class<false>(row);
  return row.grad ? cross_entropy_any<true>(row) : cross_entropy_any<false>(row);
}

}  // namespace
