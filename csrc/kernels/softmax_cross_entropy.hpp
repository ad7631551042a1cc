// Softmax, log-softmax, and softmax cross-entropy with its gradient. A row is read from memory once and stays in cache
// for the passes below: its maximum, its sums, what is written.
//
// Sums are made in pieces of kRowPiece elements, added in order. The functions of a whole row and those of one piece,
// with which threads share a row, are the same, so they give the same bits.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/lanes.hpp"
#include "kernels/loops.hpp"
#include "kernels/math.hpp"
#include "kernels/table.hpp"

namespace {

using onepass::CrossEntropyRow;
using onepass::kRowPiece;
using onepass::RowPeak;
using onepass::RowResult;
using onepass::RowsAhead;
using onepass::RowSums;

// visit(begin, end) for every piece of a row.
template <typename Visit>
void for_pieces(std::int64_t n, Visit&& visit) {
  for (std::int64_t begin = 0; begin < n; begin += kRowPiece)
    visit(begin, n - begin < kRowPiece ? n : begin + kRowPiece);
}

template <typename T>
T piece_maximum(const T* x, std::int64_t n) {
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
T row_maximum(const T* x, std::int64_t n) {
  T max = -std::numeric_limits<T>::infinity();
  for_pieces(n, [&](std::int64_t begin, std::int64_t end) {
    const T m = piece_maximum(x + begin, end - begin);
    max = m > max ? m : max;
  });
  return max;
}

template <typename T>
std::int64_t first_equal(const T* x, std::int64_t n, T value) {
  constexpr std::int64_t kRun = 256;  // looked at without a branch
  std::int64_t j = 0;
  for (; j + kRun <= n; j += kRun) {
    int found = 0;
    for (std::int64_t k = 0; k < kRun; ++k) found |= x[j + k] == value ? 1 : 0;
    if (found != 0) break;
  }
  for (; j < n; ++j)
    if (x[j] == value) return j;
  return 0;  // all NaN
}

template <typename T>
double exp_one(T x, T max) {
  return static_cast<double>(exp_nonpositive(Lanes<T>::all(x) - Lanes<T>::all(max)).v[0][0]);
}

// The special element is kept apart from the sum of the others, so that 1 - p of a confident row does not cancel.
template <typename T>
RowPeak<T> peak_at(const T* x, std::int64_t special, T max) {
  return {max, x[special], special, exp_one(x[special], max)};
}

// log of the sum of all; where the special element is exp(0), of 1 + others, and NaN where the largest is infinite
template <typename T>
double log_sum_of(const RowPeak<T>& peak, double others) {
  return peak.logit == peak.max ? log1p_nonnegative(others) + (peak.exp - peak.exp) : log_positive(others + peak.exp);
}

// exp(x - max) into e (if stored), and its sum without element `special`, which may lie outside. The next rows are
// fetched meanwhile: the loop computes far longer than it moves bytes, and the hardware's prefetchers stop at every
// page.
template <bool stored, typename T>
double exp_sum(const T* x, T* e, std::int64_t n, T max, std::int64_t special, const RowsAhead& ahead) {
  using L = Lanes<T>;
  const L shift = L::all(max);
  const std::int64_t special_group = special & ~std::int64_t{kLanes - 1};
  double others = 0.0;
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
    others += sum.sum();
  }
  return others;
}

// Of elements [begin, end); e may be null, and may be x.
template <typename T>
double exp_sum_piece(const T* x, T* e, std::int64_t begin, std::int64_t end, const RowPeak<T>& peak,
                     const RowsAhead& ahead) {
  const std::int64_t n = end - begin, special = peak.special - begin;
  const RowsAhead own = {static_cast<const T*>(ahead.read) + begin, static_cast<const T*>(ahead.write) + begin};
  return e ? exp_sum<true>(x + begin, e + begin, n, peak.max, special, own)
           : exp_sum<false, T>(x + begin, nullptr, n, peak.max, special, own);
}

template <typename T>
void scale_row(const T* x, T* out, T factor, std::int64_t n) {
  ONEPASS_INDEPENDENT
  for (std::int64_t j = 0; j < n; ++j) out[j] = x[j] * factor;
}

// ---- softmax: out may be x everywhere

template <typename T>
RowPeak<T> softmax_peak(const T* x, std::int64_t n, T max, bool log) {
  return peak_at(x, log ? first_equal(x, n, max) : 0, max);
}

// Softmax makes the exponentials where they will be scaled, log-softmax none.
template <typename T>
double softmax_sum(const T* x, T* out, std::int64_t begin, std::int64_t end, const RowPeak<T>& peak, bool log,
                   const RowsAhead& ahead) {
  return exp_sum_piece(x, log ? nullptr : out, begin, end, peak, ahead);
}

template <typename T>
void softmax_write(const T* x, T* out, std::int64_t begin, std::int64_t end, const RowPeak<T>& peak, double others,
                   bool log) {
  if (!log) return scale_row(out + begin, out + begin, static_cast<T>(1.0 / (others + peak.exp)), end - begin);
  const T log_sum = static_cast<T>(log_sum_of(peak, others)), max = peak.max;
  ONEPASS_INDEPENDENT
  for (std::int64_t j = begin; j < end; ++j) out[j] = (x[j] - max) - log_sum;
}

template <typename T>
void softmax_row(const T* x, T* out, std::int64_t n, bool log, const RowsAhead& ahead) {
  const RowPeak<T> peak = softmax_peak(x, n, row_maximum(x, n), log);
  double others = 0.0;
  for_pieces(
      n, [&](std::int64_t begin, std::int64_t end) { others += softmax_sum(x, out, begin, end, peak, log, ahead); });
  softmax_write(x, out, 0, n, peak, others, log);
}

// ---- cross-entropy

// The target is one class and nothing else: loss = w (lse - x_y), grad = w (p - onehot).
template <typename T>
bool one_class(const CrossEntropyRow<T>& row) {
  return row.probabilities == nullptr && row.label_smoothing == 0.0;
}

template <typename T>
Lanes<double> load_group_double(const T* p, std::int64_t n) {
  if (n == kLanes) return load_double(p);
  T padded[kLanes] = {};
  for (std::int64_t l = 0; l < n; ++l) padded[l] = p[l];
  return load_double(padded);
}

// Any target: t = ((1 - s) target + s / C) w; loss = sum_j t_j (lse - x_j), grad = (sum_j t_j) p - t. The label's own
// element is left to the caller.
template <bool weighted, bool given, typename T>
struct Target {
  const T *weights, *probabilities;
  std::int64_t label;
  double keep, smooth;

