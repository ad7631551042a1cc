// A step of a plan, in one parallel region over all tensors; in two, where a rule needs sums over them first.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "api/plan.hpp"
#include "api/staged.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

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

// What a pass over the tensors does. An update without sums is whole; one with sums measures, then concludes; one that
// leaves its sums to the caller only measures.
enum class Pass { whole, measure, conclude };

struct Step {
  const KernelTable& table;
  const onepass_plan& plan;
  const char* hyper;  // (groups)
  std::size_t hyper_size;
  Pass pass;

  std::int64_t number(const PlannedTensor& t) const {
    CommonHyper common;
    std::memcpy(&common, hyper + static_cast<std::size_t>(t.group) * hyper_size, sizeof(common));
    return common.step;
  }
};

bool has_active_average(const Step& step, const PlannedTensor& t) {
  for (std::size_t i = 0; i < t.averages.size(); ++i)
    if (step.plan.averages[i].active() && t.averages[i].present()) return true;
  return false;
}

char* state_at(const PlannedTensor& t, int k, std::int64_t offset) {
  return static_cast<char*>(t.states[static_cast<std::size_t>(k)].view.data) + offset;
}

// Elements [begin, end) of a tensor, where they are.
void apply_direct(const UpdateKernel& kernel, const void* rule, const PlannedTensor& t, std::int64_t begin,
                  std::int64_t end) {
  t.layout->walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
    void* states[ONEPASS_MAX_STATES] = {};
    for (int k = 0; k < kernel.states; ++k) states[k] = state_at(t, k, at[2 + k]);
    kernel.apply(rule, static_cast<char*>(t.param.view.data) + at[0], static_cast<char*>(t.grad.view.data) + at[1],
                 states, length);
  });
}

// The same with states in bfloat16.
void apply_bfloat16(const Step& step, const UpdateKernel& kernel, const void* rule, const PlannedTensor& t,
                    std::size_t tensor, std::int64_t begin, std::int64_t end) {
  RandomBits random(step.plan, step.number(t), tensor);
  for (std::int64_t next; begin < end; begin = next) {
    next = std::min(end, random.until(begin));
    void* states[ONEPASS_MAX_STATES] = {};
    for (int k = 0; k < kernel.states; ++k) states[k] = state_at(t, k, begin * 2);
    kernel.apply_bfloat16[step.plan.stochastic](rule, static_cast<float*>(t.param.view.data) + begin,
                                                static_cast<float*>(t.grad.view.data) + begin, states, next - begin,
                                                random.counter(begin));
  }
}

// The same with states in 8-bit blocks; param and grad are dense, and element `begin` begins a block.
void apply_blocks(const Step& step, const UpdateKernel& kernel, const void* rule, const PlannedTensor& t, void* param,
                  const void* grad, bool bfloat16, std::int64_t begin, std::int64_t end, std::uint32_t counter) {
  void* codes[ONEPASS_MAX_STATES] = {};
  std::uint8_t* scales[ONEPASS_MAX_STATES] = {};
  for (int k = 0; k < kernel.states; ++k) {
    codes[k] = state_at(t, k, begin);
    scales[k] = block_scales(state_at(t, k, 0), t.size) + begin / kBlockElements;
  }
  kernel.apply_blocks[bfloat16][step.plan.stochastic](rule, param, grad, codes, scales, end - begin, counter);
}

void apply_blocks(const Step& step, const UpdateKernel& kernel, const void* rule, const PlannedTensor& t,
                  std::size_t tensor, std::int64_t begin, std::int64_t end) {
  const bool bfloat16 = t.param.view.dtype == ONEPASS_BFLOAT16;
  const std::int64_t item = itemsize(t.param.view.dtype);
  RandomBits random(step.plan, step.number(t), tensor);
  for (std::int64_t next; begin < end; begin = next) {
    next = std::min(end, random.until(begin));
    apply_blocks(step, kernel, rule, t, static_cast<char*>(t.param.view.data) + begin * item,
                 static_cast<const char*>(t.grad.view.data) + begin * item, bfloat16, begin, next,
                 random.counter(begin));
  }
}

