// Softmax cross-entropy of rows with few classes: sixteen rows at once, one a lane, since a row alone would be all tail
// and logarithm. What softmax_cross_entropy.hpp says of a target of one class holds here.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/lanes.hpp"
#include "kernels/math.hpp"
#include "kernels/table.hpp"

namespace {

using onepass::FewRows;
using onepass::kFewClasses;

// The tile's logits become their exponentials. of_label: the label's logit and exponential; others: the sum of the
// rest.
template <typename T>
struct FewSums {
  alignas(64) T max[kLanes], label[kLanes], label_logit[kLanes];
  alignas(64) double label_exp[kLanes], others[kLanes];

  explicit FewSums(const FewRows<T>& rows) {
    using L = Lanes<T>;
    using Wide = Lanes<double>;
    for (int r = 0; r < kLanes; ++r) label[r] = static_cast<T>(rows.labels[r]);
    const L labels = L::load(label);
    L largest = L::all(-std::numeric_limits<T>::infinity()), own = L::all(T(0));
    for (std::int64_t c = 0; c < rows.classes; ++c) {
      const L logits = L::load(rows.tile + c * kLanes);
      largest = maximum(logits, largest);
      own = where_equal(labels, static_cast<T>(c), logits, own);
    }
    const Wide wide_labels = load_double(label), zero = Wide::all(0.0);
    Wide sum = zero, own_exp = zero;
    for (std::int64_t c = 0; c < rows.classes; ++c) {
      T* const e = rows.tile + c * kLanes;
      exp_nonpositive(L::load(e) - largest).store(e);
      const Wide value = load_double(e);
      const double number = static_cast<double>(c);
      sum = sum + where_equal(wide_labels, number, zero, value);
      own_exp = where_equal(wide_labels, number, value, own_exp);
    }
    largest.store(max);
    own.store(label_logit);
    own_exp.store(label_exp);
    sum.store(others);
  }
};

template <bool gradient, typename T>
void cross_entropy_few_rows(const FewRows<T>& rows) {
  const FewSums<T> sums(rows);
  alignas(64) double weight[kLanes], log_sum[kLanes];
  for (int r = 0; r < kLanes; ++r)
    weight[r] = rows.weight && rows.labels[r] >= 0 ? static_cast<double>(rows.weight[rows.labels[r]]) : 1.0;
  for (int r = 0; r < kLanes; ++r) {
    const double others = sums.others[r], own = sums.label_exp[r];
    // of 1 + others where the label is the largest, else of the sum, which is 1 or more; NaN where the largest is
    // infinite
    log_sum[r] = log1p_nonnegative(sums.label_logit[r] == sums.max[r] ? others : others + own - 1.0) + (own - own);
  }
  alignas(64) T factor[kLanes], at_label[kLanes];
  const double z_loss = rows.z_loss, scale = rows.scale;
  for (int r = 0; r < kLanes; ++r) {
    const double max = static_cast<double>(sums.max[r]), lse = max + log_sum[r], w = weight[r];
    const double distance = log_sum[r] + (max - static_cast<double>(sums.label_logit[r]));
    const double weighted = w * distance, none = 0.0 * log_sum[r];
    const double loss = (w != 0.0 ? weighted : none) + z_loss * lse * lse;
    rows.losses[r] = sums.label[r] < T(0) ? 0.0 : loss;
    if constexpr (gradient) {
      const double others = sums.others[r], own = sums.label_exp[r], total = others + own;
      const double slope = w + 2.0 * z_loss * lse;
      factor[r] = static_cast<T>(scale * slope / total);
      at_label[r] = static_cast<T>(scale * ((slope - w) * own - w * others) / total);
    }
  }
  if constexpr (gradient) {
    for (std::int64_t c = 0; c < rows.classes; ++c) {
      T* const g = rows.tile + c * kLanes;
      const T number = static_cast<T>(c);
      for (int r = 0; r < kLanes; ++r) {
        const T other = g[r] * factor[r];
        const T value = sums.label[r] == number ? at_label[r] : other;
        g[r] = sums.label[r] < T(0) ? T(0) : value;
      }
    }
  }
}

template <typename T>
void cross_entropy_few(const FewRows<T>& rows) {
  rows.gradient ? cross_entropy_few_rows<true>(rows) : cross_entropy_few_rows<false>(rows);
}

}  // namespace
