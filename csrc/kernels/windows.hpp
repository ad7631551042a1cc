// Windows that slide over planes (height, width): columns for convolution, and pooling. Taps are visited in raster
// order; those in the padding are left out.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/lanes.hpp"
#include "kernels/loops.hpp"
#include "kernels/table.hpp"

namespace {

using onepass::Window;

// The outputs [begin, end) along an axis whose tap lies in the input, where out * stride + offset is.
struct Taps {
  std::int64_t offset, begin, end;
};
inline Taps taps(const Window& w, int axis, std::int64_t tap, std::int64_t inputs, std::int64_t outputs) {
  const std::int64_t offset = tap - w.padding[axis], stride = w.stride[axis];
  const std::int64_t begin = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
  const std::int64_t last = inputs - 1 - offset;  // of what a window may begin at
  const std::int64_t end = last < 0 ? 0 : last / stride + 1;
  const auto within = [&](std::int64_t i) { return i < outputs ? i : outputs; };
  return {offset, within(begin), within(end > begin ? end : begin)};
}

// Strides that loops are compiled for.
using One = std::integral_constant<std::int64_t, 1>;
using Two = std::integral_constant<std::int64_t, 2>;

// columns (channels kernel kernel, (last - first) out_width) of x (channels, height, width): what meets each weight in
// the output rows [first, last).
template <typename T>
void unfold(const T* x, T* columns, const Window& w, std::int64_t channels, std::int64_t first, std::int64_t last) {
  const std::int64_t step = w.stride[1];
  T* __restrict to = columns;
  for (std::int64_t c = 0; c < channels; ++c, x += w.height * w.width)
    for (std::int64_t i = 0; i < w.kernel[0]; ++i) {
      const Taps rows = taps(w, 0, i, w.height, w.out_height);
      for (std::int64_t j = 0; j < w.kernel[1]; ++j) {
        const Taps inside = taps(w, 1, j, w.width, w.out_width);
        for (std::int64_t r = first; r < last; ++r, to += w.out_width) {
          const bool there = r >= rows.begin && r < rows.end;
          const std::int64_t begin = there ? inside.begin : w.out_width, end = there ? inside.end : w.out_width;
          const T* __restrict from = x + (r * w.stride[0] + rows.offset) * w.width + inside.offset;
          for (std::int64_t o = 0; o < begin; ++o) to[o] = T(0);
          if (step == 1)
            for (std::int64_t o = begin; o < end; ++o) to[o] = from[o];
          else
            for (std::int64_t o = begin; o < end; ++o) to[o] = from[o * step];
          for (std::int64_t o = end; o < w.out_width; ++o) to[o] = T(0);
        }
      }
    }
}

// dx += what the columns of unfold stand for.
template <typename T>
void fold(const T* columns, T* dx, const Window& w, std::int64_t channels, std::int64_t first, std::int64_t last) {
  const std::int64_t step = w.stride[1];
  const T* __restrict from = columns;
  for (std::int64_t c = 0; c < channels; ++c, dx += w.height * w.width)
    for (std::int64_t i = 0; i < w.kernel[0]; ++i) {
      const Taps rows = taps(w, 0, i, w.height, w.out_height);
      for (std::int64_t j = 0; j < w.kernel[1]; ++j) {
        const Taps inside = taps(w, 1, j, w.width, w.out_width);
        for (std::int64_t r = first; r < last; ++r, from += w.out_width) {
          if (r < rows.begin || r >= rows.end) continue;
          T* __restrict to = dx + (r * w.stride[0] + rows.offset) * w.width + inside.offset;
          if (step == 1)
            for (std::int64_t o = inside.begin; o < inside.end; ++o) to[o] += from[o];
          else
            for (std::int64_t o = inside.begin; o < inside.end; ++o) to[o * step] += from[o];
        }
      }
    }
}

// y (rows, columns; stride in elements) += a bias for each row, then ReLU
template <typename T>
void row_bias_relu(T* y, const T* bias, bool relu, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    T* __restrict row = y + r * stride;
    if (bias) {
      const T b = bias[r];
      for (std::int64_t c = 0; c < columns; ++c) row[c] = row[c] + b;
    }
    if (relu)
      for (std::int64_t c = 0; c < columns; ++c) row[c] = row[c] < T(0) ? T(0) : row[c];
  }
}

// sums (rows) += x (rows, columns) over the columns
template <typename T>
void add_row_sums(const T* x, double* sums, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r, x += columns) {
    Lanes<double> sum = Lanes<double>::all(0.0);
    std::int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) sum = sum + load_double(x + c);
    double rest = 0;
    for (; c < columns; ++c) rest += static_cast<double>(x[c]);
    sums[r] += sum.sum() + rest;
  }
}

// ---- pooling: one plane each -----------------------------------------------------------------------------------

