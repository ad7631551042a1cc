// One step of an optimizer over n tensors, in place.
//
// operands    scalars (step first, integer; others float32 or float64), n params, n grads, then n of each state
// results     n params, then n of each state; each in the memory of its operand
//             with from_zero: no params among the operands, and results that begin as zeros
// attributes  update: name in the registry
//             values: float64 (groups, columns); columns: step, grad_scale, max_value, maximize, then the registry's
//             traced: int64 (k, 3) of scalar operand, group, column: which values the operands give
//             group_of: int64 (n)
//             from_zero: 0 or 1
//             elementwise: 1 if a step may take all copies of a vmap at once
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "xla/call.hpp"
#include "xla/handlers.hpp"

namespace onepass::xla {
namespace {

constexpr std::size_t kCommon = 4;  // columns of every update
constexpr std::size_t kTraced = 3;  // numbers of an entry
// A plan compares its arrays in pairs. XLA has seen to it that none overlap; so many at a time cost next to nothing.
constexpr std::size_t kTensors = 32;

onepass_update find_update(std::string_view name) {
  for (int i = 0; i < ONEPASS_UPDATE_COUNT; ++i)
    if (onepass_update_registry(static_cast<onepass_update>(i))->name == name) return static_cast<onepass_update>(i);
  throw Failure(abi::ErrorCode::invalid_argument, "onepass: there is no update " + std::string(name));
}

double value_at(const abi::Buffer& b, std::int64_t i) {
  switch (b.type) {
    case abi::Type::f32: return static_cast<double>(static_cast<const float*>(b.data)[i]);
    case abi::Type::f64: return static_cast<const double*>(b.data)[i];
    case abi::Type::s32: return static_cast<const std::int32_t*>(b.data)[i];
    case abi::Type::s64: return static_cast<double>(static_cast<const std::int64_t*>(b.data)[i]);
    default: throw Failure(abi::ErrorCode::internal, "onepass: a scalar of an unexpected type");
  }
}

struct Common {  // what every hyperparameter struct begins with
  std::int64_t step;
  double grad_scale, max_value;
  std::int32_t maximize;
};

// A row of values as the update's struct.
void write_hyper(const onepass_update_info& info, const double* row, char* to) {
  const Common common = {static_cast<std::int64_t>(row[0]), row[1], row[2], row[3] != 0.0};
  std::memcpy(to, &common, offsetof(Common, maximize) + sizeof(common.maximize));
  for (std::size_t k = 0; k < info.field_count; ++k) {
    const onepass_field& field = info.fields[k];
    const double value = row[kCommon + k];
    const std::int32_t flag = value != 0.0;
    if (field.flag != 0)
      std::memcpy(to + field.offset, &flag, sizeof(flag));
    else
      std::memcpy(to + field.offset, &value, sizeof(value));
  }
}

struct Destroy {
  void operator()(onepass_plan* plan) const { onepass_plan_destroy(plan); }
};

class Step {
 public:
  explicit Step(const Call& call)
      : call_(call),
        update_(find_update(call.text("update"))),
        info_(*onepass_update_registry(update_)),
        values_(call.reals("values")),
        traced_(call.integers("traced")),
        group_of_(call.integers("group_of")),
        columns_(kCommon + info_.field_count) {
    params_ = call.integer("from_zero") != 0 ? 0 : group_of_.size();
    const std::size_t arrays = params_ + group_of_.size() * (1 + info_.state_count);
    scalars_ = call.inputs() - arrays;
    if (call.inputs() <= arrays || values_.size() % columns_ != 0)
      throw Failure(abi::ErrorCode::internal, "onepass: operands and attributes of an update do not fit");
    call.expect(scalars_ + arrays, group_of_.size() * (1 + info_.state_count));
  }

  void run() const {
    const std::int64_t copies = element_count(call_.input(0));
    for (std::size_t i = 0; i < group_of_.size(); ++i)
      for (std::size_t k = params_ == 0 ? 1 : 0; k <= info_.state_count; ++k) start_from(operand(i, k), result(i, k));
    if (params_ == 0) set_zero();
    if (copies > 0 && call_.integer("elementwise") != 0 && scalars_agree(copies)) {
      run_copy(1, 0);
      return;
    }
    for (std::int64_t copy = 0; copy < copies; ++copy) run_copy(copies, copy);
  }

