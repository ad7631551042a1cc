// Activations, alone and with a bias: checks, then runs in parallel.
#include <cmath>
#include <vector>

#include "api/cross_entropy_rows.hpp"
#include "api/runs.hpp"
#include "runtime/dispatch.hpp"

namespace onepass::api {
namespace {

onepass_status check_activation(std::int32_t activation, double negative_slope) {
  if (activation < 0 || activation >= ONEPASS_ACTIVATION_COUNT)
    return fail(ONEPASS_INVALID_VALUE, "activation: unknown code %d", activation);
  if (!std::isfinite(negative_slope))
    return fail(ONEPASS_INVALID_VALUE, "negative_slope: expected a finite number, got %g", negative_slope);
  return ONEPASS_OK;
}

onepass_status check_output(const char* name, const onepass_array* a, const char* model_name,
                            const onepass_array& model) {
  ONEPASS_TRY(check_like(name, a, model_name, model));
  if (overlaps_itself(*a)) return fail(ONEPASS_OVERLAP, "%s: several of its elements share memory; pass a copy", name);
  return check_in_place(name, *a, model_name, model);
}

// The channels of x, of which bias has one number each: along an axis, so many elements next to each other in C order.
struct Channels {
  std::int64_t count = 0, length = 0;
};

onepass_status check_biased(const onepass_array* x, const onepass_array* bias, std::int32_t axis, Channels& channels) {
  ONEPASS_TRY(check_any_float("x", x));
  if (axis < -x->ndim || axis >= x->ndim)
    return fail(ONEPASS_INVALID_VALUE, "channel_axis: %d is out of range for %s", axis, describe(*x).c_str());
  if (axis < 0) axis += x->ndim;
  channels = {x->shape[axis], 1};
  for (int i = axis + 1; i < x->ndim; ++i) channels.length *= x->shape[i];
  return check_class_weight("bias", bias, channels.count, x->dtype);
}

// What elements cost, as bytes of memory traffic that take as long.
std::int64_t cost(std::int32_t activation, std::int64_t bytes) {
  return activation == ONEPASS_RELU || activation == ONEPASS_LEAKY_RELU ? bytes : bytes * kTranscendental;
}

// What is added to elements in C order. Channels of one element: the bias again and again, until a row is long enough
// for loops over it; rows of x, taken so many at a time, become wide rows. Longer channels: one number again and again.
template <typename T>
class Bias {
 public:
  Bias(const KernelTable& table, const onepass_array& bias, Channels channels) : channels_(channels) {
    const std::int64_t n = channels.count;
    if (n == 0) return;
    columns_ = channels.length == 1 ? (kLong + n - 1) / n * n : n;
    values_.resize(static_cast<std::size_t>(columns_));
    table.kernels<T>().codecs.of[bias.dtype].decode(bias.data, values_.data(), n);
    for (std::size_t i = static_cast<std::size_t>(n); i < values_.size(); ++i)
      values_[i] = values_[i - static_cast<std::size_t>(n)];
  }

  std::int64_t columns() const { return columns_; }  // a multiple of the channels
  const T* values() const { return values_.data(); }

  // visit(offset, what is added, n) for parts of the n elements from `begin` on
  template <typename Visit>
  void parts(std::int64_t begin, std::int64_t n, Visit&& visit) const {
    if (channels_.length > 1) return in_channels(begin, n, visit);
    for (std::int64_t offset = 0; offset < n;) {
      const std::int64_t column = (begin + offset) % columns_, length = std::min(columns_ - column, n - offset);
      visit(offset, values() + column, length);
      offset += length;
    }
  }

 private:
  static constexpr std::int64_t kLong = 1024;

  template <typename Visit>
  void in_channels(std::int64_t begin, std::int64_t n, Visit&& visit) const {
    T same[kLong];
    for (std::int64_t offset = 0; offset < n;) {
      const std::int64_t at = begin + offset, within = at % channels_.length;
      const std::int64_t left = std::min(channels_.length - within, n - offset);
      std::fill_n(same, std::min(kLong, left), values_[static_cast<std::size_t>(at / channels_.length % columns_)]);
      for (const std::int64_t end = offset + left; offset < end;) {
        const std::int64_t length = std::min(kLong, end - offset);
        visit(offset, same, length);
        offset += length;
      }
    }
  }

