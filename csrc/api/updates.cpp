// Optimizer updates: plans, the registry, and one parallel region over all tensors of a step.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "api/arrays.hpp"
#include "api/staged.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

// ---- registry: updates.def as data

#define ONEPASS_STATE(name) #name,
#define ONEPASS_REAL(name, value) {#name, value, offsetof(Hyper, name), 0},
#define ONEPASS_FLAG(name) {#name, 0.0, offsetof(Hyper, name), 1},
#define ONEPASS_UPDATE(name, state_names, hyperparameters)                                      \
  namespace name##_registry {                                                                   \
    using Hyper = onepass_##name##_hyper;                                                       \
    constexpr const char* states[] = {state_names nullptr};                                     \
    constexpr onepass_field fields[] = {hyperparameters};                                       \
    onepass_status run(onepass_plan* plan, const void* groups, size_t count, int32_t threads) { \
      return onepass_##name(plan, static_cast<const Hyper*>(groups), count, threads);           \
    }                                                                                           \
  }
#include "onepass/updates.def"
#undef ONEPASS_UPDATE
#undef ONEPASS_FLAG
#undef ONEPASS_REAL
#undef ONEPASS_STATE

constexpr onepass_update_info kRegistry[] = {
#define ONEPASS_UPDATE(name, state_names, hyperparameters) \
  {#name,                                                  \
   name##_registry::states,                                \
   std::size(name##_registry::states) - 1,                 \
   name##_registry::fields,                                \
   std::size(name##_registry::fields),                     \
   sizeof(name##_registry::Hyper),                         \
   name##_registry::run},
#include "onepass/updates.def"
#undef ONEPASS_UPDATE
};

// What every hyperparameter struct begins with.
struct CommonHyper {
  std::int64_t step;
  double grad_scale;
  double max_value;
  std::int32_t maximize;
};

// Hyperparameters that make numbers of nothing outside these: what divides, or what an average keeps.
struct Range {
  const char* name;
  double below;
};
constexpr Range kRanges[] = {{"beta1", 1.0}, {"beta2", 1.0}, {"eps", HUGE_VAL}, {"eps_root", HUGE_VAL}};

onepass_status check_hyper(const onepass_update_info& info, const void* hyper, std::size_t group) {
  CommonHyper common;
  std::memcpy(&common, hyper, sizeof(common));
  if (common.step < 1)
    return fail(ONEPASS_INVALID_VALUE, "step: expected 1 or more, got %lld (group %zu)",
                static_cast<long long>(common.step), group);
  if (!std::isfinite(common.grad_scale) || common.grad_scale == 0.0)
    return fail(ONEPASS_INVALID_VALUE, "grad_scale: expected a finite number other than 0, got %g (group %zu)",
                common.grad_scale, group);
  if (!(common.max_value > 0.0))
    return fail(ONEPASS_INVALID_VALUE,
                "max_value: expected a number above 0 (infinity: no clipping), got %g (group %zu)", common.max_value,
                group);
  for (std::size_t i = 0; i < info.field_count; ++i) {
    const onepass_field& field = info.fields[i];
    double value = 0.0;
    if (field.flag == 0) std::memcpy(&value, static_cast<const char*>(hyper) + field.offset, sizeof(value));
    if (!std::isfinite(value))
      return fail(ONEPASS_INVALID_VALUE, "%s: expected a finite number, got %g (group %zu)", field.name, value, group);
    for (const Range& range : kRanges)
      if (std::strcmp(field.name, range.name) == 0 && !(value >= 0.0 && value < range.below))
        return fail(ONEPASS_INVALID_VALUE, "%s: expected a number in [0, %g), got %g (group %zu)", field.name,
                    range.below, value, group);
  }
  return ONEPASS_OK;
}

// ---- plan

constexpr std::int64_t kGrainBytes = 64;  // threads meet at multiples of a cache line

struct OwnedArray {  // an array whose shape and strides live here
  onepass_array view = {nullptr, nullptr, nullptr, -1, 0};
  std::vector<std::int64_t> numbers;
  Extent bytes;

  void assign(const onepass_array& a) {
    const auto ndim = static_cast<std::size_t>(a.ndim);
    numbers.resize(2 * ndim);
    for (std::size_t i = 0; i < ndim; ++i) {
      numbers[i] = a.shape[i];
      numbers[ndim + i] = stride(a, static_cast<int>(i));
    }
    view = a;
    view.shape = numbers.data();
    view.strides = numbers.data() + ndim;
    bytes = extent(view);
  }
};

struct PlannedTensor {
  OwnedArray param, grad;
  std::array<OwnedArray, ONEPASS_MAX_STATES> states;
  std::int32_t group = 0;
  std::int64_t size = 0, item = 0, grains = 0;
  std::int64_t bytes = 0;          // moved by a step
  bool active = false;             // has a gradient
  std::unique_ptr<Layout> layout;  // of param, grad, states
  bool direct = false;             // everything is stored as it is computed, without gaps along the innermost axis

  bool wide() const { return param.view.dtype == ONEPASS_FLOAT64; }  // computed in double
};

struct Rules {  // float, double
  alignas(kRuleAlignment) std::array<std::array<char, kRuleBytes>, 2> bytes = {};
  std::array<bool, 2> prepared = {false, false};

  void prepare(const UpdateKernel& kernel, const void* hyper, bool wide) {
    char* rule = bytes[wide].data();
    kernel.prepare(hyper, prepared[wide] ? rule : nullptr, rule);
    prepared[wide] = true;
  }
};

std::string tensor_name(const char* what, std::size_t i, std::size_t count) {
  return count == 1 ? what : std::string(what) + "[" + std::to_string(i) + "]";
}

}  // namespace
}  // namespace onepass::api

struct onepass_plan {
  onepass_update update;
  std::vector<onepass::api::PlannedTensor> tensors;
  std::vector<onepass::api::Rules> rules;  // per group; kept for the next step
  bool stochastic = false;
  std::uint64_t seed = 0;
};

namespace onepass::api {
namespace {

onepass_status set_grad(onepass_plan& plan, std::size_t i, const onepass_array* grad) {
  PlannedTensor& t = plan.tensors[i];
  if (grad == nullptr || grad->ndim < 0) {
    t.active = false;
    return ONEPASS_OK;
  }
  const std::size_t count = plan.tensors.size(), state_count = kRegistry[plan.update].state_count;
  const auto name = [&] { return tensor_name("grad", i, count); };
  ONEPASS_TRY(check_any_float(name().c_str(), grad));
  ONEPASS_TRY(check_shape_like(name().c_str(), *grad, tensor_name("param", i, count).c_str(), t.param.view));
  const Extent bytes = extent(*grad);
  const auto apart = [&](const OwnedArray& other, const char* what, std::size_t j) {
    return bytes.meets(other.bytes)
               ? check_apart(name().c_str(), grad, tensor_name(what, j, count).c_str(), &other.view)
               : ONEPASS_OK;
  };
  for (std::size_t j = 0; j < count; ++j) {
    ONEPASS_TRY(apart(plan.tensors[j].param, "param", j));
    for (std::size_t k = 0; k < state_count; ++k)
      ONEPASS_TRY(apart(plan.tensors[j].states[k], kRegistry[plan.update].states[k], j));
  }
  t.grad.assign(*grad);
  const onepass_array* arrays[Layout::kMaxOperands] = {&t.param.view, &t.grad.view};
  for (std::size_t k = 0; k < state_count; ++k) arrays[2 + k] = &t.states[k].view;
  t.layout = std::make_unique<Layout>(arrays, 2 + static_cast<int>(state_count));
  const std::int32_t computed = t.wide() ? ONEPASS_FLOAT64 : ONEPASS_FLOAT32;
  t.direct = true;
  t.bytes = 0;
  for (int k = 0; k < t.layout->operands; ++k) {
    const std::int64_t item = itemsize(arrays[k]->dtype);
    t.direct = t.direct && arrays[k]->dtype == computed && t.layout->dense(k, item);
    t.bytes += (k == 1 ? 1 : 2) * item * t.size;
  }
  t.active = true;
  return ONEPASS_OK;
}

onepass_status check_state(const char* name, const onepass_array* state, const char* param_name,
                           const PlannedTensor& t) {
  ONEPASS_TRY(check_array(name, state));
  const bool fits =
      t.wide() ? state->dtype == ONEPASS_FLOAT64 : state->dtype == ONEPASS_FLOAT32 || state->dtype == ONEPASS_BFLOAT16;
  if (!fits)
    return fail(ONEPASS_INVALID_DTYPE, "%s: expected %s beside a %s %s, got %s; convert it first", name,
                t.wide() ? "float64" : "float32 or bfloat16", type_name(t.param.view.dtype), param_name,
                type_name(state->dtype));
  return check_shape_like(name, *state, param_name, t.param.view);
}

// No two elements that are written may share memory.
onepass_status check_written_apart(const onepass_plan& plan) {
  struct Written {
    const OwnedArray* array;
    const char* what;
    std::size_t tensor;
  };
  std::vector<Written> written;
  const onepass_update_info& info = kRegistry[plan.update];
  const std::size_t count = plan.tensors.size();
  for (std::size_t i = 0; i < count; ++i) {
    written.push_back({&plan.tensors[i].param, "param", i});
    for (std::size_t k = 0; k < info.state_count; ++k)
      written.push_back({&plan.tensors[i].states[k], info.states[k], i});
  }
  for (const Written& w : written)
    if (overlaps_itself(w.array->view))
      return fail(ONEPASS_OVERLAP, "%s: several of its elements share memory (a broadcast view?); pass a copy",
                  tensor_name(w.what, w.tensor, count).c_str());
  for (std::size_t a = 0; a < written.size(); ++a)
    for (std::size_t b = a + 1; b < written.size(); ++b)
      if (written[a].array->bytes.meets(written[b].array->bytes))
        ONEPASS_TRY(check_apart(tensor_name(written[b].what, written[b].tensor, count).c_str(), &written[b].array->view,
                                tensor_name(written[a].what, written[a].tensor, count).c_str(),
                                &written[a].array->view));
  return ONEPASS_OK;
}

// Elements [begin, end) of a tensor, where they are.
void apply_direct(const UpdateKernel& kernel, const void* rule, const PlannedTensor& t, std::int64_t begin,
                  std::int64_t end) {
  t.layout->walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
    void* states[ONEPASS_MAX_STATES] = {};
    for (int k = 2; k < t.layout->operands; ++k)
      states[k - 2] = static_cast<char*>(t.states[static_cast<std::size_t>(k - 2)].view.data) + at[k];
    kernel.apply(rule, static_cast<char*>(t.param.view.data) + at[0], static_cast<char*>(t.grad.view.data) + at[1],
                 states, length);
  });
}

// The same through dense buffers: for other storage formats, and where there are gaps.
template <typename T>
void apply_staged(const KernelTable& table, const UpdateKernel& kernel, const void* rule, const PlannedTensor& t,
                  std::size_t tensor, std::int64_t step, const onepass_plan& plan, std::int64_t begin,
                  std::int64_t end) {
  const FloatKernels<T>& kernels = table.kernels<T>();
  alignas(64) T buffer[Layout::kMaxOperands][kStage];
  const int operands = t.layout->operands;
  Stored stored[Layout::kMaxOperands];
  bool in_place[Layout::kMaxOperands];  // needs no buffer
  T* run[Layout::kMaxOperands];
  for (int k = 0; k < operands; ++k) {
    const OwnedArray& a = k == 0 ? t.param : k == 1 ? t.grad : t.states[static_cast<std::size_t>(k - 2)];
    stored[k] = {static_cast<char*>(a.view.data), a.view.dtype, k};
    in_place[k] = is_float(a.view.dtype) && itemsize(a.view.dtype) == sizeof(T) && t.layout->ndim == 1 &&
                  t.layout->dense(k, sizeof(T));
    run[k] = buffer[k];
  }
  std::uint32_t random[kStage], key = 0;
  std::int64_t high = -1;
  for (std::int64_t at = begin, next; at < end; at = next) {
    next = std::min({at + kStage, end, ((at >> 32) + 1) << 32});  // a key serves 2^32 elements
    if (plan.stochastic) {
      if (at >> 32 != high) {
        high = at >> 32;
        key = rounding_key(plan.seed, step, tensor, high);
      }
      table.fill_random(key, static_cast<std::uint32_t>(at), random, next - at);
    }
    for (int k = 0; k < operands; ++k) {
      if (in_place[k])
        run[k] = reinterpret_cast<T*>(stored[k].data) + at;
      else
        stage_in(kernels.codecs, *t.layout, stored[k], at, next, buffer[k]);
    }
    void* states[ONEPASS_MAX_STATES] = {};
    for (int k = 2; k < operands; ++k) states[k - 2] = run[k];
    kernel.apply(rule, run[0], run[1], states, next - at);
    for (int k = 0; k < operands; ++k)
      if (k != 1 && !in_place[k])
        stage_out(kernels.codecs, *t.layout, stored[k], at, next, buffer[k], plan.stochastic ? random : nullptr,
                  k == 0 ? 0 : k - 1);
  }
}

onepass_status run_update(onepass_update update, onepass_plan* plan, const void* groups, std::size_t group_count,
                          std::int32_t threads) {
  const KernelTable* table = runtime::kernels();
  if (table == nullptr) return ONEPASS_UNAVAILABLE;
  if (plan == nullptr || (groups == nullptr && group_count > 0))
    return fail(ONEPASS_INVALID_VALUE, "plan or groups: is null");
  if (plan->update != update)
    return fail(ONEPASS_INVALID_VALUE, "plan: was made for %s, not for %s", kRegistry[plan->update].name,
                kRegistry[update].name);
  ONEPASS_TRY(check_threads(threads));
  const onepass_update_info& info = kRegistry[update];
  const auto hyper = [&](std::size_t g) { return static_cast<const char*>(groups) + g * info.hyper_size; };
  for (std::size_t g = 0; g < group_count; ++g) ONEPASS_TRY(check_hyper(info, hyper(g), g));
  std::int64_t grains = 0, bytes = 0;
  bool occurs[2] = {false, false};  // float, double
  for (const PlannedTensor& t : plan->tensors) {
    if (!t.active) continue;
    if (t.group < 0 || static_cast<std::size_t>(t.group) >= group_count)
      return fail(ONEPASS_INVALID_VALUE, "group: a tensor names group %d, but there are %zu", t.group, group_count);
    grains += t.grains;
    bytes += t.bytes;
    occurs[t.wide()] = true;
  }
  plan->rules.resize(std::max(plan->rules.size(), group_count));
  for (std::size_t g = 0; g < group_count; ++g) {
    if (occurs[0]) plan->rules[g].prepare(table->f32.updates[update], hyper(g), false);
    if (occurs[1]) plan->rules[g].prepare(table->f64.updates[update], hyper(g), true);
  }
  runtime::parallel(runtime::team_size(threads, grains, bytes), grains, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t first = 0;  // first grain of the tensor at hand
    for (std::size_t i = 0; i < plan->tensors.size() && first < end; ++i) {
      const PlannedTensor& t = plan->tensors[i];
      if (!t.active) continue;
      const std::int64_t from = std::max(begin, first), to = std::min(end, first + t.grains);
      if (from < to) {
        const std::int64_t per_grain = kGrainBytes / t.item;
        const std::int64_t low = (from - first) * per_grain, high = std::min((to - first) * per_grain, t.size);
        const auto group = static_cast<std::size_t>(t.group);
        const void* rule = plan->rules[group].bytes[t.wide()].data();
        with_float(t.wide() ? ONEPASS_FLOAT64 : ONEPASS_FLOAT32, [&](auto zero) {
          const auto& kernels = table->kernels<decltype(zero)>();
          if (t.direct) {
            apply_direct(kernels.updates[update], rule, t, low, high);
          } else {
            CommonHyper common;
            std::memcpy(&common, hyper(group), sizeof(common));
            apply_staged<decltype(zero)>(*table, kernels.updates[update], rule, t, i, common.step, *plan, low, high);
          }
          return ONEPASS_OK;
        });
      }
      first += t.grains;
    }
  });
  return ONEPASS_OK;
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

const onepass_update_info* onepass_update_registry(onepass_update update) {
  return update >= 0 && update < ONEPASS_UPDATE_COUNT ? &kRegistry[update] : nullptr;
}

onepass_status onepass_plan_create(onepass_update update, const onepass_update_tensor* tensors, size_t count,
                                   onepass_plan** result) {
  return guarded([&]() -> onepass_status {
    if (result == nullptr || (tensors == nullptr && count > 0))
      return fail(ONEPASS_INVALID_VALUE, "plan or tensors: is null");
    *result = nullptr;
    if (onepass_update_registry(update) == nullptr)
      return fail(ONEPASS_INVALID_VALUE, "update: unknown code %d", static_cast<int>(update));
    const onepass_update_info& info = kRegistry[update];
    auto plan = std::make_unique<onepass_plan>();
    plan->update = update;
    plan->tensors.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const onepass_update_tensor& given = tensors[i];
      PlannedTensor& t = plan->tensors[i];
      const std::string name = tensor_name("param", i, count);
      ONEPASS_TRY(check_any_float(name.c_str(), &given.param));
      t.param.assign(given.param);
      for (std::size_t k = 0; k < info.state_count; ++k) {
        ONEPASS_TRY(check_state(tensor_name(info.states[k], i, count).c_str(), &given.states[k], name.c_str(), t));
        t.states[k].assign(given.states[k]);
      }
      t.group = given.group;
      t.size = elements(given.param);
      t.item = itemsize(given.param.dtype);
      t.grains = (t.size * t.item + kGrainBytes - 1) / kGrainBytes;
    }
    ONEPASS_TRY(check_written_apart(*plan));
    for (std::size_t i = 0; i < count; ++i) ONEPASS_TRY(set_grad(*plan, i, &tensors[i].grad));
    *result = plan.release();
    return ONEPASS_OK;
  });
}

onepass_status onepass_plan_set_grad(onepass_plan* plan, size_t i, const onepass_array* grad) {
  return guarded([&]() -> onepass_status {
    if (plan == nullptr || i >= plan->tensors.size())
      return fail(ONEPASS_INVALID_VALUE, "plan: is null or has no tensor %zu", i);
    return set_grad(*plan, i, grad);
  });
}

onepass_status onepass_plan_set_group(onepass_plan* plan, size_t i, int32_t group) {
  if (plan == nullptr || i >= plan->tensors.size())
    return fail(ONEPASS_INVALID_VALUE, "plan: is null or has no tensor %zu", i);
  plan->tensors[i].group = group;
  return ONEPASS_OK;
}

onepass_status onepass_plan_set_rounding(onepass_plan* plan, int32_t stochastic, uint64_t seed) {
  if (plan == nullptr) return fail(ONEPASS_INVALID_VALUE, "plan: is null");
  plan->stochastic = stochastic != 0;
  plan->seed = seed;
  return ONEPASS_OK;
}

void onepass_plan_destroy(onepass_plan* plan) { delete plan; }

#define ONEPASS_UPDATE(name, states, hyperparameters)                                                         \
  onepass_status onepass_##name(onepass_plan* plan, const onepass_##name##_hyper* groups, size_t group_count, \
                                int32_t threads) {                                                            \
    return guarded([&] { return run_update(ONEPASS_UPDATE_##name, plan, groups, group_count, threads); });    \
  }
#include "onepass/updates.def"
#undef ONEPASS_UPDATE

onepass_status onepass_global_norm(const onepass_array* arrays, size_t count, double* norm, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    if (norm == nullptr || (arrays == nullptr && count > 0))
      return fail(ONEPASS_INVALID_VALUE, "arrays or norm: is null");
    ONEPASS_TRY(check_threads(threads));
    constexpr std::int64_t kPart = 1 << 15;  // elements summed by one call; parts are added in order
    struct Part {
      std::size_t array;
      std::int64_t begin;
    };
    std::vector<Part> parts;
    std::vector<Layout> layouts;
    layouts.reserve(count);
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < count; ++i) {
      ONEPASS_TRY(check_any_float(tensor_name("arrays", i, count).c_str(), &arrays[i]));
      const onepass_array* one[] = {&arrays[i]};
      layouts.emplace_back(one, 1);
      const std::int64_t n = elements(arrays[i]);
      bytes += n * itemsize(arrays[i].dtype);
      for (std::int64_t begin = 0; begin < n; begin += kPart) parts.push_back({i, begin});
    }
    std::vector<double> sums(parts.size());
    const auto tasks = static_cast<std::int64_t>(parts.size());
    runtime::parallel(runtime::team_size(threads, tasks, bytes), tasks, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t p = from; p < to; ++p) {
        const Part& part = parts[static_cast<std::size_t>(p)];
        const onepass_array& a = arrays[part.array];
        const Layout& layout = layouts[part.array];
        const std::int64_t end = std::min(part.begin + kPart, elements(a));
        with_float(a.dtype, [&](auto zero) {  // float16 and bfloat16 as double, where their squares are exact
          using T = decltype(zero);
          const FloatKernels<T>& kernels = table->kernels<T>();
          const Stored stored = {static_cast<char*>(a.data), a.dtype, 0};
          const bool direct = is_float(a.dtype) && layout.ndim == 1 && layout.dense(0, sizeof(T));
          alignas(64) T buffer[kStage];
          double sum = 0.0;
          for (std::int64_t at = part.begin; at < end; at += kStage) {
            const std::int64_t n = std::min(kStage, end - at);
            const T* run = direct ? static_cast<const T*>(a.data) + at : buffer;
            if (!direct) stage_in(kernels.codecs, layout, stored, at, at + n, buffer);
            sum += kernels.sum_of_squares(run, n);
          }
          sums[static_cast<std::size_t>(p)] = sum;
          return ONEPASS_OK;
        });
      }
    });
    double total = 0.0;
    for (const double sum : sums) total += sum;
    *norm = std::sqrt(total);
    return ONEPASS_OK;
  });
}
