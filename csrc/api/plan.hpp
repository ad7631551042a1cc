// A plan of an update: tensors that were checked once, and what a step needs to know of them.
#pragma once

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "api/arrays.hpp"
#include "kernels/table.hpp"

namespace onepass::api {

struct OwnedArray {  // an array whose shape and strides live here
  onepass_array view = {nullptr, nullptr, nullptr, -1, 0};
  std::vector<std::int64_t> numbers;
  Extent bytes;

  void assign(const onepass_array& a);
  bool present() const { return view.ndim >= 0; }
};

// Where a tensor's arrays stand among the operands of its layout; -1: not there. States in blocks have no layout.
struct Operands {
  int states = 2, lower = -1, copy = -1;
  std::array<int, ONEPASS_MAX_AVERAGES> averages = {};
};

struct PlannedTensor {
  OwnedArray param, grad, lower, copy;
  std::array<OwnedArray, ONEPASS_MAX_STATES> states;
  std::array<OwnedArray, ONEPASS_MAX_AVERAGES> averages;
  std::int32_t group = 0;
  std::int64_t size = 0;
  std::int64_t grain = 0;          // elements: threads meet at multiples of it
  std::int64_t bytes = 0;          // moved by a step, without averages
  bool active = false;             // has a gradient
  bool flat = false;               // states in blocks; param and grad are float32, or both bfloat16, flat and dense
  bool blocks = false;             // states in 8-bit blocks
  std::unique_ptr<Layout> layout;  // of param, grad, states (unless in blocks), lower, copy, averages
  Operands operand;
  const OwnedArray* arrays[Layout::kMaxOperands] = {};  // the layout's
  bool direct = false;      // param, grad and states are as computed, without gaps along the innermost axis
  bool bfloat16 = false;    // flat and dense: float32 with states in bfloat16
  double sums[kSums] = {};  // of the last step, if the update makes any

  bool wide() const { return param.view.dtype == ONEPASS_FLOAT64; }  // computed in double
  std::int64_t grains() const { return (size + grain - 1) / grain; }
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

struct WrittenBytes {  // of one array that is written
  Extent bytes;
  std::intptr_t highest = 0;  // high of this one and of all before it
};

struct alignas(kRuleAlignment) AdjustedRule {  // a tensor's own
  char bytes[kRuleBytes] = {};
};

struct Average {  // what happens to averages[i] of all tensors
  double weight = 0.0;
  bool write_back = false;
  bool active() const { return weight != 0.0 || write_back; }
};

inline std::string tensor_name(const char* what, std::size_t i, std::size_t count) {
  return count == 1 ? what : std::string(what) + "[" + std::to_string(i) + "]";
}

}  // namespace onepass::api

struct onepass_plan {
  onepass_update update;
  std::vector<onepass::api::PlannedTensor> tensors;
  std::vector<onepass::api::WrittenBytes> written;        // of all tensors, the lowest first
  std::vector<onepass::api::Rules> rules;                 // per group; kept for the next step
  std::vector<onepass::api::AdjustedRule> adjusted;       // per tensor, of rules that need sums
  std::vector<std::array<double, onepass::kSums>> parts;  // sums over parts of tensors
  std::array<onepass::api::Average, ONEPASS_MAX_AVERAGES> averages = {};
  bool stochastic = false;
  std::uint64_t seed = 0;
};
