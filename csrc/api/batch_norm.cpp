// Batch normalization, forward: statistics of each channel, then every element; or one of the two alone.
#include "api/batch_norm.hpp"

namespace onepass::api {
namespace {

template <typename T>
struct Forward {
  using Type = T;
  const KernelTable& table;
  const Shape& shape;
  Operand<T> x, residual, y;
  const T *gamma, *beta;
  T *running_mean, *running_var;
  onepass_batch_norm_options options;
  double count;      // values of a channel that the statistics are of
  const double* m2;  // given statistics, with mean; null: of the batch
  double *mean, *invstd;
  bool reduces;
  std::int32_t threads;
  Normalization<T> channels;
  static constexpr bool applies = true;

  const FloatKernels<T>& kernels() const { return table.kernels<T>(); }
  int team(std::int64_t tasks) const {
    return runtime::team_size(threads, tasks, 3 * shape.elements() * static_cast<std::int64_t>(sizeof(T)));
  }
  void start() {}
  void reduce(Stage<T>& stage, const Block& block, double* block_mean, double* block_m2) const {
    moments(kernels(), shape, x, stage, block, block_mean, block_m2);
  }
  void combine(std::int64_t seen, double* to_mean, double* to_m2, std::int64_t n, const double* from_mean,
               const double* from_m2, std::int64_t columns) const {
    merge(table, seen, to_mean, to_m2, n, from_mean, from_m2, columns);
  }
  void finish(std::int64_t c, std::int64_t n, const double* batch_mean, const double* batch_m2) {
    if (reduces) std::copy_n(batch_mean, n, mean + c);
    kernels().forward_statistics({.count = count,
                                  .freedom = options.population ? count : count - 1.0,
                                  .m2 = reduces ? batch_m2 : offset(m2, c),
                                  .momentum = options.momentum,
                                  .eps = options.eps,
                                  .gamma = offset(gamma, c),
                                  .beta = offset(beta, c),
                                  .running_mean = offset(running_mean, c),
                                  .running_var = offset(running_var, c),
                                  .mean = mean + c,
                                  .invstd = invstd + c,
                                  .mean_high = channels.numbers.at(0) + c,
                                  .mean_low = channels.numbers.at(1) + c,
                                  .scale = channels.numbers.at(2) + c,
                                  .shift = channels.numbers.at(3) + c},
                                 n);
  }
  void finished() { channels.numbers.repeat(0, 4, shape.inner); }
  void apply(Stage<T>& stage, const Block& block) {
    Argument<T> arguments[] = {{x, Use::read}, {residual, Use::read}, {y, Use::write}};
    const bool relu = options.relu != 0;
    if (shape.by_run())
      with_block(stage, block, Lines::strided, arguments, [&](const Block& b, std::int64_t stride) {
        kernels().normalize_run(arguments[0].at, arguments[1].at, arguments[2].at, relu, channels.scale(b.numbers),
                                b.rows, b.n, stride);
      });
    else
      with_block(stage, block, Lines::packed, arguments, [&](const Block& b, std::int64_t) {
        kernels().normalize_columns(arguments[0].at, arguments[1].at, arguments[2].at, relu, channels.scale(b.numbers),
                                    b.rows, b.n);
      });
  }

  static void moments(const FloatKernels<T>& kernels, const Shape& shape, const Operand<T>& x, Stage<T>& stage,
                      const Block& block, double* block_mean, double* block_m2) {
    const auto kernel = shape.by_run() ? kernels.moments_run : kernels.moments_columns;
    Argument<T> arguments[] = {{x, Use::read}};
    with_block(stage, block, Lines::strided, arguments, [&](const Block& b, std::int64_t stride) {
      kernel(arguments[0].at, b.rows, b.n, stride, block_mean, block_m2);
    });
  }
  static void merge(const KernelTable& table, std::int64_t seen, double* to_mean, double* to_m2, std::int64_t n,
                    const double* from_mean, const double* from_m2, std::int64_t columns) {
    if (seen == 0) {
      std::copy_n(from_mean, columns, to_mean);
      std::copy_n(from_m2, columns, to_m2);
    } else {
      table.merge_moments(seen, to_mean, to_m2, n, from_mean, from_m2, columns);
    }
  }
};

// Statistics alone.
template <typename T>
struct Statistics {
  using Type = T;
  const KernelTable& table;
  const Shape& shape;
  Operand<T> x;
  double *mean, *m2;
  std::int32_t threads;
  static constexpr bool reduces = true, applies = false;

