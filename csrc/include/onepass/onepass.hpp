// onepass.h with types: spans instead of pointers, exceptions instead of status codes. C++20, header only.
//
//   std::vector<float> param(n), grad(n), exp_avg(n), exp_avg_sq(n);
//   onepass::Plan<onepass_adam_hyper> plan({onepass::tensor<float>(param, grad, exp_avg, exp_avg_sq)});
//   auto hyper = onepass::defaults<onepass_adam_hyper>();
//   for (hyper.step = 1; hyper.step <= steps; ++hyper.step) plan.step(hyper);
#ifndef ONEPASS_ONEPASS_HPP
#define ONEPASS_ONEPASS_HPP

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "onepass.h"

namespace onepass {

class Error : public std::runtime_error {
 public:
  explicit Error(onepass_status status) : std::runtime_error(onepass_last_error()), status(status) {}
  onepass_status status;
};

inline void check(onepass_status status) {
  if (status != ONEPASS_OK) throw Error(status);
}

// Throws unless the library serves a program that was compiled with this header.
inline void require() { check(onepass_require(ONEPASS_VERSION_MAJOR, ONEPASS_VERSION_MINOR, ONEPASS_ABI_VERSION)); }

// While it lives, what this thread starts runs in the host's threads. parallel_for(tasks, range) has to call
// range(begin, end) so that each of [0, tasks) is in one call, and to return when all calls have returned. Afterwards
// the thread has the host that it had before.
template <typename ParallelFor>
class HostThreads {
 public:
  HostThreads(ParallelFor parallel_for, int threads) : parallel_for_(std::move(parallel_for)) {
    onepass_get_parallel_for(&outer_, &outer_host_, &outer_threads_);
    check(onepass_set_parallel_for(
        [](void* host, std::int64_t tasks, onepass_range range, void* context) {
          static_cast<HostThreads*>(host)->parallel_for_(
              tasks, [range, context](std::int64_t begin, std::int64_t end) { range(context, begin, end); });
        },
        this, threads));
  }
  ~HostThreads() { onepass_set_parallel_for(outer_, outer_host_, outer_threads_); }
  HostThreads(const HostThreads&) = delete;
  HostThreads& operator=(const HostThreads&) = delete;

 private:
  ParallelFor parallel_for_;
  onepass_parallel_for outer_ = nullptr;
  void* outer_host_ = nullptr;
  std::int32_t outer_threads_ = 0;
};

template <typename T>
constexpr onepass_dtype dtype_of() {
  using U = std::remove_const_t<T>;
  if constexpr (std::is_same_v<U, float>)
    return ONEPASS_FLOAT32;
  else if constexpr (std::is_same_v<U, double>)
    return ONEPASS_FLOAT64;
  else if constexpr (std::is_integral_v<U> && std::is_signed_v<U>)
    return sizeof(U) == 1   ? ONEPASS_INT8
           : sizeof(U) == 2 ? ONEPASS_INT16
           : sizeof(U) == 4 ? ONEPASS_INT32
                            : ONEPASS_INT64;
  else if constexpr (std::is_integral_v<U>)
    return sizeof(U) == 1   ? ONEPASS_UINT8
           : sizeof(U) == 2 ? ONEPASS_UINT16
           : sizeof(U) == 4 ? ONEPASS_UINT32
                            : ONEPASS_UINT64;
  else
    static_assert(std::is_same_v<U, float>, "onepass: no such element type");
}

// A C-contiguous array of a given shape over memory that the caller keeps; owns its shape.
class Array {
 public:
  Array() : array_{nullptr, nullptr, nullptr, -1, 0} {}
  template <typename T>
  Array(std::span<T> data, std::initializer_list<std::int64_t> shape)
      : shape_(shape),
        array_{const_cast<std::remove_const_t<T>*>(data.data()), nullptr, nullptr,
               static_cast<std::int32_t>(shape.size()), dtype_of<T>()} {
    std::int64_t n = 1;
    for (const std::int64_t extent : shape_) n *= extent;
    if (n != static_cast<std::int64_t>(data.size()))
      throw std::invalid_argument("onepass::Array: shape and size differ");
  }
  template <typename T>
  explicit Array(std::span<T> data) : Array(data, {static_cast<std::int64_t>(data.size())}) {}

  const onepass_array* get() const {
    array_.shape = shape_.data();
    return &array_;
  }

 private:
  std::vector<std::int64_t> shape_;
  mutable onepass_array array_;
};

struct Tensor {
  std::vector<Array> arrays;  // param, grad, states
  std::int32_t group = 0;
};

template <typename T, typename... States>
Tensor tensor(std::span<T> param, std::span<const T> grad, States&&... states) {
  return {{Array(param), Array(grad), Array(std::span<T>(states))...}, 0};
}

// Names an update by its hyperparameter struct.
template <typename Hyper>
struct UpdateOf;
#define ONEPASS_UPDATE(name, states, hyperparameters)                                                            \
  template <>                                                                                                    \
  struct UpdateOf<onepass_##name##_hyper> {                                                                      \
    static constexpr onepass_update code = ONEPASS_UPDATE_##name;                                                \
    static onepass_status run(onepass_plan* plan, std::span<const onepass_##name##_hyper> groups, int threads) { \
      return onepass_##name(plan, groups.data(), groups.size(), threads);                                        \
    }                                                                                                            \
  };
#include "updates.def"
#undef ONEPASS_UPDATE

// Hyperparameters at their defaults, step 1, nothing clipped.
template <typename Hyper>
Hyper defaults() {
  Hyper hyper{};
  const onepass_update_info* info = onepass_update_registry(UpdateOf<Hyper>::code);
  for (std::size_t i = 0; i < info->field_count; ++i)
    if (info->fields[i].flag == 0)
      std::memcpy(reinterpret_cast<char*>(&hyper) + info->fields[i].offset, &info->fields[i].value, sizeof(double));
  hyper.step = 1;
  hyper.grad_scale = 1.0;
  hyper.max_value = std::numeric_limits<double>::infinity();
  return hyper;
}

// Tensors checked once; then one call and one parallel region a step.
template <typename Hyper>
class Plan {
 public:
  explicit Plan(const std::vector<Tensor>& tensors) {
    std::vector<onepass_update_tensor> raw;
    for (const Tensor& t : tensors) {
      onepass_update_tensor r = {};
      if (t.arrays.size() < 2 || t.arrays.size() > 2 + ONEPASS_MAX_STATES)
        throw std::invalid_argument("onepass::Plan: a tensor needs param, grad and its states");
      r.param = *t.arrays[0].get();
      r.grad = *t.arrays[1].get();
      for (onepass_array& state : r.states) state.ndim = -1;
      for (std::size_t k = 2; k < t.arrays.size(); ++k) r.states[k - 2] = *t.arrays[k].get();
      r.group = t.group;
      raw.push_back(r);
    }
    onepass_plan* plan = nullptr;
    check(onepass_plan_create(UpdateOf<Hyper>::code, raw.data(), raw.size(), &plan));
    plan_.reset(plan);
  }
  void step(std::span<const Hyper> groups, int threads = 0) {
    check(UpdateOf<Hyper>::run(plan_.get(), groups, threads));
  }
  void step(const Hyper& hyper, int threads = 0) { step(std::span<const Hyper>(&hyper, 1), threads); }

 private:
  struct Destroy {
    void operator()(onepass_plan* plan) const { onepass_plan_destroy(plan); }
  };
  std::unique_ptr<onepass_plan, Destroy> plan_;
};

}  // namespace onepass

#endif
