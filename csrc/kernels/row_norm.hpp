// Rows normalized by their own mean and variance: layer (Ba, Kiros and Hinton 2016), group (Wu and He 2018) and
// instance normalization (Ulyanov, Vedaldi and Lempitsky 2016), and by their root mean square (Zhang and Sennrich
// 2019). Pieces of a row that stay in the first-level cache; statistics are those of batch_norm.hpp and
// elementwise.hpp.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/lanes.hpp"
#include "kernels/loops.hpp"
#include "kernels/table.hpp"

namespace {

using onepass::RowScale;
using onepass::RowSlope;

// y = xhat gamma + beta, elementwise.
template <typename T>
void normalize_row(const T* x, const T* gamma, const T* beta, const RowScale<T>& scale, T* y, std::int64_t n) {
  const T high = scale.mean_high, low = scale.mean_low, invstd = scale.invstd;
  if (beta) {
    ONEPASS_INDEPENDENT
    for (std::int64_t j = 0; j < n; ++j) y[j] = (((x[j] - high) - low) * invstd) * gamma[j] + beta[j];
  } else {
    ONEPASS_INDEPENDENT
    for (std::int64_t j = 0; j < n; ++j) y[j] = (((x[j] - high) - low) * invstd) * gamma[j];
  }
}

template <typename T>
void normalize_row_run(const T* x, T gamma, T beta, const RowScale<T>& scale, T* y, std::int64_t n) {
  const T high = scale.mean_high, low = scale.mean_low, invstd = scale.invstd;
  ONEPASS_INDEPENDENT
  for (std::int64_t j = 0; j < n; ++j) y[j] = (((x[j] - high) - low) * invstd) * gamma + beta;
}

template <bool scaled, typename T>
void gradient_row_scaled(const T* dy, const T* x, const T* gamma, const RowScale<T>& scale, std::int64_t n,
                         double* sum_g, double* sum_gx) {
  const Lanes<T> high = Lanes<T>::all(scale.mean_high), low = Lanes<T>::all(scale.mean_low);
  const Lanes<T> invstd = Lanes<T>::all(scale.invstd);
  Lanes<T> first = Lanes<T>::all(T(0)), second = Lanes<T>::all(T(0));
  const std::int64_t whole = n - n % kLanes;
  for (std::int64_t j = 0; j < whole; j += kLanes) {
    Lanes<T> g = Lanes<T>::load(dy + j);
    if constexpr (scaled) g = g * Lanes<T>::load(gamma + j);
    first = first + g;
    second = second + g * (((Lanes<T>::load(x + j) - high) - low) * invstd);
  }
  if (whole < n) {
    T g_tail[kLanes] = {}, gx_tail[kLanes] = {};
    for (std::int64_t l = 0; l < n - whole; ++l) {
      const std::int64_t j = whole + l;
      T g = dy[j];
      if constexpr (scaled) g = g * gamma[j];
      g_tail[l] = g;
      gx_tail[l] = g * (((x[j] - scale.mean_high) - scale.mean_low) * scale.invstd);
    }
    first = first + Lanes<T>::load(g_tail);
    second = second + Lanes<T>::load(gx_tail);
  }
  *sum_g = first.sum();
  *sum_gx = second.sum();
}

template <typename T>
void gradient_row(const T* dy, const T* x, const T* gamma, const RowScale<T>& scale, std::int64_t n, double* sum_g,
                  double* sum_gx) {
  if (gamma)
    gradient_row_scaled<true>(dy, x, gamma, scale, n, sum_g, sum_gx);
  else
    gradient_row_scaled<false>(dy, x, gamma, scale, n, sum_g, sum_gx);
}

// dx = invstd (g - mean(g) - xhat mean(g xhat)) with g = dy gamma.
template <typename T>
void dx_row(const T* dy, const T* x, const T* gamma, const RowScale<T>& scale, const RowSlope<T>& slope, T* dx,
            T* dgamma, T* dbeta, std::int64_t n) {
  const T high = scale.mean_high, low = scale.mean_low, invstd = scale.invstd;
  const T mean_g = slope.mean_g, mean_gx = slope.mean_gx;
  const auto run = [&](auto sums) {
    ONEPASS_INDEPENDENT
    for (std::int64_t j = 0; j < n; ++j) {
      const T d = dy[j], xhat = ((x[j] - high) - low) * invstd;
      if constexpr (sums) {
        dgamma[j] += d * xhat;
        dbeta[j] += d;
      }
      dx[j] = invstd * ((d * gamma[j] - mean_g) - xhat * mean_gx);
    }
  };
  if (dgamma)
    run(std::true_type{});
  else
    run(std::false_type{});
}

template <typename T>
void dx_row_run(const T* dy, const T* x, T gamma, const RowScale<T>& scale, const RowSlope<T>& slope, T* dx,
                std::int64_t n) {
  const T high = scale.mean_high, low = scale.mean_low, invstd = scale.invstd;
  const T mean_g = slope.mean_g, mean_gx = slope.mean_gx;
  ONEPASS_INDEPENDENT
  for (std::int64_t j = 0; j < n; ++j) {
    const T xhat = ((x[j] - high) - low) * invstd;
    dx[j] = invstd * ((dy[j] * gamma - mean_g) - xhat * mean_gx);
  }
}

template <typename T>
void empty_into(T* from, double* to, std::int64_t n) {
  T* __restrict in = from;
  double* __restrict sum = to;
  for (std::int64_t j = 0; j < n; ++j) {
    sum[j] += static_cast<double>(in[j]);
    in[j] = T(0);
  }
}

}  // namespace
