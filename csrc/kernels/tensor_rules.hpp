// Update rules that need sums over the whole tensor: what rules.hpp says holds here too. measure() sees every element
// first and names two quantities, of whose squares the tensor's sums are made (kCross: of the first's square, and of
// their product); adjust() takes these; then operator() makes the step. kMeasureWrites: the states are written by
// measure(), else by operator(). Without adjust(), measure() is the step and the sums are the caller's to read.
#pragma once

#include "kernels/rules.hpp"

namespace {
namespace rules {

// You et al. 2020 (Lamb): Adam's direction, decayed, at the length of the parameters.
template <typename T>
struct lamb {
  static constexpr int states = 2;
  static constexpr bool kMeasureWrites = true, kCross = false;
  Gradient<T> gradient;
  T rate, decay, correction, beta1, fresh1, beta2, fresh2, unbias, eps;
  double lr;
  explicit lamb(const onepass_lamb_hyper& h)
      : gradient(h, true),
        rate(T(0)),
        decay(static_cast<T>(h.weight_decay)),
        correction(static_cast<T>(h.uncorrected ? 1.0 : 1.0 / (1.0 - power(h.beta1, h.step)))),
        beta1(static_cast<T>(h.beta1)),
        fresh1(static_cast<T>(1.0 - h.beta1)),
        beta2(static_cast<T>(h.beta2)),
        fresh2(static_cast<T>(1.0 - h.beta2)),
        unbias(static_cast<T>(h.uncorrected ? 1.0 : 1.0 / root(1.0 - power(h.beta2, h.step)))),
        eps(static_cast<T>(h.eps)),
        lr(h.lr) {}
  T direction(T p, T m, T v) const { return correction * m / (root(v) * unbias + eps) + decay * p; }
  void measure(T& p, T g, T& m, T& v, T& first, T& second) const {
    g = gradient(g, p);
    m = beta1 * m + fresh1 * g;
    v = beta2 * v + fresh2 * (g * g);
    first = p;
    second = direction(p, m, v);
  }
  void adjust(const double* sums) {
    const double trust = sums[0] == 0.0 || sums[1] == 0.0 ? 1.0 : root(sums[0]) / root(sums[1]);
    rate = static_cast<T>(lr * trust);
  }
  void operator()(T& p, T, T& m, T& v) const { p = p - rate * direction(p, m, v); }
};

// You, Gitman and Ginsburg 2017 (LARS): the learning rate of a tensor from the lengths of parameters and gradients.
template <typename T>
struct lars {
  static constexpr int states = 1;
  static constexpr bool kMeasureWrites = false, kCross = false;
  Gradient<T> gradient;
  T rate, decay, momentum;
  double lr, weight_decay, trust, eps;
  bool nesterov;
  explicit lars(const onepass_lars_hyper& h)
      : gradient(h, true),
        rate(T(0)),
        decay(static_cast<T>(h.weight_decay)),
        momentum(static_cast<T>(h.momentum)),
        lr(h.lr),
        weight_decay(h.weight_decay),
        trust(h.trust_coefficient),
        eps(h.eps),
        nesterov(h.nesterov != 0) {}
  void measure(T& p, T g, T&, T& x, T& y) const {
    x = p;
    y = gradient(g, p);
  }
  void adjust(const double* sums) {
    const double length = root(sums[0]), slope = root(sums[1]);
    const double ratio = length == 0.0 || slope == 0.0 ? 1.0 : trust * length / (slope + weight_decay * length + eps);
    rate = static_cast<T>(lr * ratio);
  }
  void operator()(T& p, T g, T& buffer) const {
    g = rate * (gradient(g, p) + decay * p);
    buffer = momentum * buffer + g;
    p = p - (nesterov ? g + momentum * buffer : buffer);
  }
};

// Keskar and Socher 2017 (SWATS): Adam, whose steps d and gradients g tell by sums of d^2 and d g when to go on with
// SGD, and at which learning rate. The caller reads them, decides, and sets `sgd` and `sgd_lr`; from then on exp_avg is
// the momentum buffer (zeroed by the caller) and exp_avg_sq rests.
template <typename T>
struct swats {
  static constexpr int states = 2;
  static constexpr bool kMeasureWrites = true, kCross = true;
  Gradient<T> gradient;
  T step_size, beta1, fresh1, beta2, fresh2, unbias, eps, sgd_rate;
  bool sgd;
  explicit swats(const onepass_swats_hyper& h)
      : gradient(h, false),
        step_size(static_cast<T>(h.lr / (1.0 - power(h.beta1, h.step)))),
        beta1(static_cast<T>(h.beta1)),
        fresh1(static_cast<T>(1.0 - h.beta1)),
        beta2(static_cast<T>(h.beta2)),
        fresh2(static_cast<T>(1.0 - h.beta2)),
        unbias(static_cast<T>(1.0 / root(1.0 - power(h.beta2, h.step)))),
        eps(static_cast<T>(h.eps)),
        sgd_rate(static_cast<T>((1.0 - h.beta1) * h.sgd_lr)),
        sgd(h.sgd != 0) {}
  void measure(T& p, T g, T& m, T& v, T& first, T& second) const {
    g = gradient(g, p);
    m = beta1 * m + (sgd ? g : fresh1 * g);
    v = sgd ? v : beta2 * v + fresh2 * (g * g);
    const T d = sgd ? sgd_rate * m : step_size * m / (root(v) * unbias + eps);
    p = p - d;
    first = d;
    second = g;
  }
  void operator()(T& p, T g, T& m, T& v) const {
    T first, second;
    measure(p, g, m, v, first, second);
  }
};

}  // namespace rules
}  // namespace
