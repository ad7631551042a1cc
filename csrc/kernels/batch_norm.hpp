// Batch normalization (Ioffe and Szegedy 2015) of blocks that fit into the first-level cache. Two shapes of work:
// a "run" is consecutive elements of one channel (N x C x spatial), "columns" are rows in which each column is a
// channel of its own (N x C). Statistics are centered on the block's own mean before they are squared.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/lanes.hpp"
#include "kernels/loops.hpp"
#include "kernels/table.hpp"

namespace {

using onepass::ChannelScale;
using onepass::ChannelSlope;
using onepass::Mask;

constexpr std::int64_t kColumnTile = 512;  // columns whose accumulators live on the stack

// Sums of two quantities over runs of one channel, in sixteen lanes and two chains: an addition waits for the one
// before.
template <typename T>
struct RunSums {
  Lanes<T> first[2] = {Lanes<T>::all(T(0)), Lanes<T>::all(T(0))}, second[2] = {first[0], first[0]};
  void add(int chain, const Lanes<T>& a, const Lanes<T>& b) {
    first[chain] = first[chain] + a;
    second[chain] = second[chain] + b;
  }
  double first_sum() const { return (first[0] + first[1]).sum(); }
  double second_sum() const { return (second[0] + second[1]).sum(); }
};

// visit(chain, offset, lanes) for each group of a run of n: the last one ends where the run ends, and its first `lanes`
// lanes have been seen. A run shorter than a group: rest(offset) for each element.
template <typename Visit, typename Rest>
inline void for_run_groups(std::int64_t start, std::int64_t n, Visit&& visit, Rest&& rest) {
  if (n < kLanes) {
    for (std::int64_t j = start; j < start + n; ++j) rest(j);
    return;
  }
  std::int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    visit(0, start + j, 0);
    visit(1, start + j + kLanes, 0);
  }
  if (j + kLanes <= n) {
    visit(0, start + j, 0);
    j += kLanes;
  }
  if (j < n) visit(1, start + n - kLanes, static_cast<int>(kLanes - (n - j)));
}

template <typename T>
RunSums<T> deviations(const T* x, std::int64_t rows, std::int64_t n, std::int64_t stride, T near) {
  const Lanes<T> shift = Lanes<T>::all(near);
  RunSums<T> sums;
  T rest[2] = {};
  for (std::int64_t r = 0; r < rows; ++r)
    for_run_groups(
        r * stride, n,
        [&](int chain, std::int64_t at, int seen) {
          Lanes<T> d = Lanes<T>::load(x + at) - shift;
          if (seen != 0) d = d.from(seen);
          sums.add(chain, d, d * d);
        },
        [&](std::int64_t at) {
          const T d = x[at] - near;
          rest[0] += d;
          rest[1] += d * d;
        });
  if (n < kLanes) sums.add(0, Lanes<T>::load(&rest[0], 1, T(0)), Lanes<T>::load(&rest[1], 1, T(0)));
  return sums;
}

// About the mean of the first few elements; again about their own mean, if that was far from it.
template <typename T>
void moments_run(const T* x, std::int64_t rows, std::int64_t n, std::int64_t stride, double* mean, double* m2) {
  const double count = static_cast<double>(rows * n);
  const std::int64_t few = n < kLanes ? n : kLanes;
  T near = static_cast<T>(load_group(x, few).sum() / static_cast<double>(few));
  RunSums<T> sums = deviations(x, rows, n, stride, near);
  double offset = sums.first_sum(), squares = sums.second_sum();
  if (!(offset * offset <= 0.5 * count * squares)) {
    near = static_cast<T>(static_cast<double>(near) + offset / count);
    sums = deviations(x, rows, n, stride, near);
    offset = sums.first_sum();
    squares = sums.second_sum();
  }
  *mean = static_cast<double>(near) + offset / count;
  *m2 = squares - offset * offset / count;
}