// The taps of the columns; finding one takes divisions.
struct Columns {
  static constexpr std::int64_t kKept = 32;
  const Window& window;
  Taps kept[kKept];

  explicit Columns(const Window& w) : window(w) {
    for (std::int64_t j = 0; j < w.kernel[1] && j < kKept; ++j) kept[j] = find(j);
  }
  Taps operator[](std::int64_t j) const { return j < kKept ? kept[j] : find(j); }

 private:
  Taps find(std::int64_t j) const { return taps(window, 1, j, window.width, window.out_width); }
};

// visit(first output, its tap's index in x, number of outputs) for each tap of output row r
template <typename Visit>
inline void for_taps(const Columns& columns, std::int64_t r, Visit&& visit) {
  const Window& w = columns.window;
  for (std::int64_t i = 0; i < w.kernel[0]; ++i) {
    const std::int64_t row = r * w.stride[0] - w.padding[0] + i;
    if (row < 0 || row >= w.height) continue;
    for (std::int64_t j = 0; j < w.kernel[1]; ++j) {
      const Taps inside = columns[j];
      visit(inside.begin, row * w.width + inside.begin * w.stride[1] + inside.offset, inside.end - inside.begin);
    }
  }
}

// Does v come after b, the largest so far? NaN does, after numbers and after NaN.
template <typename T>
inline auto takes_over(T v, T b) {
  return (v > b) | (v != v);
}

// Windows of two by two beside each other, the usual ones: each element is met once. Rows are short, so that the
// vectors are as long as the row allows, and the last one of a row overlaps the one before.
inline bool are_quarters(const Window& w) {
  const auto all = [](const std::int64_t(&pair)[2], std::int64_t value) {
    return pair[0] == value && pair[1] == value;
  };
  return all(w.kernel, 2) && all(w.stride, 2) && all(w.padding, 0) && w.out_width > 1;
}

template <typename T, int N>
struct Quarters {
  typedef T Vector __attribute__((vector_size(N * sizeof(T))));
  typedef T Unaligned __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
  using Indices = std::make_integer_sequence<int, N>;

  static Vector load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static void store(Vector v, T* p) { *reinterpret_cast<Unaligned*>(p) = v; }
  template <int First, int... I>
  static Vector every_second(const T* p, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(load(p), load(p + N), (2 * I + First)...);
  }
  template <int... I>
  static void store_in_turn(Vector even, Vector odd, T* p, std::integer_sequence<int, I...>) {
    store(__builtin_shufflevector(even, odd, (I / 2 + I % 2 * N)...), p);
    store(__builtin_shufflevector(even, odd, (N / 2 + I / 2 + I % 2 * N)...), p + N);
  }

  static void forward(const T* above, const T* below, T* y) {
    Vector best = every_second<0>(above, Indices{});
    const Vector rest[] = {every_second<1>(above, Indices{}), every_second<0>(below, Indices{}),
                           every_second<1>(below, Indices{})};
    for (const Vector v : rest) best = takes_over(v, best) ? v : best;
    store(best, y);
  }
  static void backward(const T* dy, const T* above, const T* below, T* dx_above, T* dx_below) {
    const Vector b = every_second<1>(above, Indices{}), c = every_second<0>(below, Indices{});
    const Vector d = every_second<1>(below, Indices{}), g = load(dy), zero = {};
    Vector best = every_second<0>(above, Indices{});
    Vector to[4] = {g, zero, zero, zero};
    const auto take = [&](Vector v, int place) {
      const auto over = takes_over(v, best);
      best = over ? v : best;
      for (int i = 0; i < place; ++i) to[i] = over ? zero : to[i];
      to[place] = over ? g : zero;
    };
    take(b, 1);
    take(c, 2);
    take(d, 3);
    store_in_turn(to[0], to[1], dx_above, Indices{});
    store_in_turn(to[2], to[3], dx_below, Indices{});
  }
};

// visit(lanes, first output) for the vectors of a row of n >= 2 outputs
template <typename T, int N = Lanes<T>::kNative, typename Visit>
inline void for_row(std::int64_t n, Visit&& visit) {
  if constexpr (N > 2) {
    if (n < N) return for_row<T, N / 2>(n, visit);
  }
  for (std::int64_t o = 0; o + N <= n; o += N) visit(std::integral_constant<int, N>{}, o);
  if (n % N != 0) visit(std::integral_constant<int, N>{}, n - N);
}

template <typename T>
void max_pool_quarters(const T* x, T* y, const Window& w) {
  for (std::int64_t r = 0; r < w.out_height; ++r, x += 2 * w.width, y += w.out_width)
    for_row<T>(w.out_width, [&](auto lanes, std::int64_t o) {
      Quarters<T, lanes()>::forward(x + 2 * o, x + w.width + 2 * o, y + o);
    });
}