  Channels channels_;
  std::int64_t columns_ = 0;
  std::vector<T> values_;
};

// dx and dbias. How the work is cut depends on the shape alone: sums are made of 64 elements in T, then in double.
template <typename T>
class BiasGradient {
 public:
  BiasGradient(const KernelTable& table, const ActivationKernel<T>& kernel, T option, const Runs<T>& runs,
               const Bias<T>& bias, Channels channels, std::int64_t n)
      : kernels_(table.kernels<T>()),
        kernel_(kernel),
        option_(option),
        runs_(runs),
        bias_(bias),
        channels_(channels),
        n_(n),
        row_(channels.length == 1 ? bias.columns() : channels.count * channels.length) {
    const std::int64_t rows = n == 0 ? 0 : (n + row_ - 1) / row_;
    rows_ = std::max(channels.length == 1 ? kRows : 1, (rows + kMostParts - 1) / kMostParts);
    if (channels.length == 1) rows_ = (rows_ + kRows - 1) / kRows * kRows;
    parts_ = (rows + rows_ - 1) / rows_;
    tiles_ = channels.length == 1 ? (bias.columns() + kTile - 1) / kTile : channels.count;
    sums_.resize(static_cast<std::size_t>(parts_ * bias.columns()));
  }

  void run(std::int64_t work, std::int32_t threads) {
    const std::int64_t tasks = parts_ * tiles_;
    runtime::parallel(runtime::team_size(threads, tasks, work), tasks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        if (channels_.length == 1)
          columns(i / tiles_, i % tiles_ * kTile);
        else
          channel(i / tiles_, i % tiles_);
      }
    });
  }

  void store(const onepass_array& dbias) const {  // parts and repetitions in order
    std::vector<T> result(static_cast<std::size_t>(channels_.count));
    for (std::int64_t c = 0; c < channels_.count; ++c) {
      double sum = 0.0;
      for (std::int64_t i = c; i < static_cast<std::int64_t>(sums_.size()); i += channels_.count)
        sum += sums_[static_cast<std::size_t>(i)];
      result[static_cast<std::size_t>(c)] = static_cast<T>(sum);
    }
    kernels_.codecs.of[dbias.dtype].encode(result.data(), dbias.data, channels_.count, nullptr, 0);
  }

 private:
  static constexpr std::int64_t kRows = 64, kMostParts = 16, kTile = 4096;

  // Some columns of a part of the wide rows.
  void columns(std::int64_t part, std::int64_t column) {
    const std::int64_t length = std::min(kTile, row_ - column), first = part * rows_;
    double* total = sums_.data() + part * row_ + column;
    T sums[kTile] = {};
    for (std::int64_t row = first; row < first + rows_; ++row) {
      const std::int64_t begin = row * row_ + column;
      if (begin >= n_) break;
      add(begin, std::min(begin + length, n_), bias_.values() + column, sums);
      if ((row + 1) % kRows == 0) kernels_.move_sums(sums, total, length);
    }
    kernels_.move_sums(sums, total, length);
  }

  // One channel of a part of the rows.
  void channel(std::int64_t part, std::int64_t c) {
    T same[kTile], sums[kTile] = {};
    double total[kTile] = {};
    const std::int64_t width = std::min(kTile, channels_.length);
    std::fill_n(same, width, bias_.values()[c]);
    std::int64_t added = 0;
    for (std::int64_t row = part * rows_; row < std::min((part + 1) * rows_, n_ / row_); ++row) {
      const std::int64_t first = row * row_ + c * channels_.length;
      for (std::int64_t at = 0; at < channels_.length; at += kTile) {
        add(first + at, first + std::min(at + kTile, channels_.length), same, sums);
        if (++added % kRows == 0) kernels_.move_sums(sums, total, width);
      }
    }
    kernels_.move_sums(sums, total, width);
    double sum = 0.0;
    for (std::int64_t i = 0; i < width; ++i) sum += total[i];
    sums_[static_cast<std::size_t>(part * channels_.count + c)] = sum;
  }

  void add(std::int64_t begin, std::int64_t end, const T* bias, T* sums) const {
    runs_.visit(begin, end, [&](T* const* p, std::int64_t at, std::int64_t n) {
      const std::int64_t offset = at - begin;
      kernel_.bias_backward(p[0], p[1], bias + offset, p[2], sums + offset, option_, n);
    });
  }

