// Applies one rule to a range of one tensor.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/loops.hpp"
#include "kernels/table.hpp"

namespace {

// previous: the last step's rule of the same row, or null. A rule that takes it saves work, never changes its bits.
template <typename Rule, typename Hyper>
void prepare_rule(const void* hyper, const void* previous, void* storage) {
  static_assert(sizeof(Rule) <= onepass::kRuleBytes);
  static_assert(alignof(Rule) <= onepass::kRuleAlignment);
  const Hyper& h = *static_cast<const Hyper*>(hyper);
  const Rule rule = [&] {
    if constexpr (std::is_constructible_v<Rule, const Hyper&, const Rule*>)
      return Rule(h, static_cast<const Rule*>(previous));
    else
      return Rule(h);
  }();
  std::memcpy(storage, &rule, sizeof(rule));  // which may be where the previous one was
}

// param, states: read and written; grad: read. None of them overlap.
template <typename Rule, typename T>
void apply_rule(const void* storage, void* param, const void* grad, void* const* states, std::int64_t n) {
  Rule rule = *static_cast<const Rule*>(storage);
  T* __restrict p = static_cast<T*>(param);
  const T* __restrict g = static_cast<const T*>(grad);
  if constexpr (Rule::states == 0) {
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { rule(p[i], g[i]); }, p, g);
  } else if constexpr (Rule::states == 1) {
    T* __restrict a = static_cast<T*>(states[0]);
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { rule(p[i], g[i], a[i]); }, p, g, a);
  } else if constexpr (Rule::states == 2) {
    T* __restrict a = static_cast<T*>(states[0]);
    T* __restrict b = static_cast<T*>(states[1]);
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { rule(p[i], g[i], a[i], b[i]); }, p, g, a, b);
  } else {
    static_assert(Rule::states == 3);
    T* __restrict a = static_cast<T*>(states[0]);
    T* __restrict b = static_cast<T*>(states[1]);
    T* __restrict c = static_cast<T*>(states[2]);
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { rule(p[i], g[i], a[i], b[i], c[i]); }, p, g, a, b, c);
  }
}

}  // namespace
