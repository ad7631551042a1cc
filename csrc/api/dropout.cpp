// Dropout: the generator's keys, and each element's index in C order.
#include <algorithm>
#include <cmath>
#include <limits>

#include "api/runs.hpp"
#include "runtime/dispatch.hpp"

namespace onepass::api {
namespace {

// Takes the place of a tensor's number in the generator's key, which no tensor of a plan has.
constexpr std::size_t kDropoutStream = std::numeric_limits<std::size_t>::max();

// Indices whose upper halves agree share a key.
class Counters {
 public:
  Counters(std::uint64_t seed, std::int64_t step) : seed_(seed), step_(step) {}

  // visit(offset, counter, n) for the stretches of n indices, `apart` from one another, that share a key
  template <typename Visit>
  void stretches(std::int64_t index, std::int64_t apart, std::int64_t n, Visit&& visit) const {
    for (std::int64_t offset = 0; offset < n;) {
      const std::int64_t high = index >> 32, left = ((high + 1) << 32) - index;
      const std::int64_t length = std::min(n - offset, (left + apart - 1) / apart);
      visit(offset, rounding_key(seed_, step_, kDropoutStream, high) + static_cast<std::uint32_t>(index), length);
      offset += length;
      index += length * apart;
    }
  }

 private:
  std::uint64_t seed_;
  std::int64_t step_;
};

template <typename T>
struct Dropout {
  const FloatKernels<T>& kernels;
  const onepass_array &x, &y;
  T scale;
  std::uint32_t dropped;
  bool all_dropped;
  Counters counters;
  Layout layout;  // of x, y and the index

  void run(std::int64_t begin, std::int64_t end) const {
    const std::int64_t* steps[] = {layout.strides[0], layout.strides[1], layout.strides[2]};
    const int inner = layout.ndim - 1;
    layout.walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
      counters.stretches(at[2], steps[2][inner], length,
                         [&](std::int64_t offset, std::uint32_t counter, std::int64_t n) {
                           stretch(static_cast<const char*>(x.data) + at[0] + offset * steps[0][inner], steps[0][inner],
                                   static_cast<char*>(y.data) + at[1] + offset * steps[1][inner], steps[1][inner],
                                   counter, static_cast<std::uint32_t>(steps[2][inner]), n);
                         });
    });
  }

 private:
  // n elements with gaps between them, or stored in another type than T: in runs through a buffer
  void stretch(const char* from, std::int64_t from_step, char* to, std::int64_t to_step, std::uint32_t counter,
               std::uint32_t apart, std::int64_t n) const {
    const std::int64_t item = itemsize(x.dtype);
    if (!all_dropped && item == sizeof(T) && from_step == item && to_step == item)
      return kernels.dropout(reinterpret_cast<const T*>(from), reinterpret_cast<T*>(to), scale, dropped, counter, apart,
                             n);
    alignas(64) T run[kStage];
    alignas(64) char raw[kStage * sizeof(T)];
    const Codec<T>& codec = kernels.codecs.of[x.dtype];
    for (std::int64_t i = 0; i < n; i += kStage) {
      const std::int64_t length = std::min(kStage, n - i);
      gather_items(from + i * from_step, from_step, static_cast<std::size_t>(item), raw, length);
      codec.decode(raw, run, length);
      if (all_dropped)
        std::fill_n(run, length, T(0));
      else
        kernels.dropout(run, run, scale, dropped, counter + static_cast<std::uint32_t>(i) * apart, apart, length);
      codec.encode(run, raw, length, nullptr, 0);
      scatter_items(raw, to + i * to_step, to_step, static_cast<std::size_t>(item), length);
    }
  }
};

onepass_status apply(const char* name, const onepass_array* x, double p, std::uint64_t seed, std::int64_t step,
                     const onepass_array* y, std::int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    ONEPASS_TRY(check_any_float(name, x));
    ONEPASS_TRY(check_like("out", y, name, *x));
    if (overlaps_itself(*y)) return fail(ONEPASS_OVERLAP, "out: several of its elements share memory; pass a copy");
    ONEPASS_TRY(check_in_place("out", *y, name, *x));
    if (!(p >= 0.0 && p <= 1.0)) return fail(ONEPASS_INVALID_VALUE, "p: expected a number in [0, 1], got %g", p);
    if (step < 0)
      return fail(ONEPASS_INVALID_VALUE, "step: expected 0 or more, got %lld", static_cast<long long>(step));
    const onepass_array index = {nullptr, x->shape, nullptr, x->ndim, ONEPASS_UINT8};  // an element is a byte
    const onepass_array* arrays[] = {x, y, &index};
    const auto dropped = static_cast<std::uint32_t>(std::min(std::nearbyint(p * 0x1p32), 0x1p32 - 1));
    return with_computed(x->dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto scale = static_cast<T>(1.0 / (1.0 - p));
      const Dropout<T> dropout = {table->kernels<T>(), *x, *y, scale, dropped, p == 1.0, Counters(seed, step),
                                  Layout(arrays, 3)};
      constexpr std::int64_t kGrain = 64;
      const std::int64_t n = elements(*x), grains = (n + kGrain - 1) / kGrain;
      const std::int64_t bytes = 2 * n * itemsize(x->dtype);
      runtime::parallel(runtime::team_size(threads, grains, bytes), grains, [&](std::int64_t begin, std::int64_t end) {
        dropout.run(begin * kGrain, std::min(end * kGrain, n));
      });
      return ONEPASS_OK;
    });
  });
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_dropout(const onepass_array* x, double p, uint64_t seed, int64_t step, const onepass_array* y,
                               int32_t threads) {
  return apply("x", x, p, seed, step, y, threads);
}

onepass_status onepass_dropout_backward(const onepass_array* dy, double p, uint64_t seed, int64_t step,
                                        const onepass_array* dx, int32_t threads) {
  return apply("dy", dy, p, seed, step, dx, threads);
}
