// Batch normalization: an array is (outer, channels, inner); long inner runs go channel by channel, so that a channel
// stays in cache between statistics and normalizing; short ones go row by row with every column on its own.
#include <algorithm>
#include <cmath>
#include <vector>

#include "api/arrays.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

constexpr std::int64_t kShortRun = 16;            // inner lengths below it are handled as columns
constexpr std::int64_t kRunBlock = 2048;          // elements of a block of runs: first-level cache, with its partner
constexpr std::int64_t kTile = 512;               // columns of a tile
constexpr std::int64_t kTileBlock = 8192;         // elements of a block of rows of a tile
constexpr std::int64_t kGroupElements = 1 << 16;  // elements whose partial sums are merged before they meet others

struct Shape {
  std::int64_t outer = 1, channels = 1, inner = 1;
  std::int64_t count() const { return outer * inner; }  // values of a channel
  std::int64_t elements() const { return outer * channels * inner; }
  bool by_run() const { return inner >= kShortRun; }
};

// The numbers of each channel, in the form that kernels take.
template <typename T>
struct Channels {
  std::vector<T> numbers;
  std::int64_t width;
  Channels(std::int64_t width_, int kinds) : numbers(static_cast<std::size_t>(width_ * kinds)), width(width_) {}
  T* at(int kind) { return numbers.data() + kind * width; }
  ChannelScale<T> scale(std::int64_t c) { return {at(0) + c, at(1) + c, at(2) + c, at(3) + c}; }
  ChannelSlope<T> slope(std::int64_t c) { return {at(4) + c, at(5) + c}; }
  // From one number a channel to one a column, `times` columns each.
  void repeat(int first, int last, std::int64_t times) {
    for (int kind = first; times > 1 && kind < last; ++kind)
      for (std::int64_t i = width - 1; i >= 0; --i) at(kind)[i] = at(kind)[i / times];
  }
};

// Blocks of one channel's runs.
struct RunBlocks {
  Shape shape;
  std::int64_t rows_a_block, pieces, length, count;

  explicit RunBlocks(const Shape& s) : shape(s) {
    rows_a_block = std::max<std::int64_t>(1, kRunBlock / s.inner);
    pieces = (s.inner + kRunBlock - 1) / kRunBlock;
    length = s.inner < kRunBlock ? s.inner : kRunBlock;
    count = (s.outer + rows_a_block - 1) / rows_a_block * pieces;
  }
  // visit(offset of the first element, rows, elements of a row)
  template <typename Visit>
  void block(std::int64_t channel, std::int64_t b, Visit&& visit) const {
    const std::int64_t row = b / pieces * rows_a_block, start = b % pieces * length;
    visit((row * shape.channels + channel) * shape.inner + start, std::min(rows_a_block, shape.outer - row),
          std::min(length, shape.inner - start));
  }
  std::int64_t stride() const { return shape.channels * shape.inner; }
};

// Tiles of columns, each in groups of rows.
struct ColumnTiles {
  std::int64_t rows, width, tiles, block_rows, group_rows, groups;

  explicit ColumnTiles(const Shape& s) : rows(s.outer), width(s.channels * s.inner) {
    const std::int64_t tile = std::min(width, kTile);
    tiles = (width + kTile - 1) / kTile;
    block_rows = std::clamp<std::int64_t>(kTileBlock / tile / 4 * 4, 4, 256);
    const std::int64_t blocks = std::max<std::int64_t>(1, kGroupElements / (block_rows * tile));
    group_rows = block_rows * blocks;
    groups = (rows + group_rows - 1) / group_rows;
  }
};

template <typename T>
T* offset(T* p, std::int64_t c) {
  return p ? p + c : nullptr;
}

template <typename T>
struct Forward {
  const KernelTable& table;
  Shape shape;
  const T *x, *gamma, *beta, *residual;
  T *running_mean, *running_var, *y;
  double *mean, *invstd;
  const onepass_batch_norm_options& options;
  Channels<T> channels;
  std::int32_t threads;

  const FloatKernels<T>& kernels() const { return table.kernels<T>(); }

