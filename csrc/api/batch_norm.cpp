// Batch normalization, forward: statistics of each channel, then every element; or one of the two alone.
#include "api/batch_norm.hpp"

namespace onepass::api {
namespace {

template <typename T>
struct Forward {
  using Type = T;
  const KernelTable& table;
  const Shape& shape;
  Operand<T> x, residual = {}, y = {};
  const T *gamma = nullptr, *beta = nullptr;
  T *running_mean = nullptr, *running_var = nullptr;
  onepass_batch_norm_options options = {};
  double count = 0.0;  // values of a channel that the statistics are of
  // mean is written, unless it is given with m2; m2 is written where statistics are all that is wanted
  double *mean, *m2, *invstd = nullptr;
  bool reduces, applies;
  std::int32_t threads;
  Normalization<T> channels;

  const FloatKernels<T>& kernels() const { return table.kernels<T>(); }
  int team(std::int64_t tasks) const {
    return team_of<T>(shape, threads, tasks, (reduces ? 1 : 0) + (applies ? 2 : 0));
  }
  void start() {}
  void reduce(Stage<T>& stage, const Block& block, double* block_mean, double* block_m2) const {
    Argument<T> arguments[] = {{x, Use::read}};
    reduce_block(
        *this, stage, block, arguments, block_mean, block_m2,
        [&](std::int64_t at, std::int64_t rows, std::int64_t n, std::int64_t stride, double* to_mean, double* to_m2) {
          const auto kernel = shape.by_run() ? kernels().moments_run : kernels().moments_columns;
          kernel(arguments[0].at + at, rows, n, stride, to_mean, to_m2);
        });
  }
  void combine(std::int64_t seen, double* to_mean, double* to_m2, std::int64_t n, const double* from_mean,
               const double* from_m2, std::int64_t columns) const {
    if (seen == 0) {
      std::copy_n(from_mean, columns, to_mean);
      std::copy_n(from_m2, columns, to_m2);
    } else {
      table.merge_moments(seen, to_mean, to_m2, n, from_mean, from_m2, columns);
    }
  }
  void finish(std::int64_t c, std::int64_t n, const double* batch_mean, const double* batch_m2) {
    if (reduces) std::copy_n(batch_mean, n, mean + c);
    if (!applies) {
      std::copy_n(batch_m2, n, m2 + c);
      return;
    }
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
  void finished() { channels.numbers.repeat(shape, 0, 4); }
  void apply(Stage<T>& stage, const Block& block) {
    Argument<T> arguments[] = {{x, Use::read}, {residual, Use::read}, {y, Use::write}};
    const Argument<T>(&a)[3] = arguments;
    const bool relu = options.relu != 0;
    if (shape.by_run())
      with_block(stage, block, Lines::strided, arguments, [&](const Block& b, std::int64_t stride) {
        kernels().normalize_run(a[0].at, a[1].at, a[2].at, relu, channels.scale(b.numbers), b.rows, b.n, stride);
      });
    else
      with_block(stage, block, Lines::elementwise, arguments, [&](const Block& b, std::int64_t) {
        with_folded(shape.fold(), b, [&](std::int64_t at, std::int64_t rows, std::int64_t n) {
          kernels().normalize_columns(a[0].at + at, offset(a[1].at, at), a[2].at + at, relu, channels.scale(b.numbers),
                                      rows, n);
        });
      });
  }
  void fetch_reduced(const Block& block) const { x.fetch(block); }
  void fetch_applied(const Block& block) const {
    residual.fetch(block);
    y.fetch(block);
  }
};

// What the elements are normalized with.
enum class Source { batch, running, given };

struct Arguments {
  const onepass_array *x, *gamma, *beta, *running_mean, *running_var, *residual, *out;
  const onepass_batch_norm_options* options;
  Source source;
  std::int64_t count;  // given statistics: of so many values
  double *mean, *m2, *invstd;
};

onepass_status check_options(const onepass_batch_norm_options& options) {
  ONEPASS_TRY(check_eps(options.eps));
  if (!(options.momentum >= 0.0 && options.momentum <= 1.0))
    return fail(ONEPASS_INVALID_VALUE, "momentum: expected a number in [0, 1], got %g", options.momentum);
  return ONEPASS_OK;
}

onepass_status check_source(const Arguments& a) {
  const bool given = a.source == Source::given;
  if (a.mean == nullptr || a.invstd == nullptr || (given && a.m2 == nullptr))
    return fail(ONEPASS_INVALID_VALUE, "mean, m2 or invstd: is null");
  if (a.source == Source::running && (!present(a.running_mean) || !present(a.running_var)))
    return fail(ONEPASS_INVALID_VALUE, "running_mean and running_var: are needed when training is false");
  if (a.source == Source::batch && a.count < 2)
    return fail(ONEPASS_INVALID_SHAPE, "x: expected more than one value a channel when training, got %s",
                shape_text(*a.x).c_str());
  if (given) ONEPASS_TRY(check_count(a.count));
  if (given && a.count < 2 && present(a.running_var) && !a.options->population)
    return fail(ONEPASS_INVALID_VALUE, "count: expected more than one value a channel for running_var, got 1");
  return ONEPASS_OK;
}

onepass_status check_outputs(const Arguments& a, std::int64_t channels) {
  const Named x = {"x", a.x}, residual = {"residual", a.residual}, gamma = {"gamma", a.gamma}, beta = {"beta", a.beta};
  const Named mean = {"running_mean", a.running_mean}, var = {"running_var", a.running_var};
  const onepass_array batch_mean = {a.mean, &channels, nullptr, 1, ONEPASS_FLOAT64},
                      batch_invstd = {a.invstd, &channels, nullptr, 1, ONEPASS_FLOAT64};
  const Named own_mean = {"mean", &batch_mean}, own_invstd = {"invstd", &batch_invstd};
  for (const Named& own : {own_mean, own_invstd}) ONEPASS_TRY(check_array(own.name, own.array));
  ONEPASS_TRY(check_written({"out", a.out}, {gamma, beta, mean, var, own_mean, own_invstd}));
  ONEPASS_TRY(check_written(own_invstd, {x, residual, gamma, beta, mean, var, own_mean}));
  if (a.source != Source::given) ONEPASS_TRY(check_written(own_mean, {x, residual, gamma, beta, mean, var}));
  if (a.source == Source::batch)
    ONEPASS_TRY(check_apart("out", a.out, "x", a.x));
  else
    ONEPASS_TRY(check_in_place("out", *a.out, "x", *a.x));
  if (present(a.residual)) ONEPASS_TRY(check_in_place("out", *a.out, "residual", *a.residual));
  ONEPASS_TRY(check_written(mean, {x, residual, gamma, beta}));
  return check_written(var, {x, residual, gamma, beta, mean});
}

onepass_status forward(Arguments a, std::int32_t threads) {
  const KernelTable* table = runtime::kernels();
  if (table == nullptr) return ONEPASS_UNAVAILABLE;
  ONEPASS_TRY(check_threads(threads));
  if (a.options == nullptr) return fail(ONEPASS_INVALID_VALUE, "options: is null");
  Shape shape;
  ONEPASS_TRY(check_channels_of(a.x, a.options->channel_axis, shape));
  ONEPASS_TRY(check_options(*a.options));
  if (a.source != Source::given) a.count = shape.count();
  const Named mean = {"running_mean", a.running_mean}, var = {"running_var", a.running_var};
  ONEPASS_TRY(check_vectors({{"gamma", a.gamma}, {"beta", a.beta}, mean, var}, *a.x, shape));
  ONEPASS_TRY(check_source(a));
  ONEPASS_TRY(check_array("out", a.out));
  ONEPASS_TRY(check_wholes({{"out", a.out}, {"residual", a.residual}}, *a.x));
  ONEPASS_TRY(check_outputs(a, shape.channels));
  return with_computed(a.x->dtype, [&](auto zero) {
    using T = decltype(zero);
    const Codecs<T>& codecs = table->kernels<T>().codecs;
    return drive(Forward<T>{.table = *table,
                            .shape = shape,
                            .x = {a.x, shape, codecs},
                            .residual = {a.residual, shape, codecs},
                            .y = {a.out, shape, codecs},
                            .gamma = data<const T>(a.gamma),
                            .beta = data<const T>(a.beta),
                            .running_mean = data<T>(a.running_mean),
                            .running_var = data<T>(a.running_var),
                            .options = *a.options,
                            .count = static_cast<double>(a.count),
                            .mean = a.mean,
                            .m2 = a.m2,
                            .invstd = a.invstd,
                            .reduces = a.source == Source::batch,
                            .applies = true,
                            .threads = threads,
                            .channels = {shape, 4}});
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
    const Source source = options == nullptr || options->training ? Source::batch : Source::running;
    return forward(
        {x, gamma, beta, running_mean, running_var, residual, out, options, source, 0, mean, nullptr, invstd}, threads);
  });
}

onepass_status onepass_batch_norm_apply(const onepass_array* x, const onepass_array* gamma, const onepass_array* beta,
                                        const onepass_array* running_mean, const onepass_array* running_var,
                                        const onepass_array* residual, const onepass_batch_norm_options* options,
                                        int64_t count, const double* mean, const double* m2, const onepass_array* out,
                                        double* invstd, int32_t threads) {
  return guarded([&] {
    // given statistics are only read
    return forward({x, gamma, beta, running_mean, running_var, residual, out, options, Source::given, count,
                    const_cast<double*>(mean), const_cast<double*>(m2), invstd},
                   threads);
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
    return with_computed(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      return drive(Forward<T>{.table = *table,
                              .shape = shape,
                              .x = {x, shape, table->kernels<T>().codecs},
                              .mean = mean,
                              .m2 = m2,
                              .reduces = true,
                              .applies = false,
                              .threads = threads,
                              .channels = {shape, 0}});
    });
  });
}
