// Losses of elements: each value, its gradient and the sum of the values from one read.
//
// Sums: sixteen lanes of kBlock elements in the array's own type, then in double. `loss` and `grad` may be null; grad
// may be an input, loss may not.
#pragma once

#include <cstdint>

#include "kernels/math.hpp"
#include "kernels/table.hpp"

namespace {

static_assert(kBlock == onepass::kLossBlock);

// visit(first element, lanes in use) -> Lanes<T>; lanes that are not in use must hold zero.
template <typename T, typename Visit>
double sum_in_blocks(std::int64_t n, Visit&& visit) {
  double total = 0.0;
  for (std::int64_t block = 0; block < n; block += kBlock) {
    const std::int64_t length = n - block < kBlock ? n - block : kBlock;
    Lanes<T> sum = Lanes<T>::all(T(0));
    for_groups(length, [&](std::int64_t j, std::int64_t count) { sum = sum + visit(block + j, count); });
    total += sum.sum();
  }
  return total;
}

// (a - b)^2; gradient with respect to a, times scale
template <typename T>
double squared_error(const T* a, const T* b, T* loss, T* grad, T scale, std::int64_t n) {
  const Lanes<T> factor = Lanes<T>::all(scale + scale);
  return sum_in_blocks<T>(n, [&](std::int64_t j, std::int64_t count) {
    const Lanes<T> d = load_group(a + j, count) - load_group(b + j, count);
    const Lanes<T> square = d * d;
    if (loss) store_group(square, loss + j, count);
    if (grad) store_group(d * factor, grad + j, count);
    return square;
  });
}

// |d| < corner: curvature / 2 d^2, else slope (|d| - corner / 2), d = a - b
template <typename T>
double huber(const T* a, const T* b, const onepass::Huber<T>& shape, T* loss, T* grad, T scale, std::int64_t n) {
  const T half = shape.curvature * T(0.5), offset = shape.corner * T(0.5);
  const T curvature = shape.curvature * scale, slope = shape.slope * scale;
  return sum_in_blocks<T>(n, [&](std::int64_t j, std::int64_t count) {
    const Lanes<T> d = load_group(a + j, count) - load_group(b + j, count);
    Lanes<T> value, gradient;
    for (int i = 0; i < Lanes<T>::kVectors; ++i) {
      const Vector<T> x = d.v[i], size = magnitude<T>(x), rise = slope - Vector<T>{};
      const auto inside = size < shape.corner;
      value.v[i] = inside ? x * x * half : (size - offset) * shape.slope;
      // NaN and, where the corner is zero, zero stay what they are
      const Vector<T> outside = x > T(0) ? rise : x < T(0) ? Vector<T>{} - rise : x;
      gradient.v[i] = inside ? x * curvature : outside;
    }
    if (loss) store_group(value, loss + j, count);
    if (grad) store_group(gradient, grad + j, count);
    return value;
  });
}

// weight ((1 - t) softplus(x) + positive t softplus(-x)), softplus(x) = log(1 + exp(x)) = max(x, 0) + log(1 +
// exp(-|x|)); gradient weight ((1 - t) sigmoid(x) - positive t sigmoid(-x)): no difference of what is nearly equal.
// weight and positive may be null.
template <typename T>
double binary_cross_entropy(const T* x, const T* t, const T* weight, const T* positive, T* loss, T* grad, T scale,
                            std::int64_t n) {
  return sum_in_blocks<T>(n, [&](std::int64_t j, std::int64_t count) {
    const Lanes<T> logits = load_group(x + j, count);
    Lanes<T> one = load_group(t + j, count), zero = Lanes<T>::all(T(1)) - one;
    if (positive) one = one * load_group(positive + j, count);
    if (weight) {
      const Lanes<T> w = load_group(weight + j, count);
      one = one * w;
      zero = zero * w;
    }
    Lanes<T> value, gradient;
    for (int i = 0; i < Lanes<T>::kVectors; ++i) {
      const Vector<T> z = logits.v[i], none = {};
      const Vector<T> e = exp_nonpositive<T>(none - magnitude<T>(z)), r = T(1) / (e + T(1)), tail = e * r;
      const Vector<T> log = log1p_unit<T>(e);
      const Vector<T> above = (z < none ? none : z) + log, below = (z < none ? none - z : none) + log;
      value.v[i] = zero.v[i] * above + one.v[i] * below;
      gradient.v[i] = (zero.v[i] * (z < none ? tail : r) - one.v[i] * (z < none ? r : tail)) * scale;
    }
    if (loss) store_group(value, loss + j, count);
    if (grad) store_group(gradient, grad + j, count);
    if (count < kLanes) {
      T lane[kLanes];
      value.store(lane);
      value = Lanes<T>::load(lane, count, T(0));
    }
    return value;
  });
}

// -weight value
template <typename T>
double weighted_losses(const T* value, const T* weight, T* loss, std::int64_t n) {
  return sum_in_blocks<T>(n, [&](std::int64_t j, std::int64_t count) {
    const Lanes<T> v = Lanes<T>::all(T(0)) - load_group(weight + j, count) * load_group(value + j, count);
    store_group(v, loss + j, count);
    return v;
  });
}

}  // namespace