// The same through dense buffers: for every other storage, where there are gaps, for what is written beside the param,
// and for sums, which are added to `sums`.
template <typename T>
void apply_staged(const Step& step, const UpdateKernel& kernel, const void* rule, const PlannedTensor& t,
                  std::size_t tensor, std::int64_t begin, std::int64_t end, double* sums) {
  const onepass_plan& plan = step.plan;
  const FloatKernels<T>& kernels = step.table.kernels<T>();
  const Layout& layout = *t.layout;
  alignas(64) T buffer[Layout::kMaxOperands + ONEPASS_MAX_STATES][kStage];
  std::uint32_t bits[kStage];
  Stored stored[Layout::kMaxOperands];
  bool in_place[Layout::kMaxOperands];  // needs no buffer
  for (int k = 0; k < layout.operands; ++k) {
    const onepass_array& a = t.arrays[k]->view;
    stored[k] = {static_cast<char*>(a.data), a.dtype, k};
    in_place[k] = is_float(a.dtype) && itemsize(a.dtype) == sizeof(T) && layout.ndim == 1 && layout.dense(k, sizeof(T));
  }
  std::int64_t at = begin, next = begin;
  const auto load = [&](int k) {
    if (in_place[k]) return reinterpret_cast<T*>(stored[k].data) + at;
    stage_in(kernels.codecs, layout, stored[k], at, next, buffer[k]);
    return buffer[k];
  };
  const auto store = [&](int k, const T* run, const std::uint32_t* random, int array) {
    if (!in_place[k]) stage_out(kernels.codecs, layout, stored[k], at, next, run, random, array);
  };
  const onepass_update_info& info = *onepass_update_registry(plan.update);
  const bool writes_param = step.pass != Pass::measure || kernel.adjust == nullptr;
  const bool fused = t.blocks && kernel.apply_blocks[0][0] != nullptr;
  const bool writes_states =
      fused ? false : step.pass == Pass::whole || (step.pass == Pass::measure) == kernel.measure_writes;
  RandomBits random(plan, step.number(t), tensor);
  for (; at < end; at = next) {
    next = std::min({at + kStage, end, random.until(at)});
    const std::uint32_t* own_bits = nullptr;
    if (plan.stochastic) {
      step.table.fill_random[t.blocks](random.counter(at), bits, next - at);
      own_bits = bits;
    }
    T* param;
    if constexpr (sizeof(T) == sizeof(float)) {
      if (t.operand.lower >= 0)
        load_halves(step.table, layout, stored[0], stored[t.operand.lower], at, next, param = buffer[0]);
      else
        param = load(0);
    } else {
      param = load(0);
    }
    const T* grad = load(1);
    T* states[ONEPASS_MAX_STATES] = {};
    for (int k = 0; !fused && k < kernel.states; ++k) {
      if constexpr (sizeof(T) == sizeof(float)) {
        if (t.blocks) {
          states[k] = buffer[Layout::kMaxOperands + k];
          load_blocks(step.table.blocks[info.positive[k]], state_at(t, k, 0), t.size, at, next, states[k]);
          continue;
        }
      }
      states[k] = load(t.operand.states + k);
    }
    void* raw_states[ONEPASS_MAX_STATES] = {};
    for (int k = 0; k < kernel.states; ++k) raw_states[k] = states[k];
    if (fused) {
      if constexpr (sizeof(T) == sizeof(float))
        apply_blocks(step, kernel, rule, t, param, grad, false, at, next, random.counter(at));
    } else if (step.pass == Pass::measure) {
      kernel.measure(rule, param, grad, raw_states, next - at, sums);
    } else {
      kernel.apply(rule, param, grad, raw_states, next - at);
    }
    for (int k = 0; writes_states && k < kernel.states; ++k) {
      if constexpr (sizeof(T) == sizeof(float)) {
        if (t.blocks) {
          store_blocks(step.table.blocks[info.positive[k]], state_at(t, k, 0), t.size, at, next, states[k], own_bits,
                       k);
          continue;
        }
      }
      store(t.operand.states + k, states[k], own_bits, 1 + k);
    }
    if (!writes_param) continue;
    for (std::size_t i = 0; i < plan.averages.size(); ++i) {
      const int k = t.operand.averages[i];
      if (k < 0 || !plan.averages[i].active()) continue;
      T* average = load(k);
      kernels.average(param, average, static_cast<T>(plan.averages[i].weight), plan.averages[i].write_back, next - at);
      store(k, average, nullptr, 0);
    }
    if constexpr (sizeof(T) == sizeof(float)) {
      if (t.operand.copy >= 0) store(t.operand.copy, param, nullptr, 0);
      if (t.operand.lower >= 0) {
        store_halves(step.table, layout, stored[0], stored[t.operand.lower], at, next, param);
        continue;
      }
    }
    store(0, param, own_bits, 0);
  }
}

