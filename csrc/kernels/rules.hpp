// Every update rule, on one page. A rule is built once a step from its hyperparameters, in double, and then rounded to
// the type T that it computes in; operator() updates one parameter and its states. NumPy's twin of each stands in
// python/onepass/optim/ and gives the same bits, so the order of operations here is part of the contract.
#pragma once

#include <cstdint>

#include "onepass/onepass.h"

namespace {
namespace rules {

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

// base^exponent by repeated squaring: the same bits on every platform, which libm's pow does not promise.
inline double power(double base, std::int64_t exponent) {
  double result = 1.0;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result *= base;
    base *= base;
  }
  return result;
}

// g * grad_scale (+ weight_decay * p)
template <typename T>
struct Gradient {
  T scale, decay;
  template <typename Hyper>
  Gradient(const Hyper& h, double weight_decay)
      : scale(static_cast<T>(h.maximize ? -h.grad_scale : h.grad_scale)), decay(static_cast<T>(weight_decay)) {}
  T operator()(T g, T p) const {
    g = g * scale;
    return decay != T(0) ? g + decay * p : g;
  }
};

template <typename T>
struct sgd {
  static constexpr int states = 0;
  Gradient<T> gradient;
  T lr;
  explicit sgd(const onepass_sgd_hyper& h) : gradient(h, h.weight_decay), lr(static_cast<T>(h.lr)) {}
  void operator()(T& p, T g) const { p = p - lr * gradient(g, p); }
};

// Polyak 1964; Nesterov's form as in Sutskever et al. 2013. The first step starts the buffer with the gradient itself.
template <typename T>
struct sgd_momentum {
  static constexpr int states = 1;
  Gradient<T> gradient;
  T lr, momentum, fresh;
  bool first, nesterov;
  explicit sgd_momentum(const onepass_sgd_momentum_hyper& h)
      : gradient(h, h.weight_decay),
        lr(static_cast<T>(h.lr)),
        momentum(static_cast<T>(h.momentum)),
        fresh(static_cast<T>(1.0 - h.dampening)),
        first(h.step <= 1),
        nesterov(h.nesterov != 0) {}
  void operator()(T& p, T g, T& buffer) const {
    g = gradient(g, p);
    const T b = first ? g : momentum * buffer + fresh * g;
    buffer = b;
    p = p - lr * (nesterov ? g + momentum * b : b);
  }
};

// Duchi, Hazan and Singer 2011.
template <typename T>
struct adagrad {
  static constexpr int states = 1;
  Gradient<T> gradient;
  T lr, eps;
  explicit adagrad(const onepass_adagrad_hyper& h)
      : gradient(h, h.weight_decay),
        lr(static_cast<T>(h.lr / (1.0 + static_cast<double>(h.step - 1) * h.lr_decay))),
        eps(static_cast<T>(h.eps)) {}
  void operator()(T& p, T g, T& sum) const {
    g = gradient(g, p);
    sum = sum + g * g;
    p = p - lr * g / (root(sum) + eps);
  }
};

// Tieleman and Hinton 2012; centered as in Graves 2013. Rounding can leave the centered variance below zero: it counts
// as zero.
template <typename T, bool centered, bool with_momentum>
struct RMSprop {
  static constexpr int states = 1 + centered + with_momentum;
  Gradient<T> gradient;
  T lr, alpha, fresh, eps, momentum;
  template <typename Hyper>
  explicit RMSprop(const Hyper& h)
      : gradient(h, h.weight_decay),
        lr(static_cast<T>(h.lr)),
        alpha(static_cast<T>(h.alpha)),
        fresh(static_cast<T>(1.0 - h.alpha)),
        eps(static_cast<T>(h.eps)),
        momentum(T(0)) {
    if constexpr (with_momentum) momentum = static_cast<T>(h.momentum);
  }
  void move(T& p, T direction, T* buffer) const {
    if constexpr (with_momentum) {
      *buffer = momentum * *buffer + direction;
      p = p - lr * *buffer;
    } else {
      p = p - lr * direction;
    }
  }
  T mean_square(T g, T& square) const { return square = alpha * square + fresh * (g * g); }
  T deviation(T g, T& square, T& mean) const {
    const T s = mean_square(g, square);
    mean = alpha * mean + fresh * g;
    const T variance = s - mean * mean;
    return root(variance > T(0) ? variance : T(0)) + eps;
  }
  void operator()(T& p, T g, T& square) const {
    g = gradient(g, p);
    move(p, g / (root(mean_square(g, square)) + eps), nullptr);
  }
  void operator()(T& p, T g, T& square, T& second) const {
    g = gradient(g, p);
    if constexpr (centered)
      move(p, g / deviation(g, square, second), nullptr);
    else
      move(p, g / (root(mean_square(g, square)) + eps), &second);
  }
  void operator()(T& p, T g, T& square, T& mean, T& buffer) const {
    g = gradient(g, p);
    move(p, g / deviation(g, square, mean), &buffer);
  }
};
template <typename T>
using rmsprop = RMSprop<T, false, false>;
template <typename T>
using rmsprop_momentum = RMSprop<T, false, true>;
template <typename T>
using rmsprop_centered = RMSprop<T, true, false>;
template <typename T>
using rmsprop_centered_momentum = RMSprop<T, true, true>;

// Kingma and Ba 2015; decoupled weight decay: Loshchilov and Hutter 2019; amsgrad: Reddi, Kale and Kumar 2018.
template <typename T, bool decoupled, bool amsgrad>
struct Adam {
  static constexpr int states = 2 + amsgrad;
  Gradient<T> gradient;
  T keep, step_size, beta1, fresh1, beta2, fresh2, unbias, eps;
  template <typename Hyper>
  explicit Adam(const Hyper& h)
      : gradient(h, decoupled ? 0.0 : h.weight_decay),
        keep(static_cast<T>(1.0 - h.lr * h.weight_decay)),
        step_size(static_cast<T>(h.lr / (1.0 - power(h.beta1, h.step)))),
        beta1(static_cast<T>(h.beta1)),
        fresh1(static_cast<T>(1.0 - h.beta1)),
        beta2(static_cast<T>(h.beta2)),
        fresh2(static_cast<T>(1.0 - h.beta2)),
        unbias(static_cast<T>(1.0 / root(1.0 - power(h.beta2, h.step)))),
        eps(static_cast<T>(h.eps)) {}
  void move(T& p, T m, T v) const {
    if constexpr (decoupled) p = p * keep;
    p = p - step_size * m / (root(v) * unbias + eps);
  }
  void operator()(T& p, T g, T& m, T& v) const {
    g = gradient(g, p);
    m = beta1 * m + fresh1 * g;
    v = beta2 * v + fresh2 * (g * g);
    move(p, m, v);
  }
  void operator()(T& p, T g, T& m, T& v, T& largest) const {
    g = gradient(g, p);
    m = beta1 * m + fresh1 * g;
    v = beta2 * v + fresh2 * (g * g);
    largest = largest > v ? largest : v;
    move(p, m, largest);
  }
};
template <typename T>
using adam = Adam<T, false, false>;
template <typename T>
using adam_amsgrad = Adam<T, false, true>;
template <typename T>
using adamw = Adam<T, true, false>;
template <typename T>
using adamw_amsgrad = Adam<T, true, true>;

}  // namespace rules
}  // namespace