 private:
  // k = 0: the param; else its state k - 1
  const abi::Buffer& operand(std::size_t tensor, std::size_t k) const {
    return call_.input(scalars_ + tensor + (k == 0 ? 0 : params_ + k * group_of_.size()));
  }
  const abi::Buffer& result(std::size_t tensor, std::size_t k) const {
    return call_.output(tensor + k * group_of_.size());
  }
  const abi::Buffer& grad(std::size_t tensor) const { return call_.input(scalars_ + params_ + tensor); }

  void set_zero() const {
    std::vector<std::int64_t> sizes(group_of_.size());
    std::vector<onepass_array> views(group_of_.size());
    for (std::size_t i = 0; i < views.size(); ++i) {
      sizes[i] = element_count(result(i, 0));
      views[i] = part_of(result(i, 0), 1, 0, {&sizes[i], 1});
    }
    raise_if(onepass_zero(views.data(), views.size(), 0));
  }

  bool scalars_agree(std::int64_t copies) const {
    for (std::size_t s = 0; s < scalars_; ++s)
      for (std::int64_t i = 1; i < copies; ++i)
        if (value_at(call_.input(s), i) != value_at(call_.input(s), 0)) return false;
    return true;
  }

  std::vector<char> hypers(std::int64_t copy) const {
    std::vector<double> values(values_.begin(), values_.end());
    for (std::size_t t = 0; t + kTraced <= traced_.size(); t += kTraced)
      values.at(static_cast<std::size_t>(traced_[t + 1]) * columns_ + static_cast<std::size_t>(traced_[t + 2])) =
          value_at(call_.input(static_cast<std::size_t>(traced_[t])), copy);
    const std::size_t groups = values.size() / columns_;
    std::vector<char> rows(groups * info_.hyper_size);
    for (std::size_t g = 0; g < groups; ++g)
      write_hyper(info_, values.data() + g * columns_, rows.data() + g * info_.hyper_size);
    return rows;
  }

  void run_copy(std::int64_t copies, std::int64_t copy) const {
    const std::vector<char> rows = hypers(copy);
    for (std::size_t begin = 0; begin < group_of_.size(); begin += kTensors)
      run_tensors(copies, copy, begin, std::min(begin + kTensors, group_of_.size()), rows);
  }

  void run_tensors(std::int64_t copies, std::int64_t copy, std::size_t begin, std::size_t end,
                   const std::vector<char>& rows) const {
    std::vector<std::int64_t> sizes(end - begin);
    std::vector<onepass_update_tensor> tensors(end - begin);  // all of them flat: no rule looks at shapes
    for (std::size_t i = begin; i < end; ++i) {
      sizes[i - begin] = element_count(result(i, 0)) / copies;
      const std::span<const std::int64_t> shape(&sizes[i - begin], 1);
      onepass_update_tensor& tensor = tensors[i - begin];
      tensor.param = part_of(result(i, 0), copies, copy, shape);
      tensor.grad = part_of(grad(i), copies, copy, shape);
      for (std::size_t k = 0; k < info_.state_count; ++k)
        tensor.states[k] = part_of(result(i, 1 + k), copies, copy, shape);
      tensor.group = static_cast<std::int32_t>(group_of_[i]);
      tensor.lower = tensor.copy = tensor.averages[0] = tensor.averages[1] = absent();
    }
    onepass_plan* created = nullptr;
    raise_if(onepass_plan_create(update_, tensors.data(), tensors.size(), &created));
    const std::unique_ptr<onepass_plan, Destroy> plan(created);
    raise_if(info_.run(created, rows.data(), rows.size() / info_.hyper_size, 0));
  }

  const Call& call_;
  onepass_update update_;
  const onepass_update_info& info_;
  std::span<const double> values_;
  std::span<const std::int64_t> traced_, group_of_;
  std::size_t columns_, scalars_, params_;  // params_: how many there are among the operands
};

}  // namespace

abi::Error* update(abi::Frame* frame) {
  return run(frame, [](const Call& call) { Step(call).run(); });
}

}  // namespace onepass::xla