template <typename T>
void max_pool_quarters_backward(const T* dy, const T* x, T* dx, const Window& w) {
  for (std::int64_t r = 0; r < w.out_height; ++r, x += 2 * w.width, dx += 2 * w.width, dy += w.out_width)
    for_row<T>(w.out_width, [&](auto lanes, std::int64_t o) {
      Quarters<T, lanes()>::backward(dy + o, x + 2 * o, x + w.width + 2 * o, dx + 2 * o, dx + w.width + 2 * o);
    });
}

// The largest of each window; NaN if it holds one.
template <typename T>
void max_pool(const T* x, T* y, const Window& w) {
  if (are_quarters(w)) return max_pool_quarters(x, y, w);
  const Columns columns(w);
  const std::int64_t step = w.stride[1];
  for (std::int64_t r = 0; r < w.out_height; ++r, y += w.out_width) {
    T* __restrict best = y;
    for (std::int64_t o = 0; o < w.out_width; ++o) best[o] = -static_cast<T>(__builtin_inf());
    for_taps(columns, r, [&](std::int64_t begin, std::int64_t at, std::int64_t n) {
      const T* __restrict from = x + at;
      T* __restrict to = best + begin;
      const auto take = [&](auto stride) {
        for (std::int64_t o = 0; o < n; ++o) to[o] = takes_over(from[o * stride], to[o]) ? from[o * stride] : to[o];
      };
      step == 1 ? take(One{}) : step == 2 ? take(Two{}) : take(step);
    });
  }
}

constexpr std::int64_t kPoolTile = 256;  // outputs whose places are kept

// dx (zero before) += dy at the first largest, or the last NaN, of each window.
template <typename T>
void max_pool_backward(const T* dy, const T* x, T* dx, const Window& w) {
  if (are_quarters(w)) return max_pool_quarters_backward(dy, x, dx, w);
  const Columns columns(w);
  for (std::int64_t r = 0; r < w.out_height; ++r, dy += w.out_width)
    for (std::int64_t tile = 0; tile < w.out_width; tile += kPoolTile) {
      const std::int64_t n = w.out_width - tile < kPoolTile ? w.out_width - tile : kPoolTile;
      T best[kPoolTile];
      std::int64_t where[kPoolTile];
      for (std::int64_t o = 0; o < n; ++o) {
        best[o] = -static_cast<T>(__builtin_inf());
        where[o] = -1;
      }
      for_taps(columns, r, [&](std::int64_t begin, std::int64_t at, std::int64_t count) {
        const std::int64_t from = begin > tile ? begin : tile;
        const std::int64_t to = begin + count < tile + n ? begin + count : tile + n;
        for (std::int64_t o = from; o < to; ++o) {
          const std::int64_t place = at + (o - begin) * w.stride[1];
          const T v = x[place], b = best[o - tile];
          const bool better = takes_over(v, b) | (where[o - tile] < 0);
          best[o - tile] = better ? v : b;
          where[o - tile] = better ? place : where[o - tile];
        }
      });
      for (std::int64_t o = 0; o < n; ++o) dx[where[o]] += dy[tile + o];
    }
}

// The mean of each window, whose padding counts as zeros.
template <typename T>
void average_pool(const T* x, T* y, const Window& w) {
  const Columns columns(w);
  const T area = static_cast<T>(w.kernel[0] * w.kernel[1]);
  const std::int64_t step = w.stride[1];
  for (std::int64_t r = 0; r < w.out_height; ++r, y += w.out_width) {
    for (std::int64_t o = 0; o < w.out_width; ++o) y[o] = T(0);
    for_taps(columns, r, [&](std::int64_t begin, std::int64_t at, std::int64_t n) {
      const T* __restrict from = x + at;
      T* __restrict to = y + begin;
      const auto add = [&](auto stride) {
        for (std::int64_t o = 0; o < n; ++o) to[o] += from[o * stride];
      };
      step == 1 ? add(One{}) : step == 2 ? add(Two{}) : add(step);
    });
    for (std::int64_t o = 0; o < w.out_width; ++o) y[o] = y[o] / area;
  }
}

// dx (zero before) += dy / area at every tap.
template <typename T>
void average_pool_backward(const T* dy, T* dx, const Window& w) {
  const Columns columns(w);
  const T area = static_cast<T>(w.kernel[0] * w.kernel[1]);
  const std::int64_t step = w.stride[1];
  for (std::int64_t r = 0; r < w.out_height; ++r, dy += w.out_width)
    for_taps(columns, r, [&](std::int64_t begin, std::int64_t at, std::int64_t n) {
      const T* __restrict from = dy + begin;
      T* __restrict to = dx + at;
      const auto add = [&](auto stride) {
        for (std::int64_t o = 0; o < n; ++o) to[o * stride] += from[o] / area;
      };
      step == 1 ? add(One{}) : step == 2 ? add(Two{}) : add(step);
    });
}

}  // namespace
