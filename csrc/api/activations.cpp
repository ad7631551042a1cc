// Activations, alone and with a bias: checks, then runs in parallel.
#include <cmath>
#include <vector>

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

// x (..., O) and bias (O)
onepass_status check_biased(const onepass_array* x, const onepass_array* bias) {
  ONEPASS_TRY(check_any_float("x", x));
  if (x->ndim < 1) return fail(ONEPASS_INVALID_SHAPE, "x: expected shape (..., O), got ()");
  return check_vector("bias", bias, x->shape[x->ndim - 1], x->dtype);
}

// What elements cost, as bytes of memory traffic that take as long.
std::int64_t cost(std::int32_t activation, std::int64_t bytes) {
  return activation == ONEPASS_RELU || activation == ONEPASS_LEAKY_RELU ? bytes : bytes * kTranscendental;
}

// A bias again and again, until a row is long enough for loops over it: rows of x, taken so many at a time, become wide
// rows.
template <typename T>
struct WideBias {
  std::int64_t columns;  // a multiple of the bias's
  std::vector<T> values;

  WideBias(const KernelTable& table, const onepass_array& bias) {
    constexpr std::int64_t kLong = 1024;
    const std::int64_t n = bias.shape[0];
    columns = n == 0 ? 0 : (kLong + n - 1) / n * n;
    values.resize(static_cast<std::size_t>(columns));
    if (n == 0) return;
    table.kernels<T>().codecs.of[bias.dtype].decode(bias.data, values.data(), n);
    for (std::size_t i = static_cast<std::size_t>(n); i < values.size(); ++i)
      values[i] = values[i - static_cast<std::size_t>(n)];
  }

  // visit(offset, column, n) for the parts of n elements from `begin` on that lie in one wide row each
  template <typename Visit>
  void parts(std::int64_t begin, std::int64_t n, Visit&& visit) const {
    for (std::int64_t offset = 0; offset < n;) {
      const std::int64_t column = (begin + offset) % columns, length = std::min(columns - column, n - offset);
      visit(offset, column, length);
      offset += length;
    }
  }
};

// dx and dbias. Tasks are some wide rows by some columns; how many depends on the shape alone.
template <typename T>
class BiasGradient {
 public:
  BiasGradient(const KernelTable& table, const ActivationKernel<T>& kernel, T option, const Runs<T>& runs,
               const WideBias<T>& bias, std::int64_t n)
      : kernels_(table.kernels<T>()), kernel_(kernel), option_(option), runs_(runs), bias_(bias), n_(n) {
    const std::int64_t rows = (n + bias.columns - 1) / bias.columns;
    rows_ = std::max(kRows, (rows + kMostParts - 1) / kMostParts);
    rows_ = (rows_ + kRows - 1) / kRows * kRows;
    parts_ = (rows + rows_ - 1) / rows_;
    tiles_ = (bias.columns + kTile - 1) / kTile;
    sums_.resize(static_cast<std::size_t>(parts_ * bias.columns));
  }