// (rows, columns), rows stride apart; rows are taken four at a time to spare the accumulators' traffic.
template <typename T>
void moments_columns(const T* x, std::int64_t rows, std::int64_t columns, std::int64_t stride, double* mean,
                     double* m2) {
  const T count = static_cast<T>(rows);
  for (std::int64_t tile = 0; tile < columns; tile += kColumnTile) {
    const std::int64_t n = columns - tile < kColumnTile ? columns - tile : kColumnTile;
    const T* __restrict base = x + tile;
    T near[kColumnTile] = {}, first[kColumnTile] = {}, second[kColumnTile] = {};
    std::int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      const T* __restrict a = base + r * stride;
      for (std::int64_t c = 0; c < n; ++c) near[c] += (a[c] + a[c + stride]) + (a[c + 2 * stride] + a[c + 3 * stride]);
    }
    for (; r < rows; ++r)
      for (std::int64_t c = 0; c < n; ++c) near[c] += base[r * stride + c];
    for (std::int64_t c = 0; c < n; ++c) near[c] = near[c] / count;
    for (r = 0; r + 4 <= rows; r += 4) {
      const T* __restrict a = base + r * stride;
      for (std::int64_t c = 0; c < n; ++c) {
        const T d0 = a[c] - near[c], d1 = a[c + stride] - near[c];
        const T d2 = a[c + 2 * stride] - near[c], d3 = a[c + 3 * stride] - near[c];
        first[c] += (d0 + d1) + (d2 + d3);
        second[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
      }
    }
    for (; r < rows; ++r)
      for (std::int64_t c = 0; c < n; ++c) {
        const T d = base[r * stride + c] - near[c];
        first[c] += d;
        second[c] += d * d;
      }
    for (std::int64_t c = 0; c < n; ++c) {
      const double offset = static_cast<double>(first[c]);
      mean[tile + c] = static_cast<double>(near[c]) + offset / static_cast<double>(rows);
      m2[tile + c] = static_cast<double>(second[c]) - offset * offset / static_cast<double>(rows);
    }
  }
}

inline void merge_moments(std::int64_t count_a, double* __restrict mean_a, double* __restrict m2_a,
                          std::int64_t count_b, const double* __restrict mean_b, const double* __restrict m2_b,
                          std::int64_t columns) {
  const double a = static_cast<double>(count_a), b = static_cast<double>(count_b);
  const double share = b / (a + b), cross = a * share;
  for (std::int64_t c = 0; c < columns; ++c) {
    const double delta = mean_b[c] - mean_a[c];
    mean_a[c] += delta * share;
    m2_a[c] += m2_b[c] + delta * delta * cross;
  }
}

// The numbers of each channel in the kernels' type: the mean in two parts, gamma invstd, beta.
template <typename T>
void channel_scale(const double* __restrict mean, const double* __restrict invstd, const T* gamma, const T* beta,
                   T* __restrict mean_high, T* __restrict mean_low, T* __restrict scale, T* __restrict shift,
                   std::int64_t channels) {
  for (std::int64_t c = 0; c < channels; ++c) {
    mean_high[c] = static_cast<T>(mean[c]);
    mean_low[c] = static_cast<T>(mean[c] - static_cast<double>(mean_high[c]));
  }
  for (std::int64_t c = 0; c < channels; ++c)
    scale[c] = static_cast<T>(gamma ? invstd[c] * static_cast<double>(gamma[c]) : invstd[c]);
  for (std::int64_t c = 0; c < channels; ++c) shift[c] = beta ? beta[c] : T(0);
}

template <typename T>
void blend(T* __restrict running, const double* __restrict batch, double factor, double momentum,
           std::int64_t channels) {
  for (std::int64_t c = 0; c < channels; ++c)
    running[c] = static_cast<T>((1.0 - momentum) * static_cast<double>(running[c]) + momentum * (batch[c] * factor));
}