  // Channels [c, c + n): all that follows from their mean and m2 (training) or running statistics.
  void finish(std::int64_t c, std::int64_t n, const double* m2) {
    kernels().forward_statistics({.count = static_cast<double>(shape.count()),
                                  .m2 = options.training ? m2 : nullptr,
                                  .momentum = options.momentum,
                                  .eps = options.eps,
                                  .gamma = offset(gamma, c),
                                  .beta = offset(beta, c),
                                  .running_mean = offset(running_mean, c),
                                  .running_var = offset(running_var, c),
                                  .mean = mean + c,
                                  .invstd = invstd + c,
                                  .mean_high = channels.at(0) + c,
                                  .mean_low = channels.at(1) + c,
                                  .scale = channels.at(2) + c,
                                  .shift = channels.at(3) + c},
                                 n);
  }
  int team(std::int64_t tasks) const {
    return runtime::team_size(threads, tasks, 3 * shape.elements() * static_cast<std::int64_t>(sizeof(T)));
  }
  const T* residual_at(std::int64_t at) const { return residual ? residual + at : nullptr; }

  void normalize_block(const RunBlocks& blocks, std::int64_t c, std::int64_t b) {
    blocks.block(c, b, [&](std::int64_t at, std::int64_t rows, std::int64_t n) {
      kernels().normalize_run(x + at, residual_at(at), y + at, options.relu != 0, channels.scale(c), rows, n,
                              blocks.stride());
    });
  }
  void moments_block(const RunBlocks& blocks, std::int64_t c, std::int64_t b, double* block_mean, double* m2) const {
    blocks.block(c, b, [&](std::int64_t at, std::int64_t rows, std::int64_t n) {
      kernels().moments_run(x + at, rows, n, blocks.stride(), block_mean, m2);
    });
  }
  std::int64_t block_count(const RunBlocks& blocks, std::int64_t b) const {
    std::int64_t count = 0;
    blocks.block(0, b, [&](std::int64_t, std::int64_t rows, std::int64_t n) { count = rows * n; });
    return count;
  }

  void by_run() {
    const RunBlocks blocks(shape);
    const int team_of_blocks = team(shape.channels * blocks.count);
    if (shape.channels % team_of_blocks == 0 || shape.channels >= 8 * team_of_blocks) {
      runtime::parallel(team(shape.channels), shape.channels, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t c = begin; c < end; ++c) {
          double m2 = 0.0;
          if (options.training) {
            std::int64_t seen = 0;
            for (std::int64_t b = 0; b < blocks.count; ++b) {
              double block_mean, block_m2;
              moments_block(blocks, c, b, &block_mean, &block_m2);
              merge(seen, mean[c], m2, block_count(blocks, b), block_mean, block_m2);
            }
          }
          finish(c, 1, &m2);
          for (std::int64_t b = 0; b < blocks.count; ++b) normalize_block(blocks, c, b);
        }
      });
      return;
    }
    // few channels: all threads on all blocks, then the same merging in the same order
    const std::int64_t tasks = shape.channels * blocks.count;
    std::vector<double> means(static_cast<std::size_t>(tasks)), squares(static_cast<std::size_t>(tasks));
    if (options.training)
      runtime::parallel(team_of_blocks, tasks, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
          moments_block(blocks, i / blocks.count, i % blocks.count, &means[static_cast<std::size_t>(i)],
                        &squares[static_cast<std::size_t>(i)]);
      });
    runtime::parallel(1, shape.channels, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) {
        double m2 = 0.0;
        std::int64_t seen = 0;
        for (std::int64_t b = 0; options.training && b < blocks.count; ++b) {
          const auto i = static_cast<std::size_t>(c * blocks.count + b);
          merge(seen, mean[c], m2, block_count(blocks, b), means[i], squares[i]);
        }
        finish(c, 1, &m2);
      }
    });
    runtime::parallel(team_of_blocks, tasks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) normalize_block(blocks, i / blocks.count, i % blocks.count);
    });
  }

  void merge(std::int64_t& seen, double& to_mean, double& to_m2, std::int64_t count, double from_mean,
             double from_m2) const {
    if (seen == 0) {
      to_mean = from_mean;
      to_m2 = from_m2;
    } else {
      table.merge_moments(seen, &to_mean, &to_m2, count, &from_mean, &from_m2, 1);
    }
    seen += count;
  }

  void by_column() {
    const ColumnTiles t(shape);
    const auto width = static_cast<std::size_t>(t.width);
    std::vector<double> means, squares;
    if (options.training) {
      means.resize(width * static_cast<std::size_t>(t.groups));
      squares.resize(means.size());
      const std::int64_t tasks = t.tiles * t.groups;
      runtime::parallel(team(tasks), tasks, [&](std::int64_t begin, std::int64_t end) {
        double block_mean[kTile], block_m2[kTile];
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t group = i / t.tiles, column = i % t.tiles * kTile;
          const std::int64_t columns = std::min(kTile, t.width - column);
          double* group_mean = means.data() + group * t.width + column;
          double* group_m2 = squares.data() + group * t.width + column;
          const std::int64_t first = group * t.group_rows, last = std::min(first + t.group_rows, t.rows);
          for (std::int64_t row = first; row < last; row += t.block_rows) {
            const std::int64_t rows = std::min(t.block_rows, last - row);
            const T* block = x + row * t.width + column;
            if (row == first) {
              kernels().moments_columns(block, rows, columns, t.width, group_mean, group_m2);
            } else {
              kernels().moments_columns(block, rows, columns, t.width, block_mean, block_m2);
              table.merge_moments(row - first, group_mean, group_m2, rows, block_mean, block_m2, columns);
            }
          }
        }
      });
    }
    runtime::parallel(1, 1, [&](std::int64_t, std::int64_t) {
      for (std::int64_t group = 1; options.training && group < t.groups; ++group)
        table.merge_moments(group * t.group_rows, means.data(), squares.data(),
                            std::min(t.group_rows, t.rows - group * t.group_rows), means.data() + group * t.width,
                            squares.data() + group * t.width, t.width);
      // the columns of a channel, in order; with one each this leaves all in place
      for (std::int64_t c = 0; options.training && c < shape.channels; ++c) {
        std::int64_t seen = 0;
        double m2 = 0.0;
        for (std::int64_t column = c * shape.inner; column < (c + 1) * shape.inner; ++column)
          merge(seen, mean[c], m2, shape.outer, means[static_cast<std::size_t>(column)],
                squares[static_cast<std::size_t>(column)]);
        squares[static_cast<std::size_t>(c)] = m2;
      }
      finish(0, shape.channels, squares.data());
      channels.repeat(0, 4, shape.inner);
    });
    runtime::parallel(team(t.rows), t.rows, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t at = begin * t.width;
      kernels().normalize_columns(x + at, residual_at(at), y + at, options.relu != 0, channels.scale(0), end - begin,
                                  t.width);
    });
  }
};