  explicit Target(const CrossEntropyRow<T>& row)
      : weights(row.weight),
        probabilities(row.probabilities),
        label(row.label),
        keep(1.0 - row.label_smoothing),
        smooth(row.label_smoothing / static_cast<double>(row.classes)) {}
  double operator()(std::int64_t j) const {
    const double t = given ? keep * static_cast<double>(probabilities[j]) + smooth : smooth;
    return weighted ? t * static_cast<double>(weights[j]) : t;
  }
  // elements [j, j + count) as lanes, the rest zero
  Lanes<double> group(std::int64_t j, std::int64_t count) const {
    using Wide = Lanes<double>;
    Wide t = Wide::all(smooth);
    if constexpr (given) t = Wide::all(keep) * load_group_double(probabilities + j, count) + t;
    if constexpr (weighted) t = t * load_group_double(weights + j, count);
    if (count == kLanes && !holds_label(j, j + count)) [[likely]]
      return t;
    double lanes[kLanes];
    t.store(lanes);
    if (holds_label(j, j + count)) lanes[label - j] = at_label();
    for (std::int64_t l = count; l < kLanes; ++l) lanes[l] = 0.0;
    return Wide::load(lanes);
  }
  double at_label() const { return weighted ? (keep + smooth) * static_cast<double>(weights[label]) : keep + smooth; }
  bool holds_label(std::int64_t begin, std::int64_t end) const { return !given && label >= begin && label < end; }
};

// visit(Target): a bool inside the loops would keep them from being vectorized.
template <typename T, typename Visit>
void with_target(const CrossEntropyRow<T>& row, Visit&& visit) {
  if (row.probabilities)
    row.weight ? visit(Target<true, true, T>(row)) : visit(Target<false, true, T>(row));
  else
    row.weight ? visit(Target<true, false, T>(row)) : visit(Target<false, false, T>(row));
}

// The target's mass, and its mean distance from the largest logit.
template <typename T, typename Target>
void target_sums(const CrossEntropyRow<T>& row, const Target& target, T max, std::int64_t begin, std::int64_t end,
                 RowSums& sums) {
  const Lanes<double> highest = Lanes<double>::all(static_cast<double>(max));
  Lanes<double> masses = Lanes<double>::all(0.0), distances = masses;
  for_groups(end - begin, [&](std::int64_t offset, std::int64_t count) {
    const std::int64_t j = begin + offset;
    const Lanes<double> t = target.group(j, count);
    // a class of no weight may have a logit of minus infinity
    distances = distances + where_nonzero(t, t * (highest - load_group_double(row.logits + j, count)));
    masses = masses + t;
  });
  sums.mass += masses.sum();
  sums.distance += distances.sum();
}

template <typename T>
RowPeak<T> cross_entropy_peak(const CrossEntropyRow<T>& row, T max) {
  return peak_at(row.logits, one_class(row) ? row.label : first_equal(row.logits, row.classes, max), max);
}

// Adds elements [begin, end), and leaves their exponentials in grad.
template <typename T>
void cross_entropy_sums(const CrossEntropyRow<T>& row, const RowPeak<T>& peak, std::int64_t begin, std::int64_t end,
                        RowSums& sums) {
  if (!one_class(row))
    with_target(row, [&](const auto& target) { target_sums(row, target, peak.max, begin, end, sums); });
  sums.others += exp_sum_piece(row.logits, row.grad, begin, end, peak, row.ahead);
}

template <typename T>
RowResult<T> cross_entropy_result(const CrossEntropyRow<T>& row, const RowPeak<T>& peak, const RowSums& sums) {
  const double log_sum = log_sum_of(peak, sums.others), total = sums.others + peak.exp;
  const double max = static_cast<double>(peak.max), lse = max + log_sum, z = row.z_loss * lse * lse;
  if (one_class(row)) {
    const double w = row.weight ? static_cast<double>(row.weight[row.label]) : 1.0;
    const double distance = w != 0.0 ? w * (log_sum + (max - static_cast<double>(peak.logit))) : 0.0 * log_sum;
    // without a z-loss the gradient need not wait for the logarithm
    const double slope = row.z_loss != 0.0 ? w + 2.0 * row.z_loss * lse : w;
    return {distance + z, row.scale * slope / total,
            static_cast<T>(row.scale * ((slope - w) * peak.exp - w * sums.others) / total)};
  }
  // without weights a class's smoothed distribution has mass 1 exactly
  const double mass = row.weight || row.probabilities ? sums.mass : 1.0;
  return {mass * log_sum + sums.distance + z, (mass + 2.0 * row.z_loss * lse) / total, T(0)};
}

// The exponentials of elements [begin, end) in grad become the gradient.
template <typename T>
void cross_entropy_gradient(const CrossEntropyRow<T>& row, const RowResult<T>& result, std::int64_t begin,
                            std::int64_t end) {
  T* const grad = row.grad;
  if (one_class(row)) {
    scale_row(grad + begin, grad + begin, static_cast<T>(result.slope), end - begin);
    if (row.label >= begin && row.label < end) grad[row.label] = result.at_label;
    return;
  }
  with_target(row, [&](const auto target) {
    const bool holds_label = target.holds_label(begin, end);
    const double slope = result.slope, scale = row.scale;
    const double e = holds_label ? static_cast<double>(grad[row.label]) : 0.0;
    ONEPASS_INDEPENDENT
    for (std::int64_t j = begin; j < end; ++j)
      grad[j] = static_cast<T>(scale * (slope * static_cast<double>(grad[j]) - target(j)));
    if (holds_label) grad[row.label] = static_cast<T>(scale * (slope * e - target.at_label()));
  });
}

template <typename T>
double cross_entropy_row(const CrossEntropyRow<T>& row) {
  const RowPeak<T> peak = cross_entropy_peak(row, row_maximum(row.logits, row.classes));
  RowSums sums = {};
  for_pieces(row.classes,
             [&](std::int64_t begin, std::int64_t end) { cross_entropy_sums(row, peak, begin, end, sums); });
  const RowResult<T> result = cross_entropy_result(row, peak, sums);
  if (row.grad) cross_entropy_gradient(row, result, 0, row.classes);
  return result.loss;
}

}  // namespace