template <typename T>
void forward_statistics(const onepass::ForwardStatistics<T>& s, std::int64_t channels) {
  double* __restrict invstd = s.invstd;
  if (s.m2) {
    const double* __restrict m2 = s.m2;
    for (std::int64_t c = 0; c < channels; ++c) invstd[c] = 1.0 / __builtin_sqrt(m2[c] / s.count + s.eps);
    if (s.running_mean) blend(s.running_mean, s.mean, 1.0, s.momentum, channels);
    if (s.running_var) blend(s.running_var, m2, 1.0 / (s.count - 1.0), s.momentum, channels);
  } else {
    for (std::int64_t c = 0; c < channels; ++c) s.mean[c] = static_cast<double>(s.running_mean[c]);
    for (std::int64_t c = 0; c < channels; ++c)
      invstd[c] = 1.0 / __builtin_sqrt(static_cast<double>(s.running_var[c]) + s.eps);
  }
  channel_scale(s.mean, s.invstd, s.gamma, s.beta, s.mean_high, s.mean_low, s.scale, s.shift, channels);
}

template <typename T>
void backward_statistics(const onepass::BackwardStatistics<T>& s, std::int64_t channels) {
  for (std::int64_t c = 0; s.dgamma && c < channels; ++c) s.dgamma[c] = static_cast<T>(s.sum_dyx[c] * s.invstd[c]);
  for (std::int64_t c = 0; s.dbeta && c < channels; ++c) s.dbeta[c] = static_cast<T>(s.sum_dy[c]);
  const double share = s.training ? 1.0 / s.count : 0.0;
  for (std::int64_t c = 0; c < channels; ++c) {
    s.mean_dy[c] = s.training ? static_cast<T>(s.sum_dy[c] * share) : T(0);
    s.slope[c] = s.training ? static_cast<T>(s.sum_dyx[c] * share * s.invstd[c] * s.invstd[c]) : T(0);
  }
}

template <typename T>
inline T normalized(T x, T high, T low, T scale, T shift) {
  return ((x - high) - low) * scale + shift;
}

// y may be x or residual.
template <typename T>
void normalize_run(const T* x, const T* residual, T* y, bool relu, const ChannelScale<T>& channel, std::int64_t rows,
                   std::int64_t n, std::int64_t stride) {
  const T high = *channel.mean_high, low = *channel.mean_low, scale = *channel.scale, shift = *channel.shift;
  const auto run = [&](auto add, auto clip) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = r * stride;
      ONEPASS_INDEPENDENT
      for (std::int64_t j = at; j < at + n; ++j) {
        T v = normalized(x[j], high, low, scale, shift);
        if constexpr (add) v = v + residual[j];
        if constexpr (clip) v = v < T(0) ? T(0) : v;
        y[j] = v;
      }
    }
  };
  constexpr std::true_type yes{};
  constexpr std::false_type no{};
  residual ? (relu ? run(yes, yes) : run(yes, no)) : (relu ? run(no, yes) : run(no, no));
}

template <typename T>
void normalize_columns(const T* x, const T* residual, T* y, bool relu, const ChannelScale<T>& channel,
                       std::int64_t rows, std::int64_t columns) {
  const T* __restrict high = channel.mean_high;
  const T* __restrict low = channel.mean_low;
  const T* __restrict scale = channel.scale;
  const T* __restrict shift = channel.shift;
  const auto run = [&](auto add, auto clip) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = r * columns;
      ONEPASS_INDEPENDENT
      for (std::int64_t c = 0; c < columns; ++c) {
        T v = normalized(x[at + c], high[c], low[c], scale[c], shift[c]);
        if constexpr (add) v = v + residual[at + c];
        if constexpr (clip) v = v < T(0) ? T(0) : v;
        y[at + c] = v;
      }
    }
  };
  constexpr std::true_type yes{};
  constexpr std::false_type no{};
  residual ? (relu ? run(yes, yes) : run(yes, no)) : (relu ? run(no, yes) : run(no, no));
}