template <typename T>
struct Backward {
  const KernelTable& table;
  Shape shape;
  const T *dy, *x, *y, *gamma, *beta;  // y: x where it is not needed
  const double *mean, *invstd;
  T *dx, *dgamma, *dbeta, *dresidual;
  Mask mask;
  bool training;
  Channels<T> channels;
  std::int32_t threads;

  const FloatKernels<T>& kernels() const { return table.kernels<T>(); }
  int team(std::int64_t tasks) const {
    return runtime::team_size(threads, tasks, 5 * shape.elements() * static_cast<std::int64_t>(sizeof(T)));
  }
  T* dresidual_at(std::int64_t at) const { return dresidual ? dresidual + at : nullptr; }

  void start() {
    kernels().channel_scale(mean, invstd, gamma, beta, channels.at(0), channels.at(1), channels.at(2), channels.at(3),
                            shape.channels);
  }
  // Channels [c, c + n): all that follows from their sums.
  void finish(std::int64_t c, std::int64_t n, const double* sum_dy, const double* sum_dyx) {
    kernels().backward_statistics({.count = static_cast<double>(shape.count()),
                                   .training = training,
                                   .sum_dy = sum_dy,
                                   .sum_dyx = sum_dyx,
                                   .invstd = invstd + c,
                                   .dgamma = offset(dgamma, c),
                                   .dbeta = offset(dbeta, c),
                                   .mean_dy = channels.at(4) + c,
                                   .slope = channels.at(5) + c},
                                  n);
  }

  void sums_block(const RunBlocks& blocks, std::int64_t c, std::int64_t b, double* sum_dy, double* sum_dyx) {
    blocks.block(c, b, [&](std::int64_t at, std::int64_t rows, std::int64_t n) {
      kernels().gradient_run(dy + at, x + at, y + at, mask, channels.scale(c), rows, n, blocks.stride(), sum_dy,
                             sum_dyx);
    });
  }
  void dx_block(const RunBlocks& blocks, std::int64_t c, std::int64_t b) {
    blocks.block(c, b, [&](std::int64_t at, std::int64_t rows, std::int64_t n) {
      kernels().dx_run(dy + at, x + at, y + at, mask, channels.scale(c), channels.slope(c), dx + at, dresidual_at(at),
                       rows, n, blocks.stride());
    });
  }