void apply(const Step& step, const void* rule, std::size_t tensor, std::int64_t begin, std::int64_t end, double* sums) {
  const PlannedTensor& t = step.plan.tensors[tensor];
  const bool whole = step.pass != Pass::measure && !has_active_average(step, t);
  with_float(t.wide() ? ONEPASS_FLOAT64 : ONEPASS_FLOAT32, [&](auto zero) {
    using T = decltype(zero);
    const UpdateKernel& kernel = step.table.kernels<T>().updates[step.plan.update];
    if (whole && t.direct)
      apply_direct(kernel, rule, t, begin, end);
    else if (whole && t.bfloat16 && kernel.apply_bfloat16[0] != nullptr)
      apply_bfloat16(step, kernel, rule, t, tensor, begin, end);
    else if (whole && t.flat && kernel.apply_blocks[0][0] != nullptr)
      apply_blocks(step, kernel, rule, t, tensor, begin, end);
    else
      apply_staged<T>(step, kernel, rule, t, tensor, begin, end, sums);
    return ONEPASS_OK;
  });
}

// visit(tensor, first unit of all tensors', begin, end) for the parts of [begin, end), units of all active tensors.
template <typename Units, typename Visit>
void for_tensors(const onepass_plan& plan, std::int64_t begin, std::int64_t end, Units&& units, Visit&& visit) {
  std::int64_t first = 0;
  for (std::size_t i = 0; i < plan.tensors.size() && first < end; ++i) {
    const PlannedTensor& t = plan.tensors[i];
    if (!t.active) continue;
    const std::int64_t count = units(t), from = std::max(begin, first), to = std::min(end, first + count);
    if (from < to) visit(i, first, from - first, to - first);
    first += count;
  }
}

const void* group_rule(const onepass_plan& plan, const PlannedTensor& t) {
  return plan.rules[static_cast<std::size_t>(t.group)].bytes[t.wide()].data();
}

// Sums over each tensor, in parts of a fixed size that are added in order; then each tensor's own rule.
void measure(const Step& step, onepass_plan& plan, std::int32_t threads, std::int64_t bytes) {
  constexpr std::int64_t kPart = 1 << 15;
  const auto parts_of = [](const PlannedTensor& t) { return (t.size + kPart - 1) / kPart; };
  std::int64_t parts = 0;
  for (const PlannedTensor& t : plan.tensors)
    if (t.active) parts += parts_of(t);
  plan.parts.assign(static_cast<std::size_t>(parts), {});
  runtime::parallel(runtime::team_size(threads, parts, bytes), parts, [&](std::int64_t begin, std::int64_t end) {
    for_tensors(plan, begin, end, parts_of, [&](std::size_t i, std::int64_t first, std::int64_t from, std::int64_t to) {
      const PlannedTensor& t = plan.tensors[i];
      for (std::int64_t part = from; part < to; ++part)
        apply(step, group_rule(plan, t), i, part * kPart, std::min((part + 1) * kPart, t.size),
              plan.parts[static_cast<std::size_t>(first + part)].data());
    });
  });
  plan.adjusted.resize(plan.tensors.size());
  std::size_t part = 0;
  for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
    PlannedTensor& t = plan.tensors[i];
    if (!t.active) continue;
    std::fill(std::begin(t.sums), std::end(t.sums), 0.0);
    for (const std::size_t end = part + static_cast<std::size_t>(parts_of(t)); part < end; ++part)
      for (std::size_t k = 0; k < kSums; ++k) t.sums[k] += plan.parts[part][k];
    const auto adjust =
        t.wide() ? step.table.f64.updates[plan.update].adjust : step.table.f32.updates[plan.update].adjust;
    if (adjust != nullptr) adjust(group_rule(plan, t), t.sums, plan.adjusted[i].bytes);
  }
}