template <Mask mask, typename T>
inline T masked(T dy, T centered, T scale, T shift, const T* y) {
  if constexpr (mask == Mask::from_x) return centered * scale + shift > T(0) ? dy : T(0);
  if constexpr (mask == Mask::from_y) return *y > T(0) ? dy : T(0);
  return dy;
}
template <Mask mask, typename T>
inline Lanes<T> masked(const Lanes<T>& dy, const Lanes<T>& centered, const Lanes<T>& scale, const Lanes<T>& shift,
                       const T* y) {
  if constexpr (mask == Mask::from_x) return where_positive(centered * scale + shift, dy);
  if constexpr (mask == Mask::from_y) return where_positive(Lanes<T>::load(y), dy);
  return dy;
}

template <Mask mask, typename T>
void gradient_run_masked(const T* dy, const T* x, const T* y, const ChannelScale<T>& channel, std::int64_t rows,
                         std::int64_t n, std::int64_t stride, double* sum_dy, double* sum_dyx) {
  const T high = *channel.mean_high, low = *channel.mean_low, scale = *channel.scale, shift = *channel.shift;
  const Lanes<T> highs = Lanes<T>::all(high), lows = Lanes<T>::all(low);
  const Lanes<T> scales = Lanes<T>::all(scale), shifts = Lanes<T>::all(shift);
  const std::int64_t whole = n - n % kLanes;
  Lanes<T> first = Lanes<T>::all(T(0)), second = Lanes<T>::all(T(0));
  T rest_first[kLanes] = {}, rest_second[kLanes] = {};
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t start = r * stride;
    for (std::int64_t at = start; at < start + whole; at += kLanes) {
      const Lanes<T> centered = (Lanes<T>::load(x + at) - highs) - lows;
      const Lanes<T> d = masked<mask>(Lanes<T>::load(dy + at), centered, scales, shifts, y + at);
      first = first + d;
      second = second + d * centered;
    }
    for (std::int64_t l = 0; l < n - whole; ++l) {
      const std::int64_t at = start + whole + l;
      const T centered = (x[at] - high) - low;
      const T d = masked<mask>(dy[at], centered, scale, shift, y + at);
      rest_first[l] += d;
      rest_second[l] += d * centered;
    }
  }
  *sum_dy = (first + Lanes<T>::load(rest_first)).sum();
  *sum_dyx = (second + Lanes<T>::load(rest_second)).sum();
}

template <typename T>
void gradient_run(const T* dy, const T* x, const T* y, Mask mask, const ChannelScale<T>& channel, std::int64_t rows,
                  std::int64_t n, std::int64_t stride, double* sum_dy, double* sum_dyx) {
  const auto run = mask == Mask::none     ? gradient_run_masked<Mask::none, T>
                   : mask == Mask::from_x ? gradient_run_masked<Mask::from_x, T>
                                          : gradient_run_masked<Mask::from_y, T>;
  run(dy, x, y, channel, rows, n, stride, sum_dy, sum_dyx);
}

template <Mask mask, typename T>
void gradient_columns_masked(const T* dy, const T* x, const T* y, const ChannelScale<T>& channel, std::int64_t rows,
                             std::int64_t columns, std::int64_t stride, double* sum_dy, double* sum_dyx) {
  for (std::int64_t tile = 0; tile < columns; tile += kColumnTile) {
    const std::int64_t n = columns - tile < kColumnTile ? columns - tile : kColumnTile;
    const T* __restrict high = channel.mean_high + tile;
    const T* __restrict low = channel.mean_low + tile;
    const T* __restrict scale = channel.scale + tile;
    const T* __restrict shift = channel.shift + tile;
    T first[kColumnTile] = {}, second[kColumnTile] = {};
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = r * stride + tile;
      const T* __restrict dy_row = dy + at;
      const T* __restrict x_row = x + at;
      const T* __restrict y_row = y + at;
      for (std::int64_t c = 0; c < n; ++c) {
        const T centered = (x_row[c] - high[c]) - low[c];
        const T d = masked<mask>(dy_row[c], centered, scale[c], shift[c], y_row + c);
        first[c] += d;
        second[c] += d * centered;
      }
    }
    for (std::int64_t c = 0; c < n; ++c) {
      sum_dy[tile + c] = static_cast<double>(first[c]);
      sum_dyx[tile + c] = static_cast<double>(second[c]);
    }
  }
}

