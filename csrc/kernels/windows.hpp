// Windows that slide over planes (height, width): columns for convolution, and pooling. Taps are visited in raster
// order; those in the padding are left out.
#pragma once

#include <cstdint>

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

// visit(first output, its tap's index in x, number of outputs) for each tap of output row r
template <typename Visit>
inline void for_taps(const Window& w, std::int64_t r, Visit&& visit) {
  for (std::int64_t i = 0; i < w.kernel[0]; ++i) {
    const std::int64_t row = r * w.stride[0] - w.padding[0] + i;
    if (row < 0 || row >= w.height) continue;
    for (std::int64_t j = 0; j < w.kernel[1]; ++j) {
      const Taps inside = taps(w, 1, j, w.width, w.out_width);
      visit(inside.begin, row * w.width + inside.begin * w.stride[1] + inside.offset, inside.end - inside.begin);
    }
  }
}

// The largest of each window; NaN if it holds one.
template <typename T>
void max_pool(const T* x, T* y, const Window& w) {
  const std::int64_t step = w.stride[1];
  for (std::int64_t r = 0; r < w.out_height; ++r, y += w.out_width) {
    T* __restrict best = y;
    for (std::int64_t o = 0; o < w.out_width; ++o) best[o] = -static_cast<T>(__builtin_inf());
    for_taps(w, r, [&](std::int64_t begin, std::int64_t at, std::int64_t n) {
      const T* __restrict from = x + at;
      T* __restrict to = best + begin;
      const auto take = [&](std::int64_t stride) {
        for (std::int64_t o = 0; o < n; ++o) {
          const T v = from[o * stride], b = to[o];
          to[o] = v > b || v != v ? v : b;
        }
      };
      step == 2 ? take(2) : take(step);
    });
  }
}

constexpr std::int64_t kPoolTile = 256;  // outputs whose places are kept

// dx (zero before) += dy at the first largest, or the last NaN, of each window.
template <typename T>
void max_pool_backward(const T* dy, const T* x, T* dx, const Window& w) {
  for (std::int64_t r = 0; r < w.out_height; ++r, dy += w.out_width)
    for (std::int64_t tile = 0; tile < w.out_width; tile += kPoolTile) {
      const std::int64_t n = w.out_width - tile < kPoolTile ? w.out_width - tile : kPoolTile;
      T best[kPoolTile];
      std::int64_t where[kPoolTile];
      for (std::int64_t o = 0; o < n; ++o) {
        best[o] = -static_cast<T>(__builtin_inf());
        where[o] = -1;
      }
      for_taps(w, r, [&](std::int64_t begin, std::int64_t at, std::int64_t count) {
        const std::int64_t from = begin > tile ? begin : tile;
        const std::int64_t to = begin + count < tile + n ? begin + count : tile + n;
        for (std::int64_t o = from; o < to; ++o) {
          const std::int64_t place = at + (o - begin) * w.stride[1];
          const T v = x[place], b = best[o - tile];
          const bool better = v > b || v != v || where[o - tile] < 0;
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
  const T area = static_cast<T>(w.kernel[0] * w.kernel[1]);
  for (std::int64_t r = 0; r < w.out_height; ++r, y += w.out_width) {
    for (std::int64_t o = 0; o < w.out_width; ++o) y[o] = T(0);
    for_taps(w, r, [&](std::int64_t begin, std::int64_t at, std::int64_t n) {
      const T* __restrict from = x + at;
      T* __restrict to = y + begin;
      for (std::int64_t o = 0; o < n; ++o) to[o] += from[o * w.stride[1]];
    });
    for (std::int64_t o = 0; o < w.out_width; ++o) y[o] = y[o] / area;
  }
}

// dx (zero before) += dy / area at every tap.
template <typename T>
void average_pool_backward(const T* dy, T* dx, const Window& w) {
  const T area = static_cast<T>(w.kernel[0] * w.kernel[1]);
  for (std::int64_t r = 0; r < w.out_height; ++r, dy += w.out_width)
    for_taps(w, r, [&](std::int64_t begin, std::int64_t at, std::int64_t n) {
      const T* __restrict from = dy + begin;
      T* __restrict to = dx + at;
      for (std::int64_t o = 0; o < n; ++o) to[o * w.stride[1]] += from[o] / area;
    });
}

}  // namespace
