// Activations: y = f(x), f(x + bias), and their derivatives times dy. One pass each.
//
// Every f is made of exp of a number that is not positive, so that nothing overflows; where 1 - f or f itself is a
// small tail it is computed as such and never as a difference. Infinities have their limits, NaN stays NaN.
#pragma once

#include <cstdint>

#include "kernels/loops.hpp"
#include "kernels/math.hpp"
#include "kernels/table.hpp"

namespace {

namespace activation {

// value: f(x). backward: dy f'(x). from_output: dy f'(x) from y = f(x), where the table's backward takes y.

template <typename T>
struct Relu {
  static constexpr bool kTakesOutput = true;
  T unused;
  Vector<T> value(const Vector<T>& x) const { return x < T(0) ? Vector<T>{} : x; }
  Vector<T> backward(const Vector<T>& dy, const Vector<T>& x) const { return x <= T(0) ? Vector<T>{} : dy; }
  Vector<T> from_output(const Vector<T>& dy, const Vector<T>& y) const { return backward(dy, y); }
};

template <typename T>
struct LeakyRelu {
  static constexpr bool kTakesOutput = false;
  T negative_slope;
  Vector<T> value(const Vector<T>& x) const { return x > T(0) ? x : x * negative_slope; }
  Vector<T> backward(const Vector<T>& dy, const Vector<T>& x) const { return x > T(0) ? dy : dy * negative_slope; }
};

// e = exp(-v) for v >= 0, and with it the logistic function of v and -v: r and e r.
template <typename T>
struct Logistic {
  Vector<T> spare, e, r;
  explicit Logistic(const Vector<T>& v)
      : spare(exp_spare<T>(v, Vector<T>{})), e(spare * T(kSpare)), r(T(1) / (e + T(1))) {}
};

// x sigmoid(v), where v has x's sign; a and v are their magnitudes.
template <typename T>
[[gnu::always_inline]] inline Vector<T> gated_value(const Vector<T>& x, const Vector<T>& a, const Vector<T>& v) {
  const Logistic<T> s(v);
  return x < T(0) ? (a * s.spare * s.r) * T(-kSpare) : x * s.r;
}
// Its derivative; w is a dv/da.
template <typename T>
[[gnu::always_inline]] inline Vector<T> gated_slope(const Vector<T>& x, const Vector<T>& v, const Vector<T>& w) {
  const Logistic<T> s(v);
  const Vector<T> negative = (s.spare * (T(1) - w * s.r) * s.r) * T(kSpare);
  const Vector<T> positive = s.r * (w * (s.e * s.r) + T(1));
  return x < T(0) ? negative : positive;
}

template <typename T>
Vector<T> bounded_magnitude(const Vector<T>& x, T bound) {  // NaN stays
  const Vector<T> a = magnitude<T>(x), most = bound - Vector<T>{};
  return a > bound ? most : a;
}

template <typename T>
struct Silu {
  static constexpr bool kTakesOutput = false;
  static constexpr T kFar = 1 - ElementaryConstants<T>::lowest;
  T unused;
  Vector<T> value(const Vector<T>& x) const {
    const Vector<T> a = bounded_magnitude<T>(x, kFar);
    return gated_value<T>(x, a, a);
  }
  Vector<T> backward(const Vector<T>& dy, const Vector<T>& x) const {
    const Vector<T> a = bounded_magnitude<T>(x, kFar);
    return dy * gated_slope<T>(x, a, a);
  }
};

// x / 2 (1 + tanh(v / 2)) = x sigmoid(v), v = sqrt(8 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016).
template <typename T>
struct GeluTanh {
  static constexpr bool kTakesOutput = false;
  static constexpr T kFar = sizeof(T) == sizeof(float) ? 13 : 24;  // exp(-v) is zero there
  static constexpr T kLinear = T(1.5957691216057307), kCubic = T(0.071354816272600249);
  T unused;
  Vector<T> value(const Vector<T>& x) const {
    const Vector<T> a = bounded_magnitude<T>(x, kFar);
    return gated_value<T>(x, a, a * (a * a * kCubic + kLinear));
  }
  Vector<T> backward(const Vector<T>& dy, const Vector<T>& x) const {
    const Vector<T> a = bounded_magnitude<T>(x, kFar), square = a * a;
    return dy * gated_slope<T>(x, a * (square * kCubic + kLinear), a * (square * (3 * kCubic) + kLinear));
  }
};

// x P(X < x) of the normal distribution.
template <typename T>
struct Gelu {
  static constexpr bool kTakesOutput = false;
  static constexpr T kDensity = T(0.39894228040143268);  // 1 / sqrt(2 pi)
  T unused;
  Vector<T> value(const Vector<T>& x) const {
    const Vector<T> a = bounded_magnitude<T>(x, ElementaryConstants<T>::far);
    const NormalTail<T> normal(a);
    const Vector<T> spare = normal.exponential * normal.factor;
    const Vector<T> positive = x * (T(1) - spare * T(kSpare));
    return x < T(0) ? (a * spare) * T(-kSpare) : positive;
  }
  Vector<T> backward(const Vector<T>& dy, const Vector<T>& x) const {
    const Vector<T> a = bounded_magnitude<T>(x, ElementaryConstants<T>::far);
    const NormalTail<T> normal(a);
    const Vector<T> tail = (normal.exponential * (normal.factor - a * kDensity)) * T(kSpare);
    return dy * (x < T(0) ? tail : T(1) - tail);
  }
};

template <typename T>
struct Sigmoid {
  static constexpr bool kTakesOutput = true;
  T unused;
  Vector<T> value(const Vector<T>& x) const {
    const Vector<T> e = exp_nonpositive<T>(Vector<T>{} - magnitude<T>(x)), r = T(1) / (e + T(1));
    return x < T(0) ? e * r : r;
  }
  Vector<T> backward(const Vector<T>& dy, const Vector<T>& x) const {
    const Vector<T> e = exp_nonpositive<T>(Vector<T>{} - magnitude<T>(x)), r = T(1) / (e + T(1));
    return dy * (e * r * r);
  }
  Vector<T> from_output(const Vector<T>& dy, const Vector<T>& y) const { return dy * (y * (T(1) - y)); }
};

template <typename T>
struct Tanh {
  static constexpr bool kTakesOutput = true;
  T unused;
  Vector<T> value(const Vector<T>& x) const { return hyperbolic_tangent<T>(x); }
  Vector<T> backward(const Vector<T>& dy, const Vector<T>& x) const {
    const Vector<T> e = exp_nonpositive<T>(magnitude<T>(x) * T(-2)), r = T(1) / (e + T(1));
    return dy * (T(4) * e * r * r);
  }
  Vector<T> from_output(const Vector<T>& dy, const Vector<T>& y) const { return dy * ((T(1) - y) * (T(1) + y)); }
};

// Loops. An output may be an input: a group is read before it is written.

template <typename F, typename T>
void forward(const T* x, T* y, T option, std::int64_t n) {
  const F f{option};
  for_groups(n, [&](std::int64_t j, std::int64_t count) {
    Lanes<T> v = load_group(x + j, count);
    for (int i = 0; i < Lanes<T>::kVectors; ++i) v.v[i] = f.value(v.v[i]);
    store_group(v, y + j, count);
  });
}

template <typename F, typename T>
void backward(const T* dy, const T* saved, T* dx, T option, std::int64_t n) {
  const F f{option};
  for_groups(n, [&](std::int64_t j, std::int64_t count) {
    Lanes<T> d = load_group(dy + j, count);
    const Lanes<T> v = load_group(saved + j, count);
    for (int i = 0; i < Lanes<T>::kVectors; ++i) {
      if constexpr (F::kTakesOutput)
        d.v[i] = f.from_output(d.v[i], v.v[i]);
      else
        d.v[i] = f.backward(d.v[i], v.v[i]);
    }
    store_group(d, dx + j, count);
  });
}

template <typename F, typename T>
void bias_forward(const T* x, const T* bias, T* y, T option, std::int64_t n) {
  const F f{option};
  for_groups(n, [&](std::int64_t j, std::int64_t count) {
    Lanes<T> v = load_group(x + j, count) + load_group(bias + j, count);
    for (int i = 0; i < Lanes<T>::kVectors; ++i) v.v[i] = f.value(v.v[i]);
    store_group(v, y + j, count);
  });
}

template <typename F, typename T>
void bias_backward(const T* dy, const T* x, const T* bias, T* dx, T* sums, T option, std::int64_t n) {
  const F f{option};
  for_groups(n, [&](std::int64_t j, std::int64_t count) {
    Lanes<T> d = load_group(dy + j, count);
    const Lanes<T> v = load_group(x + j, count) + load_group(bias + j, count);
    for (int i = 0; i < Lanes<T>::kVectors; ++i) d.v[i] = f.backward(d.v[i], v.v[i]);
    store_group(d, dx + j, count);
    store_group(load_group(sums + j, count) + d, sums + j, count);
  });
}

template <typename F, typename T>
constexpr onepass::ActivationKernel<T> kernel() {
  return {F::kTakesOutput, forward<F, T>, backward<F, T>, bias_forward<F, T>, bias_backward<F, T>};
}

}  // namespace activation

// total += part, and part starts again
template <typename T>
void move_sums(T* __restrict part, double* __restrict total, std::int64_t n) {
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) {
    total[i] += static_cast<double>(part[i]);
    part[i] = T(0);
  }
}

}  // namespace
