// Every update rule, on one page. A rule is built once a step from its hyperparameters, in double, and then rounded to
// the type T that it computes in; operator() updates one parameter and its states. NumPy's twin of each stands in
// python/onepass/optim/ and gives the same bits, so the order of operations here is part of the contract.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/scalar.hpp"
#include "onepass/onepass.h"

namespace {
namespace rules {

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

inline float magnitude(float x) { return __builtin_fabsf(x); }
inline double magnitude(double x) { return __builtin_fabs(x); }

// -1, 0 or 1; NaN stays NaN
template <typename T>
inline T sign(T x) {
  const T either = x > T(0) ? T(1) : x;
  return x < T(0) ? T(-1) : either;
}

template <typename T>
inline T clamp(T x, T low, T high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// The larger one, without what is subnormal: the sum flushes it, which a selection may or may not.
template <typename T>
inline T larger(T a, T b) {
  return (a > b ? a : b) + T(0);
}

// g / grad_scale, clipped to [-max_value, max_value], and weight decay: coupled, a part of the gradient; or decoupled
// (Loshchilov and Hutter 2019), where the rule keeps only so much of p. plain: a step that clips and decays nothing and
// has no eps inside a root. A kernel may have a loop for it, in which plain is a constant and the bits are the same.
template <typename T>
struct Gradient {
  T scale, limit, decay, keep;
  bool plain;
  template <typename Hyper>
  Gradient(const Hyper& h, bool decoupled)
      : scale(static_cast<T>((h.maximize ? -1.0 : 1.0) / h.grad_scale)),
        limit(static_cast<T>(h.max_value)),
        decay(T(0)),
        keep(T(1)) {
    if (limit < std::numeric_limits<T>::min()) limit = T(0);  // nothing subnormal is ever stored
    if constexpr (requires { h.weight_decay; }) {
      if (decoupled)
        keep = static_cast<T>(1.0 - h.lr * h.weight_decay);
      else
        decay = static_cast<T>(h.weight_decay);
    }
    plain = limit == std::numeric_limits<T>::infinity() && decay == T(0) && keep == T(1);
    if constexpr (requires { h.eps_root; }) plain = plain && h.eps_root == 0.0;
  }
  T operator()(T g, T p) const {
    g = g * scale;
    if (plain) return g;
    g = clamp(g, -limit, limit);
    return decay != T(0) ? g + decay * p : g;
  }
  T kept(T p) const { return plain ? p : p * keep; }
  T inside(T x, T eps_root) const { return plain ? x : x + eps_root; }
};

// sqrt(x) + eps, or sqrt(x + eps)
template <typename T>
struct Denominator {
  T inside, outside;  // one of them is zero, and adding it changes no bit
  Denominator(double eps, bool eps_inside)
      : inside(static_cast<T>(eps_inside ? eps : 0.0)), outside(static_cast<T>(eps_inside ? 0.0 : eps)) {}
  T operator()(T x) const { return root(x + inside) + outside; }
};

template <typename T>
struct sgd {
  static constexpr int states = 0;
  Gradient<T> gradient;
  T lr;
  explicit sgd(const onepass_sgd_hyper& h) : gradient(h, h.decoupled_weight_decay != 0), lr(static_cast<T>(h.lr)) {}
  void operator()(T& p, T g) const { p = gradient.kept(p) - lr * gradient(g, p); }
};

// Polyak 1964; Nesterov's form as in Sutskever et al. 2013. The first step starts the buffer with the gradient itself.
template <typename T>
struct sgd_momentum {
  static constexpr int states = 1;
  Gradient<T> gradient;
  T lr, momentum, fresh;
  bool first, nesterov;
  explicit sgd_momentum(const onepass_sgd_momentum_hyper& h)
      : gradient(h, h.decoupled_weight_decay != 0),
        lr(static_cast<T>(h.lr)),
        momentum(static_cast<T>(h.momentum)),
        fresh(static_cast<T>(1.0 - h.dampening)),
        first(h.step <= 1),
        nesterov(h.nesterov != 0) {}
  void operator()(T& p, T g, T& buffer) const {
    g = gradient(g, p);
    const T b = first ? g : momentum * buffer + fresh * g;
    buffer = b;
    p = gradient.kept(p) - lr * (nesterov ? g + momentum * b : b);
  }
};

// Duchi, Hazan and Singer 2011.
template <typename T>
struct adagrad {
  static constexpr int states = 1;
  Gradient<T> gradient;
  Denominator<T> denominator;
  T lr;
  explicit adagrad(const onepass_adagrad_hyper& h)
      : gradient(h, h.decoupled_weight_decay != 0),
        denominator(h.eps, h.eps_inside != 0),
        lr(static_cast<T>(h.lr / (1.0 + static_cast<double>(h.step - 1) * h.lr_decay))) {}
  void operator()(T& p, T g, T& sum) const {
    g = gradient(g, p);
    sum = sum + g * g;
    p = gradient.kept(p) - lr * g / denominator(sum);
  }
};

// Tieleman and Hinton 2012; centered as in Graves 2013. Rounding can leave the centered variance below zero: it counts
// as zero.
template <typename T, bool centered, bool with_momentum>
struct RMSprop {
  static constexpr int states = 1 + centered + with_momentum;
  Gradient<T> gradient;
  Denominator<T> denominator;
  T lr, alpha, fresh, momentum;
  template <typename Hyper>
  explicit RMSprop(const Hyper& h)
      : gradient(h, h.decoupled_weight_decay != 0),
        denominator(h.eps, h.eps_inside != 0),
        lr(static_cast<T>(h.lr)),
        alpha(static_cast<T>(h.alpha)),
        fresh(static_cast<T>(1.0 - h.alpha)),
        momentum(T(0)) {
    if constexpr (with_momentum) momentum = static_cast<T>(h.momentum);
  }
  void move(T& p, T direction, T* buffer) const {
    if constexpr (with_momentum) {
      *buffer = momentum * *buffer + direction;
      p = gradient.kept(p) - lr * *buffer;
    } else {
      p = gradient.kept(p) - lr * direction;
    }
  }
  T mean_square(T g, T& square) const { return square = alpha * square + fresh * (g * g); }
  T deviation(T g, T& square, T& mean) const {
    const T s = mean_square(g, square);
    mean = alpha * mean + fresh * g;
    const T variance = s - mean * mean;
    return denominator(variance > T(0) ? variance : T(0));
  }
  void operator()(T& p, T g, T& square) const {
    g = gradient(g, p);
    move(p, g / denominator(mean_square(g, square)), nullptr);
  }
  void operator()(T& p, T g, T& square, T& second) const {
    g = gradient(g, p);
    if constexpr (centered)
      move(p, g / deviation(g, square, second), nullptr);
    else
      move(p, g / denominator(mean_square(g, square)), &second);
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
  T step_size, beta1, fresh1, beta2, fresh2, unbias, inside, eps;
  template <typename Hyper>
  explicit Adam(const Hyper& h)
      : gradient(h, decoupled),
        beta1(static_cast<T>(h.beta1)),
        fresh1(static_cast<T>(1.0 - h.beta1)),
        beta2(static_cast<T>(h.beta2)),
        fresh2(static_cast<T>(1.0 - h.beta2)) {
    const double correction1 = h.uncorrected ? 1.0 : 1.0 - power(h.beta1, h.step);
    const double correction2 = h.uncorrected ? 1.0 : 1.0 - power(h.beta2, h.step);
    const double factor = 1.0 / root(correction2);
    step_size = static_cast<T>(h.lr / correction1);
    unbias = static_cast<T>(factor);
    inside = static_cast<T>(h.eps_root * correction2);
    eps = static_cast<T>(h.eps_hat ? h.eps * factor : h.eps);
  }
  // m / correction1 / (sqrt(v / correction2 + eps_root) + eps); eps_hat is divided by sqrt(correction2) too
  void move(T& p, T m, T v) const {
    p = gradient.kept(p) - step_size * m / (root(gradient.inside(v, inside)) * unbias + eps);
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
    largest = larger(largest, v);
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

// Zeiler 2012.
template <typename T>
struct adadelta {
  static constexpr int states = 2;
  Gradient<T> gradient;
  T lr, rho, fresh, eps;
  explicit adadelta(const onepass_adadelta_hyper& h)
      : gradient(h, h.decoupled_weight_decay != 0),
        lr(static_cast<T>(h.lr)),
        rho(static_cast<T>(h.rho)),
        fresh(static_cast<T>(1.0 - h.rho)),
        eps(static_cast<T>(h.eps)) {}
  void operator()(T& p, T g, T& square, T& moved) const {
    g = gradient(g, p);
    square = rho * square + fresh * (g * g);
    const T delta = root(moved + eps) / root(square + eps) * g;
    moved = rho * moved + fresh * (delta * delta);
    p = gradient.kept(p) - lr * delta;
  }
};

// Kingma and Ba 2015, section 7.1.
template <typename T>
struct adamax {
  static constexpr int states = 2;
  Gradient<T> gradient;
  T step_size, beta1, fresh1, beta2, eps;
  explicit adamax(const onepass_adamax_hyper& h)
      : gradient(h, h.decoupled_weight_decay != 0),
        step_size(static_cast<T>(h.lr / (1.0 - power(h.beta1, h.step)))),
        beta1(static_cast<T>(h.beta1)),
        fresh1(static_cast<T>(1.0 - h.beta1)),
        beta2(static_cast<T>(h.beta2)),
        eps(static_cast<T>(h.eps)) {}
  void operator()(T& p, T g, T& m, T& largest) const {
    g = gradient(g, p);
    m = beta1 * m + fresh1 * g;
    const T faded = beta2 * largest, own = magnitude(g) + eps;
    largest = faded > own ? faded : own;
    p = gradient.kept(p) - step_size * m / largest;
  }
};

// Dozat 2016. mu(t), the momentum of step t, tends to beta1. The product mu(1) ... mu(step) begins with factors one by
// one, until they are beta1 in every bit or 1 - product is 1; the rest is a power of beta1. The next step goes on from
// there.
template <typename T>
struct nadam {
  static constexpr int states = 2;
  static constexpr double kNegligible = 0x1p-60;
  Gradient<T> gradient;
  T beta1, fresh1, beta2, fresh2, unbias, inside, eps, weight_g, weight_m;
  std::int64_t factors;                   // mu(1) ... mu(factors)
  double product, limit, momentum_decay;  // of those; limit: beta1 in double
  double mu(std::int64_t t) const {
    return limit * (1.0 - 0.5 * real_power(0.96, static_cast<double>(t) * momentum_decay));
  }
  nadam(const onepass_nadam_hyper& h, const nadam* previous)
      : gradient(h, h.decoupled_weight_decay != 0),
        beta1(static_cast<T>(h.beta1)),
        fresh1(static_cast<T>(1.0 - h.beta1)),
        beta2(static_cast<T>(h.beta2)),
        fresh2(static_cast<T>(1.0 - h.beta2)),
        unbias(static_cast<T>(1.0 / root(1.0 - power(h.beta2, h.step)))),
        inside(static_cast<T>(h.eps_root * (1.0 - power(h.beta2, h.step)))),
        eps(static_cast<T>(h.eps)),
        factors(0),
        product(1.0),
        limit(h.beta1),
        momentum_decay(h.momentum_decay) {
    if (previous != nullptr && previous->factors <= h.step && previous->limit == limit &&
        previous->momentum_decay == momentum_decay) {
      factors = previous->factors;
      product = previous->product;
    }
    while (factors < h.step && product >= kNegligible) {
      const double factor = mu(factors + 1);
      if (factor == limit) break;
      product *= factor;
      ++factors;
    }
    const double all = product * power(limit, h.step - factors);
    const double next = mu(h.step + 1);
    weight_g = static_cast<T>(h.lr * (1.0 - mu(h.step)) / (1.0 - all));
    weight_m = static_cast<T>(h.lr * next / (1.0 - all * next));
  }
  void operator()(T& p, T g, T& m, T& v) const {
    g = gradient(g, p);
    m = beta1 * m + fresh1 * g;
    v = beta2 * v + fresh2 * (g * g);
    p = gradient.kept(p) - (weight_g * g + weight_m * m) / (root(gradient.inside(v, inside)) * unbias + eps);
  }
};

// Liu et al. 2020. While the variance of the second moment is unknown (rho <= 5), momentum alone. In rho two numbers of
// about 2 / (1 - beta2) nearly cancel.
template <typename T>
struct radam {
  static constexpr int states = 2;
  Gradient<T> gradient;
  T step_size, beta1, fresh1, beta2, fresh2, inside, eps;
  bool rectified;
  explicit radam(const onepass_radam_hyper& h)
      : gradient(h, h.decoupled_weight_decay != 0),
        beta1(static_cast<T>(h.beta1)),
        fresh1(static_cast<T>(1.0 - h.beta1)),
        beta2(static_cast<T>(h.beta2)),
        fresh2(static_cast<T>(1.0 - h.beta2)),
        eps(static_cast<T>(h.eps)) {
    const double decayed = accurate_power(h.beta2, h.step), correction = 1.0 - decayed;
    const double limit = 2.0 / (1.0 - h.beta2) - 1.0;
    const double rho = limit - 2.0 * static_cast<double>(h.step) * decayed / correction;
    rectified = rho > 5.0;
    double size = h.lr / (1.0 - power(h.beta1, h.step));
    if (rectified) {
      const double ratio = (rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho);
      size = size * root(correction) * root(ratio);
    }
    step_size = static_cast<T>(size);
    inside = static_cast<T>(h.eps_root * correction);
  }
  void operator()(T& p, T g, T& m, T& v) const {
    g = gradient(g, p);
    m = beta1 * m + fresh1 * g;
    v = beta2 * v + fresh2 * (g * g);
    p = gradient.kept(p) - step_size * m / (rectified ? root(gradient.inside(v, inside)) + eps : T(1));
  }
};

// Riedmiller and Braun 1993; where the sign turns, the step is left out and forgotten. The first step starts all step
// sizes at lr. The signs are multiplied, not the gradients, whose product can vanish.
template <typename T>
struct rprop {
  static constexpr int states = 2;
  Gradient<T> gradient;
  T lr, eta_minus, eta_plus, smallest, largest;
  bool first;
  explicit rprop(const onepass_rprop_hyper& h)
      : gradient(h, false),
        lr(static_cast<T>(h.lr)),
        eta_minus(static_cast<T>(h.eta_minus)),
        eta_plus(static_cast<T>(h.eta_plus)),
        smallest(static_cast<T>(h.step_size_min)),
        largest(static_cast<T>(h.step_size_max)),
        first(h.step <= 1) {}
  void operator()(T& p, T g, T& prev, T& size) const {
    g = gradient(g, p);
    const T own = sign(g);
    const T agreement = own * sign(prev);
    const T start = first ? lr : T(size);  // of values: GCC 12 cannot vectorize a choice between addresses
    const T shrink = agreement < T(0) ? eta_minus : T(1);
    const T factor = agreement > T(0) ? eta_plus : shrink;
    size = clamp(start * factor, smallest, largest);
    prev = agreement < T(0) ? T(0) : g;
    p = p - (agreement < T(0) ? T(0) : own) * size;
  }
};

// Polyak and Juditsky 1992, with the step sizes of Xu 2011 (as in torch): from step t0 on, ax averages the parameters.
template <typename T>
struct asgd {
  static constexpr int states = 1;
  Gradient<T> gradient;
  T keep, eta, mu;
  bool averaging;
  explicit asgd(const onepass_asgd_hyper& h) : gradient(h, false) {
    const auto before = static_cast<double>(h.step - 1);
    const double rate = h.lr / real_power(1.0 + h.lambd * h.lr * before, h.alpha);
    const double late = before - h.t0;
    keep = static_cast<T>(1.0 - h.lambd * rate);
    eta = static_cast<T>(rate);
    mu = static_cast<T>(1.0 / (late > 1.0 ? late : 1.0));
    averaging = late > 1.0;
  }
  void operator()(T& p, T g, T& average) const {
    p = p * keep - eta * gradient(g, p);
    average = averaging ? average + (p - average) * mu : p;
  }
};

// Chen et al. 2023.
template <typename T>
struct lion {
  static constexpr int states = 1;
  Gradient<T> gradient;
  T lr, beta1, fresh1, beta2, fresh2;
  explicit lion(const onepass_lion_hyper& h)
      : gradient(h, true),
        lr(static_cast<T>(h.lr)),
        beta1(static_cast<T>(h.beta1)),
        fresh1(static_cast<T>(1.0 - h.beta1)),
        beta2(static_cast<T>(h.beta2)),
        fresh2(static_cast<T>(1.0 - h.beta2)) {}
  void operator()(T& p, T g, T& m) const {
    g = gradient(g, p);
    p = gradient.kept(p) - lr * sign(beta1 * m + fresh1 * g);
    m = beta2 * m + fresh2 * g;
  }
};

// Bernstein et al. 2018.
template <typename T>
struct signum {
  static constexpr int states = 1;
  Gradient<T> gradient;
  T lr, momentum, fresh;
  explicit signum(const onepass_signum_hyper& h)
      : gradient(h, true),
        lr(static_cast<T>(h.lr)),
        momentum(static_cast<T>(h.momentum)),
        fresh(static_cast<T>(1.0 - h.momentum)) {}
  void operator()(T& p, T g, T& m) const {
    m = momentum * m + fresh * gradient(g, p);
    p = gradient.kept(p) - lr * sign(m);
  }
};

// Luo et al. 2019: Adam's step sizes between bounds that meet at final_lr; amsbound as amsgrad.
template <typename T, bool amsbound>
struct AdaBound {
  static constexpr int states = 2 + amsbound;
  Gradient<T> gradient;
  T step_size, lower, upper, beta1, fresh1, beta2, fresh2, eps;
  template <typename Hyper>
  explicit AdaBound(const Hyper& h)
      : gradient(h, h.decoupled_weight_decay != 0),
        step_size(static_cast<T>(h.lr * root(1.0 - power(h.beta2, h.step)) / (1.0 - power(h.beta1, h.step)))),
        beta1(static_cast<T>(h.beta1)),
        fresh1(static_cast<T>(1.0 - h.beta1)),
        beta2(static_cast<T>(h.beta2)),
        fresh2(static_cast<T>(1.0 - h.beta2)),
        eps(static_cast<T>(h.eps)) {
    const double age = h.gamma * static_cast<double>(h.step);
    lower = static_cast<T>(h.final_lr * (1.0 - 1.0 / (age + 1.0)));
    upper = static_cast<T>(h.final_lr * (1.0 + 1.0 / age));
  }
  void move(T& p, T m, T v) const { p = gradient.kept(p) - clamp(step_size / (root(v) + eps), lower, upper) * m; }
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
    largest = larger(largest, v);
    move(p, m, largest);
  }
};
template <typename T>
using adabound = AdaBound<T, false>;
template <typename T>
using amsbound = AdaBound<T, true>;

}  // namespace rules
}  // namespace