  void by_run() {
    const RunBlocks blocks(shape);
    const int team_of_blocks = team(shape.channels * blocks.count);
    start();
    if (shape.channels % team_of_blocks == 0 || shape.channels >= 8 * team_of_blocks) {
      runtime::parallel(team(shape.channels), shape.channels, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t c = begin; c < end; ++c) {
          double sum_dy = 0.0, sum_dyx = 0.0;
          for (std::int64_t b = 0; b < blocks.count; ++b) {
            double first, second;
            sums_block(blocks, c, b, &first, &second);
            sum_dy += first;
            sum_dyx += second;
          }
          finish(c, 1, &sum_dy, &sum_dyx);
          for (std::int64_t b = 0; b < blocks.count; ++b) dx_block(blocks, c, b);
        }
      });
      return;
    }
    const std::int64_t tasks = shape.channels * blocks.count;
    std::vector<double> first(static_cast<std::size_t>(tasks)), second(static_cast<std::size_t>(tasks));
    runtime::parallel(team_of_blocks, tasks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        sums_block(blocks, i / blocks.count, i % blocks.count, &first[static_cast<std::size_t>(i)],
                   &second[static_cast<std::size_t>(i)]);
    });
    runtime::parallel(1, shape.channels, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) {
        double sum_dy = 0.0, sum_dyx = 0.0;
        for (std::int64_t b = 0; b < blocks.count; ++b) {
          sum_dy += first[static_cast<std::size_t>(c * blocks.count + b)];
          sum_dyx += second[static_cast<std::size_t>(c * blocks.count + b)];
        }
        finish(c, 1, &sum_dy, &sum_dyx);
      }
    });
    runtime::parallel(team_of_blocks, tasks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) dx_block(blocks, i / blocks.count, i % blocks.count);
    });
  }

  void by_column() {
    const ColumnTiles t(shape);
    start();
    channels.repeat(0, 4, shape.inner);
    std::vector<double> first(static_cast<std::size_t>(t.width * t.groups)), second(first.size());
    const std::int64_t tasks = t.tiles * t.groups;
    runtime::parallel(team(tasks), tasks, [&](std::int64_t begin, std::int64_t end) {
      double block_first[kTile], block_second[kTile];
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t group = i / t.tiles, column = i % t.tiles * kTile;
        const std::int64_t columns = std::min(kTile, t.width - column);
        double* group_first = first.data() + group * t.width + column;
        double* group_second = second.data() + group * t.width + column;
        const std::int64_t start_row = group * t.group_rows, last = std::min(start_row + t.group_rows, t.rows);
        for (std::int64_t row = start_row; row < last; row += t.block_rows) {
          const std::int64_t at = row * t.width + column;
          kernels().gradient_columns(dy + at, x + at, y + at, mask, channels.scale(column),
                                     std::min(t.block_rows, last - row), columns, t.width, block_first, block_second);
          for (std::int64_t c = 0; c < columns; ++c) {
            group_first[c] += block_first[c];
            group_second[c] += block_second[c];
          }
        }
      }
    });
    runtime::parallel(1, 1, [&](std::int64_t, std::int64_t) {
      // groups in order, then the columns of a channel in order
      for (std::int64_t group = 1; group < t.groups; ++group)
        for (std::int64_t column = 0; column < t.width; ++column) {
          first[static_cast<std::size_t>(column)] += first[static_cast<std::size_t>(group * t.width + column)];
          second[static_cast<std::size_t>(column)] += second[static_cast<std::size_t>(group * t.width + column)];
        }
      for (std::int64_t c = 0; shape.inner > 1 && c < shape.channels; ++c) {
        double sum_dy = 0.0, sum_dyx = 0.0;
        for (std::int64_t column = c * shape.inner; column < (c + 1) * shape.inner; ++column) {
          sum_dy += first[static_cast<std::size_t>(column)];
          sum_dyx += second[static_cast<std::size_t>(column)];
        }
        first[static_cast<std::size_t>(c)] = sum_dy;
        second[static_cast<std::size_t>(c)] = sum_dyx;
      }
      finish(0, shape.channels, first.data(), second.data());
      channels.repeat(4, 6, shape.inner);
    });
    runtime::parallel(team(t.rows), t.rows, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t at = begin * t.width;
      kernels().dx_columns(dy + at, x + at, y + at, mask, channels.scale(0), channels.slope(0), dx + at,
                           dresidual_at(at), end - begin, t.width);
    });
  }
};

