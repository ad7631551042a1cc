// Batch normalization, backward: two sums for each channel, then every element; or one of the two alone.
#include "api/batch_norm.hpp"

namespace onepass::api {
namespace {

template <typename T>
struct Backward {
  using Type = T;
  const KernelTable& table;
  const Shape& shape;
  Operand<T> dy, x, y, dx, dresidual;  // y: absent where it is not needed
  const T *gamma, *beta;
  const double *mean, *invstd;
  T *dgamma, *dbeta;
  Mask mask;
  bool training;
  double count;              // values of a channel that the sums are of
  double *sum_dy, *sum_dyx;  // read where not `reduces`, written where not `applies`
  bool reduces, applies;
  std::int32_t threads;
  Normalization<T> channels;

  const FloatKernels<T>& kernels() const { return table.kernels<T>(); }
  int team(std::int64_t tasks) const {
    return team_of<T>(shape, threads, tasks, (reduces ? 2 : 0) + (applies ? 3 : 0));
  }
  void start() {
    const std::int64_t tasks = (shape.channels + kTile - 1) / kTile;
    runtime::parallel(team(tasks), tasks, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t c = begin * kTile;
      kernels().channel_scale(mean + c, invstd + c, offset(gamma, c), offset(beta, c), channels.numbers.at(0) + c,
                              channels.numbers.at(1) + c, channels.numbers.at(2) + c, channels.numbers.at(3) + c,
                              std::min(end * kTile, shape.channels) - c);
    });
    if (!shape.by_run()) channels.numbers.repeat(shape, 0, 4);
  }
  void reduce(Stage<T>& stage, const Block& block, double* first, double* second) {
    Argument<T> arguments[] = {{dy, Use::read}, {x, Use::read}, {y, Use::read}};
    const Argument<T>(&a)[3] = arguments;
    reduce_block(*this, stage, block, arguments, first, second,
                 [&](std::int64_t at, std::int64_t rows, std::int64_t n, std::int64_t stride, double* f, double* s) {
                   const auto kernel = shape.by_run() ? kernels().gradient_run : kernels().gradient_columns;
                   kernel(a[0].at + at, a[1].at + at, seen(a[2], a[1]) + at, mask, channels.scale(block.numbers), rows,
                          n, stride, f, s);
                 });
  }
  void combine(std::int64_t, double* first, double* second, std::int64_t, const double* f, const double* s,
               std::int64_t n) const {
    for (std::int64_t i = 0; i < n; ++i) {
      first[i] += f[i];
      second[i] += s[i];
    }
  }
  void finish(std::int64_t c, std::int64_t n, const double* first, const double* second) {
    if (!applies) {
      std::copy_n(first, n, sum_dy + c);
      std::copy_n(second, n, sum_dyx + c);
      return;
    }
    kernels().backward_statistics({.count = count,
                                   .training = training,
                                   .sum_dy = reduces ? first : sum_dy + c,
                                   .sum_dyx = reduces ? second : sum_dyx + c,
                                   .invstd = invstd + c,
                                   .dgamma = offset(dgamma, c),
                                   .dbeta = offset(dbeta, c),
                                   .mean_dy = channels.numbers.at(4) + c,
                                   .slope = channels.numbers.at(5) + c},
                                  n);
  }
  void finished() { channels.numbers.repeat(shape, 4, 6); }
  void apply(Stage<T>& stage, const Block& block) {
    Argument<T> arguments[] = {
        {dy, Use::read}, {x, Use::read}, {y, Use::read}, {dx, Use::write}, {dresidual, Use::write}};
    const Argument<T>(&a)[5] = arguments;
    if (shape.by_run())
      with_block(stage, block, Lines::strided, arguments, [&](const Block& b, std::int64_t stride) {
        kernels().dx_run(a[0].at, a[1].at, seen(a[2], a[1]), mask, channels.scale(b.numbers), channels.slope(b.numbers),
                         a[3].at, a[4].at, b.rows, b.n, stride);
      });
    else
      with_block(stage, block, Lines::elementwise, arguments, [&](const Block& b, std::int64_t) {
        with_folded(shape.fold(), b, [&](std::int64_t at, std::int64_t rows, std::int64_t n) {
          kernels().dx_columns(a[0].at + at, a[1].at + at, seen(a[2], a[1]) + at, mask, channels.scale(b.numbers),
                               channels.slope(b.numbers), a[3].at + at, offset(a[4].at, at), rows, n);
        });
      });
  }
  void fetch_reduced(const Block& block) const {
    dy.fetch(block);
    x.fetch(block);
    y.fetch(block);
  }
  void fetch_applied(const Block& block) const {
    dx.fetch(block);
    dresidual.fetch(block);
  }