template <typename T>
void gradient_columns(const T* dy, const T* x, const T* y, Mask mask, const ChannelScale<T>& channel, std::int64_t rows,
                      std::int64_t columns, std::int64_t stride, double* sum_dy, double* sum_dyx) {
  const auto run = mask == Mask::none     ? gradient_columns_masked<Mask::none, T>
                   : mask == Mask::from_x ? gradient_columns_masked<Mask::from_x, T>
                                          : gradient_columns_masked<Mask::from_y, T>;
  run(dy, x, y, channel, rows, columns, stride, sum_dy, sum_dyx);
}

// dx = scale (dy - mean_dy - (x - mean) slope), elementwise; dx may be dy.
template <Mask mask, bool residual, typename T>
inline void dx_element(const T* dy, const T* x, const T* y, T high, T low, T scale, T shift, T mean_dy, T slope, T* dx,
                       T* dresidual, std::int64_t j) {
  const T centered = (x[j] - high) - low;
  const T d = masked<mask>(dy[j], centered, scale, shift, y + j);
  if constexpr (residual) dresidual[j] = d;
  dx[j] = scale * ((d - mean_dy) - centered * slope);
}

template <typename Run>
inline void with_mask(Mask mask, bool residual, Run&& run) {
  constexpr std::true_type yes{};
  constexpr std::false_type no{};
  constexpr std::integral_constant<Mask, Mask::none> none{};
  constexpr std::integral_constant<Mask, Mask::from_x> from_x{};
  constexpr std::integral_constant<Mask, Mask::from_y> from_y{};
  switch (mask) {
    case Mask::none: residual ? run(none, yes) : run(none, no); break;
    case Mask::from_x: residual ? run(from_x, yes) : run(from_x, no); break;
    case Mask::from_y: residual ? run(from_y, yes) : run(from_y, no); break;
  }
}

template <typename T>
void dx_run(const T* dy, const T* x, const T* y, Mask mask, const ChannelScale<T>& channel,
            const ChannelSlope<T>& slope, T* dx, T* dresidual, std::int64_t rows, std::int64_t n, std::int64_t stride) {
  const T high = *channel.mean_high, low = *channel.mean_low, scale = *channel.scale, shift = *channel.shift;
  const T mean_dy = *slope.mean_dy, k = *slope.slope;
  with_mask(mask, dresidual != nullptr, [&](auto m, auto residual) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = r * stride;
      ONEPASS_INDEPENDENT
      for (std::int64_t j = at; j < at + n; ++j)
        dx_element<m, residual>(dy, x, y, high, low, scale, shift, mean_dy, k, dx, dresidual, j);
    }
  });
}

template <typename T>
void dx_columns(const T* dy, const T* x, const T* y, Mask mask, const ChannelScale<T>& channel,
                const ChannelSlope<T>& slope, T* dx, T* dresidual, std::int64_t rows, std::int64_t columns) {
  const T* __restrict high = channel.mean_high;
  const T* __restrict low = channel.mean_low;
  const T* __restrict scale = channel.scale;
  const T* __restrict shift = channel.shift;
  const T* __restrict mean_dy = slope.mean_dy;
  const T* __restrict k = slope.slope;
  with_mask(mask, dresidual != nullptr, [&](auto m, auto residual) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = r * columns;
      T* dresidual_row = dresidual ? dresidual + at : nullptr;
      ONEPASS_INDEPENDENT
      for (std::int64_t c = 0; c < columns; ++c)
        dx_element<m, residual>(dy + at, x + at, y + at, high[c], low[c], scale[c], shift[c], mean_dy[c], k[c], dx + at,
                                dresidual_row, c);
    }
  });
}

}  // namespace