onepass_status run_update(onepass_update update, onepass_plan* plan, const void* groups, std::size_t group_count,
                          std::int32_t threads) {
  const KernelTable* table = runtime::kernels();
  if (table == nullptr) return ONEPASS_UNAVAILABLE;
  if (plan == nullptr || (groups == nullptr && group_count > 0))
    return fail(ONEPASS_INVALID_VALUE, "plan or groups: is null");
  if (plan->update != update)
    return fail(ONEPASS_INVALID_VALUE, "plan: was made for %s, not for %s", onepass_update_registry(plan->update)->name,
                onepass_update_registry(update)->name);
  ONEPASS_TRY(check_threads(threads));
  const onepass_update_info& info = *onepass_update_registry(update);
  const char* hyper = static_cast<const char*>(groups);
  for (std::size_t g = 0; g < group_count; ++g) ONEPASS_TRY(check_hyper(info, hyper + g * info.hyper_size, g));
  std::int64_t grains = 0, bytes = 0;
  bool occurs[2] = {false, false};  // float, double
  for (const PlannedTensor& t : plan->tensors) {
    if (!t.active) continue;
    if (t.group < 0 || static_cast<std::size_t>(t.group) >= group_count)
      return fail(ONEPASS_INVALID_VALUE, "group: a tensor names group %d, but there are %zu", t.group, group_count);
    grains += t.grains();
    bytes += t.bytes;
    occurs[t.wide()] = true;
  }
  plan->rules.resize(std::max(plan->rules.size(), group_count));
  for (std::size_t g = 0; g < group_count; ++g) {
    if (occurs[0]) plan->rules[g].prepare(table->f32.updates[update], hyper + g * info.hyper_size, false);
    if (occurs[1]) plan->rules[g].prepare(table->f64.updates[update], hyper + g * info.hyper_size, true);
  }
  Step step = {*table, *plan, hyper, info.hyper_size, Pass::whole};
  if (table->f32.updates[update].measure != nullptr) {
    step.pass = Pass::measure;
    measure(step, *plan, threads, bytes);
    if (table->f32.updates[update].adjust == nullptr) return ONEPASS_OK;
    step.pass = Pass::conclude;
  }
  const auto grains_of = [](const PlannedTensor& t) { return t.grains(); };
  runtime::parallel(runtime::team_size(threads, grains, bytes), grains, [&](std::int64_t begin, std::int64_t end) {
    for_tensors(*plan, begin, end, grains_of, [&](std::size_t i, std::int64_t, std::int64_t from, std::int64_t to) {
      const PlannedTensor& t = plan->tensors[i];
      const void* rule = step.pass == Pass::conclude ? plan->adjusted[i].bytes : group_rule(*plan, t);
      apply(step, rule, i, from * t.grain, std::min(to * t.grain, t.size), nullptr);
    });
  });
  return ONEPASS_OK;
}

}  // namespace
}  // namespace onepass::api

using namespace onepass::api;

#define ONEPASS_UPDATE(name, states, hyperparameters)                                                         \
  onepass_status onepass_##name(onepass_plan* plan, const onepass_##name##_hyper* groups, size_t group_count, \
                                int32_t threads) {                                                            \
    return guarded([&] { return run_update(ONEPASS_UPDATE_##name, plan, groups, group_count, threads); });    \
  }
#include "onepass/updates.def"
#undef ONEPASS_UPDATE