template <typename T>
T* data(const onepass_array* a) {
  return present(a) ? static_cast<T*>(a->data) : nullptr;
}

onepass_status check_shape(const onepass_array* x, const onepass_batch_norm_options* options, Shape& shape) {
  ONEPASS_TRY(check_float("x", x));
  if (options == nullptr) return fail(ONEPASS_INVALID_VALUE, "options: is null");
  if (x->ndim < 2) return fail(ONEPASS_INVALID_SHAPE, "x: expected at least 2 axes, got %s", describe(*x).c_str());
  std::int32_t axis = options->channel_axis;
  if (axis < -x->ndim || axis >= x->ndim)
    return fail(ONEPASS_INVALID_VALUE, "channel_axis: %d is out of range for x, %s", axis, describe(*x).c_str());
  if (axis < 0) axis += x->ndim;
  if (elements(*x) == 0) return fail(ONEPASS_INVALID_SHAPE, "x: is empty, shape %s", shape_text(*x).c_str());
  ONEPASS_TRY(check_contiguous("x", *x));
  for (int i = 0; i < x->ndim; ++i) (i < axis ? shape.outer : i == axis ? shape.channels : shape.inner) *= x->shape[i];
  if (options->training && shape.count() < 2)
    return fail(ONEPASS_INVALID_SHAPE, "x: expected more than one value a channel when training, got %s",
                shape_text(*x).c_str());
  if (!(options->eps >= 0.0) || !std::isfinite(options->eps))
    return fail(ONEPASS_INVALID_VALUE, "eps: expected a finite number >= 0, got %g", options->eps);
  if (!(options->momentum >= 0.0 && options->momentum <= 1.0))
    return fail(ONEPASS_INVALID_VALUE, "momentum: expected a number in [0, 1], got %g", options->momentum);
  return ONEPASS_OK;
}