  void run(std::int64_t work, std::int32_t threads) {
    const std::int64_t tasks = parts_ * tiles_;
    runtime::parallel(runtime::team_size(threads, tasks, work), tasks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) task(i / tiles_, i % tiles_ * kTile);
    });
  }

  void store(const onepass_array& dbias) const {  // parts and repetitions in order
    const std::int64_t columns = dbias.shape[0];
    std::vector<T> result(static_cast<std::size_t>(columns));
    for (std::int64_t c = 0; c < columns; ++c) {
      double sum = 0.0;
      for (std::int64_t i = c; i < static_cast<std::int64_t>(sums_.size()); i += columns)
        sum += sums_[static_cast<std::size_t>(i)];
      result[static_cast<std::size_t>(c)] = static_cast<T>(sum);
    }
    kernels_.codecs.of[dbias.dtype].encode(result.data(), dbias.data, columns, nullptr, 0);
  }

 private:
  static constexpr std::int64_t kRows = 64, kMostParts = 16, kTile = 4096;

  void task(std::int64_t part, std::int64_t column) {
    const std::int64_t wide = bias_.columns, length = std::min(kTile, wide - column);
    const std::int64_t first = part * rows_;
    double* total = sums_.data() + part * wide + column;
    T sums[kTile] = {};
    for (std::int64_t row = first; row < first + rows_; ++row) {
      const std::int64_t begin = row * wide + column, end = std::min(begin + length, n_);
      if (begin >= end) break;
      runs_.visit(begin, end, [&](T* const* p, std::int64_t at, std::int64_t n) {
        const std::int64_t offset = at - begin;
        kernel_.bias_backward(p[0], p[1], bias_.values.data() + column + offset, p[2], sums + offset, option_, n);
      });
      if ((row + 1) % kRows == 0) kernels_.move_sums(sums, total, length);
    }
    kernels_.move_sums(sums, total, length);
  }

  const FloatKernels<T>& kernels_;
  const ActivationKernel<T>& kernel_;
  T option_;
  const Runs<T>& runs_;
  const WideBias<T>& bias_;
  std::int64_t n_, rows_, parts_, tiles_;
  std::vector<double> sums_;  // (parts, wide columns)
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
                                     const onepass_array* bias, const onepass_array* y, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_activation(activation, negative_slope));
    ONEPASS_TRY(check_biased(x, bias));
    ONEPASS_TRY(check_output("out", y, "x", *x));
    ONEPASS_TRY(check_apart("out", y, "bias", bias));
    return with_computed(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto kernel = table->kernels<T>().activations[activation].bias_forward;
      const Runs<T> runs(*table, {{x, false}, {y, true}}, Order::c);
      const WideBias<T> wide(*table, *bias);
      const auto option = static_cast<T>(negative_slope);
      runs.visit_all(elements(*x), cost(activation, runs.bytes()), threads,
                     [&](T* const* p, std::int64_t at, std::int64_t n) {
                       wide.parts(at, n, [&](std::int64_t offset, std::int64_t column, std::int64_t length) {
                         kernel(p[0] + offset, wide.values.data() + column, p[1] + offset, option, length);
                       });
                     });
      return ONEPASS_OK;
    });
  });
}

onepass_status onepass_bias_activate_backward(int32_t activation, double negative_slope, const onepass_array* dy,
                                              const onepass_array* x, const onepass_array* bias,
                                              const onepass_array* dx, const onepass_array* dbias, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_activation(activation, negative_slope));
    ONEPASS_TRY(check_biased(x, bias));
    ONEPASS_TRY(check_like("dy", dy, "x", *x));
    ONEPASS_TRY(check_output("dx", dx, "dy", *dy));
    ONEPASS_TRY(check_apart("dx", dx, "x", x));
    ONEPASS_TRY(check_apart("dx", dx, "bias", bias));
    ONEPASS_TRY(check_vector("dbias", dbias, bias->shape[0], x->dtype));
    ONEPASS_TRY(check_apart("dbias", dbias, "dy", dy));
    ONEPASS_TRY(check_apart("dbias", dbias, "x", x));
    ONEPASS_TRY(check_apart("dbias", dbias, "bias", bias));
    ONEPASS_TRY(check_apart("dbias", dbias, "dx", dx));
    if (elements(*bias) == 0) return ONEPASS_OK;
    return with_computed(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      const Runs<T> runs(*table, {{dy, false}, {x, false}, {dx, true}}, Order::c);
      const WideBias<T> wide(*table, *bias);
      BiasGradient<T> gradient(*table, table->kernels<T>().activations[activation], static_cast<T>(negative_slope),
                               runs, wide, elements(*x));
      gradient.run(cost(activation, runs.bytes()), threads);
      gradient.store(*dbias);
      return ONEPASS_OK;
    });
  });
}