  // y, or what kernels may take in its place where they do not look at it
  static const T* seen(const Argument<T>& y, const Argument<T>& x) { return y.at ? y.at : x.at; }
};

struct Given {
  const onepass_array *dy, *x, *gamma, *beta, *y;
  const double *mean, *invstd;
  const onepass_batch_norm_options* options;
};
struct Wanted {
  const onepass_array *dx = nullptr, *dgamma = nullptr, *dbeta = nullptr, *dresidual = nullptr;
};
struct Sums {
  bool given = false;  // by the caller, over `count` values of each channel
  std::int64_t count = 0;
  double *dy = nullptr, *dyx = nullptr;
};

onepass_status check_given(const Given& g, Shape& shape) {
  if (g.options == nullptr) return fail(ONEPASS_INVALID_VALUE, "options: is null");
  ONEPASS_TRY(check_channels_of(g.x, g.options->channel_axis, shape));
  ONEPASS_TRY(check_array("dy", g.dy));
  ONEPASS_TRY(check_wholes({{"dy", g.dy}, {"y", g.y}}, *g.x));
  ONEPASS_TRY(check_vectors({{"gamma", g.gamma}, {"beta", g.beta}}, *g.x, shape));
  if (g.mean == nullptr || g.invstd == nullptr) return fail(ONEPASS_INVALID_VALUE, "mean or invstd: is null");
  return ONEPASS_OK;
}

onepass_status check_wanted(const Given& g, const Wanted& w, const Shape& shape) {
  ONEPASS_TRY(check_array("out", w.dx));
  ONEPASS_TRY(check_wholes({{"out", w.dx}, {"dresidual", w.dresidual}}, *g.x));
  ONEPASS_TRY(check_vectors({{"dgamma", w.dgamma}, {"dbeta", w.dbeta}}, *g.x, shape));
  const Named x = {"x", g.x}, y = {"y", g.y}, gamma = {"gamma", g.gamma}, beta = {"beta", g.beta}, dy = {"dy", g.dy};
  const Named dx = {"out", w.dx}, dresidual = {"dresidual", w.dresidual}, dgamma = {"dgamma", w.dgamma};
  ONEPASS_TRY(check_written(dx, {x, y, gamma, beta}));
  ONEPASS_TRY(check_in_place("out", *w.dx, "dy", *g.dy));
  ONEPASS_TRY(check_written(dresidual, {x, y, gamma, beta, dx}));
  if (present(w.dresidual)) ONEPASS_TRY(check_in_place("dresidual", *w.dresidual, "dy", *g.dy));
  ONEPASS_TRY(check_written(dgamma, {gamma, beta, x, dy, dx, y, dresidual}));
  return check_written({"dbeta", w.dbeta}, {gamma, beta, dgamma, x, dy, dx, y, dresidual});
}

// wanted null: the sums are all that is wanted, and written.
onepass_status backward(const Given& g, const Wanted* wanted, Sums sums, std::int32_t threads) {
  const KernelTable* table = runtime::kernels();
  if (table == nullptr) return ONEPASS_UNAVAILABLE;
  ONEPASS_TRY(check_threads(threads));
  Shape shape;
  ONEPASS_TRY(check_given(g, shape));
  if (wanted != nullptr) ONEPASS_TRY(check_wanted(g, *wanted, shape));
  if (sums.given) ONEPASS_TRY(check_count(sums.count));
  if ((sums.given || wanted == nullptr) && (sums.dy == nullptr || sums.dyx == nullptr))
    return fail(ONEPASS_INVALID_VALUE, "sum_dy or sum_dyx: is null");
  if (!sums.given) sums.count = shape.count();
  const Wanted w = wanted != nullptr ? *wanted : Wanted{};
  const Mask mask = !g.options->relu ? Mask::none : present(g.y) ? Mask::from_y : Mask::from_x;
  return with_computed(g.x->dtype, [&](auto zero) {
    using T = decltype(zero);
    const Codecs<T>& codecs = table->kernels<T>().codecs;
    return drive(Backward<T>{.table = *table,
                             .shape = shape,
                             .dy = {g.dy, shape, codecs},
                             .x = {g.x, shape, codecs},
                             .y = {mask == Mask::from_y ? g.y : nullptr, shape, codecs},
                             .dx = {w.dx, shape, codecs},
                             .dresidual = {w.dresidual, shape, codecs},
                             .gamma = data<const T>(g.gamma),
                             .beta = data<const T>(g.beta),
                             .mean = g.mean,
                             .invstd = g.invstd,
                             .dgamma = data<T>(w.dgamma),
                             .dbeta = data<T>(w.dbeta),
                             .mask = mask,
                             .training = g.options->training != 0,
                             .count = static_cast<double>(sums.count),
                             .sum_dy = sums.dy,
                             .sum_dyx = sums.dyx,
                             .reduces = !sums.given,
                             .applies = wanted != nullptr,
                             .threads = threads,
                             .channels = {shape, 6}});
  });
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_batch_norm_backward(const onepass_array* dy, const onepass_array* x, const onepass_array* gamma,
                                           const onepass_array* beta, const double* mean, const double* invstd,
                                           const onepass_array* y, const onepass_batch_norm_options* options,
                                           const onepass_array* dx, const onepass_array* dgamma,
                                           const onepass_array* dbeta, const onepass_array* dresidual,
                                           int32_t threads) {
  return guarded([&] {
    const Wanted wanted = {dx, dgamma, dbeta, dresidual};
    return backward({dy, x, gamma, beta, y, mean, invstd, options}, &wanted, {}, threads);
  });
}

onepass_status onepass_batch_norm_backward_sums(const onepass_array* dy, const onepass_array* x,
                                                const onepass_array* gamma, const onepass_array* beta,
                                                const double* mean, const double* invstd, const onepass_array* y,
                                                const onepass_batch_norm_options* options, double* sum_dy,
                                                double* sum_dyx, int32_t threads) {
  return guarded([&] {
    return backward({dy, x, gamma, beta, y, mean, invstd, options}, nullptr, {false, 0, sum_dy, sum_dyx}, threads);
  });
}

onepass_status onepass_batch_norm_backward_apply(const onepass_array* dy, const onepass_array* x,
                                                 const onepass_array* gamma, const onepass_array* beta,
                                                 const double* mean, const double* invstd, const onepass_array* y,
                                                 const onepass_batch_norm_options* options, int64_t count,
                                                 const double* sum_dy, const double* sum_dyx, const onepass_array* dx,
                                                 const onepass_array* dgamma, const onepass_array* dbeta,
                                                 const onepass_array* dresidual, int32_t threads) {
  return guarded([&] {
    const Wanted wanted = {dx, dgamma, dbeta, dresidual};
    // given sums are only read
    const Sums sums = {true, count, const_cast<double*>(sum_dy), const_cast<double*>(sum_dyx)};
    return backward({dy, x, gamma, beta, y, mean, invstd, options}, &wanted, sums, threads);
  });
}