onepass_status check_channels(const char* name, const onepass_array* a, const Shape& shape, std::int32_t dtype) {
  return present(a) ? check_vector(name, a, shape.channels, dtype) : ONEPASS_OK;
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_batch_norm(const onepass_array* x, const onepass_array* gamma, const onepass_array* beta,
                                  const onepass_array* running_mean, const onepass_array* running_var,
                                  const onepass_array* residual, const onepass_batch_norm_options* options,
                                  const onepass_array* out, double* mean, double* invstd, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    Shape shape;
    ONEPASS_TRY(check_shape(x, options, shape));
    const onepass_array* vectors[] = {gamma, beta, running_mean, running_var};
    const char* names[] = {"gamma", "beta", "running_mean", "running_var"};
    for (int i = 0; i < 4; ++i) ONEPASS_TRY(check_channels(names[i], vectors[i], shape, x->dtype));
    if (!options->training && (!present(running_mean) || !present(running_var)))
      return fail(ONEPASS_INVALID_VALUE, "running_mean and running_var: are needed when training is false");
    if (mean == nullptr || invstd == nullptr) return fail(ONEPASS_INVALID_VALUE, "mean or invstd: is null");
    ONEPASS_TRY(check_like("out", out, "x", *x));
    ONEPASS_TRY(check_contiguous("out", *out));
    if (options->training)
      ONEPASS_TRY(check_apart("out", out, "x", x));
    else
      ONEPASS_TRY(check_in_place("out", *out, "x", *x));
    if (present(residual)) {
      ONEPASS_TRY(check_like("residual", residual, "x", *x));
      ONEPASS_TRY(check_contiguous("residual", *residual));
      ONEPASS_TRY(check_in_place("out", *out, "residual", *residual));
    }
    for (int i = 0; i < 4; ++i) {
      ONEPASS_TRY(check_apart("out", out, names[i], vectors[i]));
      if (i < 2) continue;
      ONEPASS_TRY(check_apart(names[i], vectors[i], "x", x));
      ONEPASS_TRY(check_apart(names[i], vectors[i], "residual", residual));
      for (int j = 0; j < i; ++j) ONEPASS_TRY(check_apart(names[i], vectors[i], names[j], vectors[j]));
    }
    return with_float(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      Forward<T> forward{*table,
                         shape,
                         data<const T>(x),
                         data<const T>(gamma),
                         data<const T>(beta),
                         data<const T>(residual),
                         data<T>(running_mean),
                         data<T>(running_var),
                         data<T>(out),
                         mean,
                         invstd,
                         *options,
                         Channels<T>(shape.by_run() ? shape.channels : shape.channels * shape.inner, 4),
                         threads};
      shape.by_run() ? forward.by_run() : forward.by_column();
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_batch_norm_backward(const onepass_array* dy, const onepass_array* x, const onepass_array* gamma,
                                           const onepass_array* beta, const double* mean, const double* invstd,
                                           const onepass_array* y, const onepass_batch_norm_options* options,
                                           const onepass_array* dx, const onepass_array* dgamma,
                                           const onepass_array* dbeta, const onepass_array* dresidual,
                                           int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    Shape shape;
    ONEPASS_TRY(check_shape(x, options, shape));
    const onepass_array* wholes[] = {dy, dx, present(y) ? y : x, present(dresidual) ? dresidual : x};
    const char* whole_names[] = {"dy", "out", "y", "dresidual"};
    for (int i = 0; i < 4; ++i) {
      ONEPASS_TRY(check_like(whole_names[i], wholes[i], "x", *x));
      ONEPASS_TRY(check_contiguous(whole_names[i], *wholes[i]));
    }
    const onepass_array* vectors[] = {gamma, beta, dgamma, dbeta};
    const char* names[] = {"gamma", "beta", "dgamma", "dbeta"};
    for (int i = 0; i < 4; ++i) ONEPASS_TRY(check_channels(names[i], vectors[i], shape, x->dtype));
    if (mean == nullptr || invstd == nullptr) return fail(ONEPASS_INVALID_VALUE, "mean or invstd: is null");
    ONEPASS_TRY(check_in_place("out", *dx, "dy", *dy));
    ONEPASS_TRY(check_apart("out", dx, "x", x));
    ONEPASS_TRY(check_apart("out", dx, "y", y));
    for (int i = 0; i < 2; ++i) {
      ONEPASS_TRY(check_apart("out", dx, names[i], vectors[i]));
      ONEPASS_TRY(check_apart("dresidual", dresidual, names[i], vectors[i]));
    }
    ONEPASS_TRY(check_apart("dresidual", dresidual, "x", x));
    ONEPASS_TRY(check_apart("dresidual", dresidual, "y", y));
    ONEPASS_TRY(check_apart("dresidual", dresidual, "out", dx));
    if (present(dresidual)) ONEPASS_TRY(check_in_place("dresidual", *dresidual, "dy", *dy));
    for (int i = 2; i < 4; ++i) {
      for (int j = 0; j < i; ++j) ONEPASS_TRY(check_apart(names[i], vectors[i], names[j], vectors[j]));
      ONEPASS_TRY(check_apart(names[i], vectors[i], "x", x));
      ONEPASS_TRY(check_apart(names[i], vectors[i], "dy", dy));
      ONEPASS_TRY(check_apart(names[i], vectors[i], "out", dx));
      ONEPASS_TRY(check_apart(names[i], vectors[i], "y", y));
      ONEPASS_TRY(check_apart(names[i], vectors[i], "dresidual", dresidual));
    }
    const Mask mask = !options->relu ? Mask::none : present(y) ? Mask::from_y : Mask::from_x;
    return with_float(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      Backward<T> backward{*table,
                           shape,
                           data<const T>(dy),
                           data<const T>(x),
                           data<const T>(present(y) ? y : x),
                           data<const T>(gamma),
                           data<const T>(beta),
                           mean,
                           invstd,
                           data<T>(dx),
                           data<T>(dgamma),
                           data<T>(dbeta),
                           data<T>(dresidual),
                           mask,
                           options->training != 0,
                           Channels<T>(shape.by_run() ? shape.channels : shape.channels * shape.inner, 6),
                           threads};
      shape.by_run() ? backward.by_run() : backward.by_column();
      return ONEPASS_OK;
    });
  });
}
