// Plans: tensors are checked here, before anything is written.
#include "api/plan.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "api/staged.hpp"

namespace onepass::api {

void OwnedArray::assign(const onepass_array& a) {
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

namespace {

constexpr std::int64_t kGrainBytes = 64;  // of the param: threads meet at multiples of a cache line

const onepass_update_info& info_of(const onepass_plan& plan) { return *onepass_update_registry(plan.update); }

bool given(const onepass_array& a) { return a.ndim >= 0 && a.data != nullptr; }

// Every array of a tensor that is written, with its name.
template <typename Visit>
void for_written(const onepass_plan& plan, const PlannedTensor& t, Visit&& visit) {
  const onepass_update_info& info = info_of(plan);
  visit(t.param, "param");
  for (std::size_t k = 0; k < info.state_count; ++k) visit(t.states[k], info.states[k]);
  if (t.lower.present()) visit(t.lower, "lower");
  if (t.copy.present()) visit(t.copy, "copy");
  for (const OwnedArray& average : t.averages)
    if (average.present()) visit(average, "average");
}

// The layout of all arrays, and which of the fast ways through it there are.
void lay_out(const onepass_plan& plan, PlannedTensor& t) {
  const std::size_t state_count = info_of(plan).state_count;
  const onepass_array* views[Layout::kMaxOperands];
  int count = 0;
  const auto add = [&](const OwnedArray& a) {
    t.arrays[count] = &a;
    views[count] = &a.view;
    return count++;
  };
  add(t.param);
  add(t.grad);
  if (!t.blocks)
    for (std::size_t k = 0; k < state_count; ++k) add(t.states[k]);
  t.operand.lower = t.lower.present() ? add(t.lower) : -1;
  t.operand.copy = t.copy.present() ? add(t.copy) : -1;
  for (std::size_t i = 0; i < t.averages.size(); ++i)
    t.operand.averages[i] = t.averages[i].present() ? add(t.averages[i]) : -1;
  t.layout = std::make_unique<Layout>(views, count);

  const auto stored = [&](int k, std::int32_t dtype) {
    return views[k]->dtype == dtype && t.layout->dense(k, itemsize(dtype));
  };
  const std::int32_t computed = t.wide() ? ONEPASS_FLOAT64 : ONEPASS_FLOAT32;
  const bool alone = !t.lower.present() && !t.copy.present(), plain = alone && !t.blocks;
  const auto both = [&](std::int32_t dtype) { return stored(0, dtype) && stored(1, dtype); };
  t.flat = alone && t.blocks && t.layout->ndim == 1 && (both(ONEPASS_FLOAT32) || both(ONEPASS_BFLOAT16));
  t.direct = plain;
  t.bfloat16 = plain && state_count > 0 && t.layout->ndim == 1 && both(ONEPASS_FLOAT32);
  for (int k = 0; plain && k < 2 + static_cast<int>(state_count); ++k) {
    t.direct = t.direct && stored(k, computed);
    t.bfloat16 = t.bfloat16 && (k < 2 || stored(k, ONEPASS_BFLOAT16));
  }
  t.bytes = itemsize(t.grad.view.dtype) * t.size;
  for_written(plan, t, [&](const OwnedArray& a, const char*) {
    t.bytes += (&a == &t.copy ? 1 : 2) * itemsize(a.view.dtype) * elements(a.view);
  });
}

void sort_written(onepass_plan& plan) {
  for (const PlannedTensor& t : plan.tensors)
    for_written(plan, t, [&](const OwnedArray& a, const char*) { plan.written.push_back({a.bytes}); });
  std::sort(plan.written.begin(), plan.written.end(),
            [](const WrittenBytes& a, const WrittenBytes& b) { return a.bytes.low < b.bytes.low; });
  std::intptr_t highest = std::numeric_limits<std::intptr_t>::min();
  for (WrittenBytes& w : plan.written) w.highest = highest = std::max(highest, w.bytes.high);
}

// Whether a gradient that was checked and laid out has only another address.
bool only_moved(const OwnedArray& own, const onepass_array& grad) {
  const onepass_array& known = own.view;
  bool same = own.present() && known.dtype == grad.dtype && known.ndim == grad.ndim && grad.data != nullptr &&
              reinterpret_cast<std::uintptr_t>(grad.data) % static_cast<std::uintptr_t>(itemsize(grad.dtype)) == 0;
  for (int axis = 0; same && axis < grad.ndim; ++axis)
    same = known.shape[axis] == grad.shape[axis] && known.strides[axis] == stride(grad, axis);
  return same;
}

// Whether bytes may lie among those that are written; gaps of views count as theirs.
bool may_meet_written(const onepass_plan& plan, const Extent& bytes) {
  const auto after = std::lower_bound(plan.written.begin(), plan.written.end(), bytes.high,
                                      [](const WrittenBytes& w, std::intptr_t high) { return w.bytes.low < high; });
  return after != plan.written.begin() && std::prev(after)->highest > bytes.low;
}

onepass_status set_grad(onepass_plan& plan, std::size_t i, const onepass_array* grad) {
  PlannedTensor& t = plan.tensors[i];
  if (grad == nullptr || grad->ndim < 0) {
    t.active = false;
    return ONEPASS_OK;
  }
  if (only_moved(t.grad, *grad)) {
    const Extent bytes = extent(*grad);
    if (!may_meet_written(plan, bytes)) {
      t.grad.view.data = grad->data;
      t.grad.bytes = bytes;
      t.active = true;
      return ONEPASS_OK;
    }
  }
  const std::size_t count = plan.tensors.size();
  const auto name = [&] { return tensor_name("grad", i, count); };
  ONEPASS_TRY(check_any_float(name().c_str(), grad));
  ONEPASS_TRY(check_shape_like(name().c_str(), *grad, tensor_name("param", i, count).c_str(), t.param.view));
  const Extent bytes = extent(*grad);
  onepass_status status = ONEPASS_OK;
  for (std::size_t j = 0; j < count; ++j)
    for_written(plan, plan.tensors[j], [&](const OwnedArray& other, const char* what) {
      if (status == ONEPASS_OK && bytes.meets(other.bytes))
        status = check_apart(name().c_str(), grad, tensor_name(what, j, count).c_str(), &other.view);
    });
  ONEPASS_TRY(status);
  t.grad.assign(*grad);
  lay_out(plan, t);
  t.active = true;
  return ONEPASS_OK;
}

onepass_status check_blocks(const char* name, const onepass_array& state, const char* param_name,
                            const PlannedTensor& t) {
  const std::int64_t bytes = onepass_blocks8_bytes(t.size);
  if (state.ndim != 1 || state.shape[0] != bytes)
    return fail(ONEPASS_INVALID_SHAPE,
                "%s: expected shape (%lld,) for the 8-bit blocks of %s with %lld elements, got %s", name,
                static_cast<long long>(bytes), param_name, static_cast<long long>(t.size), shape_text(state).c_str());
  ONEPASS_TRY(check_contiguous(name, state));
  if (reinterpret_cast<std::uintptr_t>(state.data) % sizeof(std::uint32_t) != 0)
    return fail(ONEPASS_INVALID_LAYOUT, "%s: 8-bit blocks must begin at a multiple of 4 bytes; copy it first", name);
  return ONEPASS_OK;
}

onepass_status check_state(const char* name, const onepass_array* state, const char* param_name,
                           const PlannedTensor& t) {
  ONEPASS_TRY(check_array(name, state));
  const std::int32_t dtype = state->dtype;
  const bool fits = t.wide() ? dtype == ONEPASS_FLOAT64
                             : dtype == ONEPASS_FLOAT32 || dtype == ONEPASS_BFLOAT16 || dtype == ONEPASS_BLOCKS8;
  if (!fits)
    return fail(ONEPASS_INVALID_DTYPE, "%s: expected %s beside a %s %s, got %s; convert it first", name,
                t.wide() ? "float64" : "float32, bfloat16 or 8-bit blocks", type_name(t.param.view.dtype), param_name,
                type_name(dtype));
  if ((dtype == ONEPASS_BLOCKS8) != t.blocks)
    return fail(ONEPASS_INVALID_DTYPE, "%s: is %s; either all states of a tensor are in 8-bit blocks or none", name,
                type_name(dtype));
  if (t.blocks) return check_blocks(name, *state, param_name, t);
  return check_shape_like(name, *state, param_name, t.param.view);
}

// An array that may be absent, of one of two types.
onepass_status set_optional(const std::string& name, const onepass_array& a, const std::string& param_name,
                            const PlannedTensor& t, std::int32_t dtype, std::int32_t other, OwnedArray& own) {
  if (!given(a)) return ONEPASS_OK;
  ONEPASS_TRY(check_array(name.c_str(), &a));
  if (a.dtype != dtype && a.dtype != other)
    return fail(ONEPASS_INVALID_DTYPE, "%s: expected %s%s%s beside a %s %s, got %s", name.c_str(), type_name(dtype),
                other == dtype ? "" : " or ", other == dtype ? "" : type_name(other), type_name(t.param.view.dtype),
                param_name.c_str(), type_name(a.dtype));
  ONEPASS_TRY(check_shape_like(name.c_str(), a, param_name.c_str(), t.param.view));
  own.assign(a);
  return ONEPASS_OK;
}

onepass_status set_tensor(const onepass_update_info& info, const onepass_update_tensor& given_tensor, std::size_t i,
                          std::size_t count, PlannedTensor& t) {
  const std::string name = tensor_name("param", i, count);
  ONEPASS_TRY(check_any_float(name.c_str(), &given_tensor.param));
  t.param.assign(given_tensor.param);
  t.size = elements(given_tensor.param);
  t.blocks =
      info.state_count > 0 && present(&given_tensor.states[0]) && given_tensor.states[0].dtype == ONEPASS_BLOCKS8;
  for (std::size_t k = 0; k < info.state_count; ++k) {
    ONEPASS_TRY(check_state(tensor_name(info.states[k], i, count).c_str(), &given_tensor.states[k], name.c_str(), t));
    t.states[k].assign(given_tensor.states[k]);
  }
  const auto optional = [&](const char* what, const onepass_array& a, std::int32_t dtype, std::int32_t other,
                            OwnedArray& own) {
    return set_optional(tensor_name(what, i, count), a, name, t, dtype, other, own);
  };
  if (given(given_tensor.lower) && t.param.view.dtype != ONEPASS_BFLOAT16)
    return fail(ONEPASS_INVALID_DTYPE, "%s: lower halves belong to a bfloat16 %s, which is %s",
                tensor_name("lower", i, count).c_str(), name.c_str(), type_name(t.param.view.dtype));
  ONEPASS_TRY(optional("lower", given_tensor.lower, ONEPASS_UINT16, ONEPASS_UINT16, t.lower));
  if (given(given_tensor.copy) && t.wide())
    return fail(ONEPASS_INVALID_DTYPE, "%s: a copy in fewer bits is made of float32, but %s is float64",
                tensor_name("copy", i, count).c_str(), name.c_str());
  ONEPASS_TRY(optional("copy", given_tensor.copy, ONEPASS_FLOAT16, ONEPASS_BFLOAT16, t.copy));
  const std::int32_t computed = t.wide() ? ONEPASS_FLOAT64 : ONEPASS_FLOAT32;
  for (std::size_t k = 0; k < t.averages.size(); ++k)
    ONEPASS_TRY(optional("average", given_tensor.averages[k], computed, computed, t.averages[k]));
  t.group = given_tensor.group;
  t.grain = t.blocks ? kBlockElements : kGrainBytes / itemsize(given_tensor.param.dtype);
  return ONEPASS_OK;
}

// No two elements that are written may share memory.
onepass_status check_written_apart(const onepass_plan& plan) {
  struct Written {
    const OwnedArray* array;
    const char* what;
    std::size_t tensor;
  };
  std::vector<Written> written;
  const std::size_t count = plan.tensors.size();
  for (std::size_t i = 0; i < count; ++i)
    for_written(plan, plan.tensors[i], [&](const OwnedArray& a, const char* what) {
      written.push_back({&a, what, i});
    });
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

onepass_status check_tensor(const onepass_plan* plan, std::size_t i) {
  if (plan == nullptr || i >= plan->tensors.size())
    return fail(ONEPASS_INVALID_VALUE, "plan: is null or has no tensor %zu", i);
  return ONEPASS_OK;
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

int64_t onepass_blocks8_bytes(int64_t elements) { return block_count(elements) * (kBlockElements + 1); }

onepass_status onepass_plan_create(onepass_update update, const onepass_update_tensor* tensors, size_t count,
                                   onepass_plan** result) {
  return guarded([&]() -> onepass_status {
    if (result == nullptr || (tensors == nullptr && count > 0))
      return fail(ONEPASS_INVALID_VALUE, "plan or tensors: is null");
    *result = nullptr;
    if (onepass_update_registry(update) == nullptr)
      return fail(ONEPASS_INVALID_VALUE, "update: unknown code %d", static_cast<int>(update));
    auto plan = std::make_unique<onepass_plan>();
    plan->update = update;
    plan->tensors.resize(count);
    for (std::size_t i = 0; i < count; ++i)
      ONEPASS_TRY(set_tensor(*onepass_update_registry(update), tensors[i], i, count, plan->tensors[i]));
    ONEPASS_TRY(check_written_apart(*plan));
    sort_written(*plan);
    for (std::size_t i = 0; i < count; ++i) ONEPASS_TRY(set_grad(*plan, i, &tensors[i].grad));
    *result = plan.release();
    return ONEPASS_OK;
  });
}

onepass_status onepass_plan_set_grad(onepass_plan* plan, size_t i, const onepass_array* grad) {
  return guarded([&]() -> onepass_status {
    ONEPASS_TRY(check_tensor(plan, i));
    return set_grad(*plan, i, grad);
  });
}

onepass_status onepass_plan_set_group(onepass_plan* plan, size_t i, int32_t group) {
  ONEPASS_TRY(check_tensor(plan, i));
  plan->tensors[i].group = group;
  return ONEPASS_OK;
}

onepass_status onepass_plan_set_rounding(onepass_plan* plan, int32_t stochastic, uint64_t seed) {
  if (plan == nullptr) return fail(ONEPASS_INVALID_VALUE, "plan: is null");
  plan->stochastic = stochastic != 0;
  plan->seed = seed;
  return ONEPASS_OK;
}

onepass_status onepass_plan_set_average(onepass_plan* plan, int32_t i, double weight, int32_t write_back) {
  if (plan == nullptr || i < 0 || i >= ONEPASS_MAX_AVERAGES)
    return fail(ONEPASS_INVALID_VALUE, "plan: is null, or there is no average %d", i);
  if (!(weight >= 0.0 && weight <= 1.0))
    return fail(ONEPASS_INVALID_VALUE, "weight: expected a number in [0, 1], got %g", weight);
  plan->averages[static_cast<std::size_t>(i)] = {weight, write_back != 0};
  return ONEPASS_OK;
}

onepass_status onepass_plan_sums(const onepass_plan* plan, size_t i, double* sums) {
  ONEPASS_TRY(check_tensor(plan, i));
  if (sums == nullptr) return fail(ONEPASS_INVALID_VALUE, "sums: is null");
  std::memcpy(sums, plan->tensors[i].sums, sizeof(plan->tensors[i].sums));
  return ONEPASS_OK;
}

void onepass_plan_destroy(onepass_plan* plan) { delete plan; }