  int team(std::int64_t tasks) const {
    return runtime::team_size(threads, tasks, shape.elements() * static_cast<std::int64_t>(sizeof(T)));
  }
  void start() {}
  void reduce(Stage<T>& stage, const Block& block, double* block_mean, double* block_m2) const {
    Forward<T>::moments(table.kernels<T>(), shape, x, stage, block, block_mean, block_m2);
  }
  void combine(std::int64_t seen, double* to_mean, double* to_m2, std::int64_t n, const double* from_mean,
               const double* from_m2, std::int64_t columns) const {
    Forward<T>::merge(table, seen, to_mean, to_m2, n, from_mean, from_m2, columns);
  }
  void finish(std::int64_t c, std::int64_t n, const double* batch_mean, const double* batch_m2) {
    std::copy_n(batch_mean, n, mean + c);
    std::copy_n(batch_m2, n, m2 + c);
  }
  void finished() {}
  void apply(Stage<T>&, const Block&) {}
};

onepass_status check_options(const onepass_batch_norm_options* options) {
  if (options == nullptr) return fail(ONEPASS_INVALID_VALUE, "options: is null");
  ONEPASS_TRY(check_eps(options->eps));
  if (!(options->momentum >= 0.0 && options->momentum <= 1.0))
    return fail(ONEPASS_INVALID_VALUE, "momentum: expected a number in [0, 1], got %g", options->momentum);
  return ONEPASS_OK;
}

// statistics: of (count) values, in mean and m2; null: of x, or the running ones.
onepass_status forward(const onepass_array* x, const onepass_array* gamma, const onepass_array* beta,
                       const onepass_array* running_mean, const onepass_array* running_var,
                       const onepass_array* residual, const onepass_batch_norm_options* options,
                       const std::int64_t* count, const double* m2, const onepass_array* out, double* mean,
                       double* invstd, std::int32_t threads) {
  const KernelTable* table = runtime::kernels();
  if (table == nullptr) return ONEPASS_UNAVAILABLE;
  ONEPASS_TRY(check_threads(threads));
  if (options == nullptr) return fail(ONEPASS_INVALID_VALUE, "options: is null");
  Shape shape;
  ONEPASS_TRY(check_channels_of(x, options->channel_axis, shape));
  ONEPASS_TRY(check_options(options));
  const bool given = count != nullptr, updates = given || options->training;
  const std::int64_t values = given ? *count : shape.count();
  if (given && values < 1)
    return fail(ONEPASS_INVALID_VALUE, "count: expected 1 or more, got %lld", static_cast<long long>(values));
  if (!given && options->training && values < 2)
    return fail(ONEPASS_INVALID_SHAPE, "x: expected more than one value a channel when training, got %s",
                shape_text(*x).c_str());
  if (given && values < 2 && present(running_var) && !options->population)
    return fail(ONEPASS_INVALID_VALUE, "count: expected more than one value a channel for running_var, got 1");
  ONEPASS_TRY(check_vectors(
      {{"gamma", gamma}, {"beta", beta}, {"running_mean", running_mean}, {"running_var", running_var}}, *x, shape));
  if (!updates && (!present(running_mean) || !present(running_var)))
    return fail(ONEPASS_INVALID_VALUE, "running_mean and running_var: are needed when training is false");
  if (mean == nullptr || invstd == nullptr || (given && m2 == nullptr))
    return fail(ONEPASS_INVALID_VALUE, "mean, m2 or invstd: is null");
  ONEPASS_TRY(check_array("out", out));
  ONEPASS_TRY(check_wholes({{"out", out}, {"residual", residual}}, *x));
  ONEPASS_TRY(check_written(
      {"out", out}, {{"gamma", gamma}, {"beta", beta}, {"running_mean", running_mean}, {"running_var", running_var}}));
  ONEPASS_TRY(!given && options->training ? check_apart("out", out, "x", x) : check_in_place("out", *out, "x", *x));
  if (present(residual)) ONEPASS_TRY(check_in_place("out", *out, "residual", *residual));
  ONEPASS_TRY(check_written({"running_mean", running_mean},
                            {{"x", x}, {"residual", residual}, {"gamma", gamma}, {"beta", beta}}));
  ONEPASS_TRY(check_written(
      {"running_var", running_var},
      {{"x", x}, {"residual", residual}, {"gamma", gamma}, {"beta", beta}, {"running_mean", running_mean}}));
  return with_computed(*x, [&](auto zero) {
    using T = decltype(zero);
    const Codecs<T>& codecs = table->kernels<T>().codecs;
    return drive(Forward<T>{*table,
                            shape,
                            {x, shape, codecs},
                            {residual, shape, codecs},
                            {out, shape, codecs},
                            data<const T>(gamma),
                            data<const T>(beta),
                            data<T>(running_mean),
                            data<T>(running_var),
                            *options,
                            static_cast<double>(values),
                            m2,
                            mean,
                            invstd,
                            !given && options->training != 0,
                            threads,
                            {shape, 4}});
  });
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_batch_norm(const onepass_array* x, const onepass_array* gamma, const onepass_array* beta,
                                  const onepass_array* running_mean, const onepass_array* running_var,
                                  const onepass_array* residual, const onepass_batch_norm_options* options,
                                  const onepass_array* out, double* mean, double* invstd, int32_t threads) {
  return guarded([&] {
    return forward(x, gamma, beta, running_mean, running_var, residual, options, nullptr, nullptr, out, mean, invstd,
                   threads);
  });
}

onepass_status onepass_batch_norm_apply(const onepass_array* x, const onepass_array* gamma, const onepass_array* beta,
                                        const onepass_array* running_mean, const onepass_array* running_var,
                                        const onepass_array* residual, const onepass_batch_norm_options* options,
                                        int64_t count, const double* mean, const double* m2, const onepass_array* out,
                                        double* invstd, int32_t threads) {
  return guarded([&] {
    // with given statistics the mean is only read
    return forward(x, gamma, beta, running_mean, running_var, residual, options, &count, m2, out,
                   const_cast<double*>(mean), invstd, threads);
  });
}

onepass_status onepass_batch_norm_statistics(const onepass_array* x, int32_t channel_axis, double* mean, double* m2,
                                             int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    Shape shape;
    ONEPASS_TRY(check_channels_of(x, channel_axis, shape));
    if (mean == nullptr || m2 == nullptr) return fail(ONEPASS_INVALID_VALUE, "mean or m2: is null");
    return with_computed(*x, [&](auto zero) {
      using T = decltype(zero);
      return drive(Statistics<T>{*table, shape, {x, shape, table->kernels<T>().codecs}, mean, m2, threads});
    });
  });
}