  const FloatKernels<T>& kernels_;
  const ActivationKernel<T>& kernel_;
  T option_;
  const Runs<T>& runs_;
  const Bias<T>& bias_;
  Channels channels_;
  std::int64_t n_, row_, rows_, parts_, tiles_;  // row_: elements of a row
  std::vector<double> sums_;                     // (parts, columns of bias)
};

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_activate(int32_t activation, double negative_slope, const onepass_array* x,
                                const onepass_array* y, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_activation(activation, negative_slope));
    ONEPASS_TRY(check_any_float("x", x));
    ONEPASS_TRY(check_output("out", y, "x", *x));
    return with_computed(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto kernel = table->kernels<T>().activations[activation].forward;
      const Runs<T> runs(*table, {{x, false}, {y, true}});
      const auto option = static_cast<T>(negative_slope);
      runs.visit_all(elements(*x), cost(activation, runs.bytes()), threads,
                     [&](T* const* p, std::int64_t, std::int64_t n) { kernel(p[0], p[1], option, n); });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_activate_backward(int32_t activation, double negative_slope, const onepass_array* dy,
                                         const onepass_array* saved, const onepass_array* dx, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_activation(activation, negative_slope));
    const char* saved_name = table->f32.activations[activation].takes_output ? "y" : "x";
    ONEPASS_TRY(check_any_float("dy", dy));
    ONEPASS_TRY(check_like(saved_name, saved, "dy", *dy));
    ONEPASS_TRY(check_output("out", dx, "dy", *dy));
    ONEPASS_TRY(check_apart("out", dx, saved_name, saved));
    return with_computed(dy->dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto& kernel = table->kernels<T>().activations[activation];
      const Runs<T> runs(*table, {{dy, false}, {saved, false}, {dx, true}});
      const auto option = static_cast<T>(negative_slope);
      const std::int64_t work = kernel.takes_output ? runs.bytes() : cost(activation, runs.bytes());
      runs.visit_all(elements(*dy), work, threads,
                     [&](T* const* p, std::int64_t, std::int64_t n) { kernel.backward(p[0], p[1], p[2], option, n); });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_bias_activate(int32_t activation, double negative_slope, const onepass_array* x,
                                     const onepass_array* bias, int32_t channel_axis, const onepass_array* y,
                                     int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_activation(activation, negative_slope));
    Channels channels;
    ONEPASS_TRY(check_biased(x, bias, channel_axis, channels));
    ONEPASS_TRY(check_output("out", y, "x", *x));
    ONEPASS_TRY(check_apart("out", y, "bias", bias));
    return with_computed(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto kernel = table->kernels<T>().activations[activation].bias_forward;
      const Runs<T> runs(*table, {{x, false}, {y, true}}, Order::c);
      const Bias<T> added(*table, *bias, channels);
      const auto option = static_cast<T>(negative_slope);
      runs.visit_all(elements(*x), cost(activation, runs.bytes()), threads,
                     [&](T* const* p, std::int64_t at, std::int64_t n) {
                       added.parts(at, n, [&](std::int64_t offset, const T* values, std::int64_t length) {
                         kernel(p[0] + offset, values, p[1] + offset, option, length);
                       });
                     });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_bias_activate_backward(int32_t activation, double negative_slope, const onepass_array* dy,
                                              const onepass_array* x, const onepass_array* bias, int32_t channel_axis,
                                              const onepass_array* dx, const onepass_array* dbias, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_activation(activation, negative_slope));
    Channels channels;
    ONEPASS_TRY(check_biased(x, bias, channel_axis, channels));
    ONEPASS_TRY(check_like("dy", dy, "x", *x));
    ONEPASS_TRY(check_output("dx", dx, "dy", *dy));
    ONEPASS_TRY(check_apart("dx", dx, "x", x));
    ONEPASS_TRY(check_apart("dx", dx, "bias", bias));
    ONEPASS_TRY(check_vector("dbias", dbias, channels.count, bias->dtype));
    ONEPASS_TRY(check_apart("dbias", dbias, "dy", dy));
    ONEPASS_TRY(check_apart("dbias", dbias, "x", x));
    ONEPASS_TRY(check_apart("dbias", dbias, "bias", bias));
    ONEPASS_TRY(check_apart("dbias", dbias, "dx", dx));
    if (channels.count == 0) return ONEPASS_OK;
    return with_computed(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      const Runs<T> runs(*table, {{dy, false}, {x, false}, {dx, true}}, Order::c);
      const Bias<T> added(*table, *bias, channels);
      BiasGradient<T> gradient(*table, table->kernels<T>().activations[activation], static_cast<T>(negative_slope),
                               runs, added, channels, elements(*x));
      gradient.run(cost(activation, runs.bytes()), threads);
      gradient.store(*dbias);
      return ONEPASS_OK;
    });
  });
}
