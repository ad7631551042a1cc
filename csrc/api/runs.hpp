// Elementwise work on arrays of one shape, in any storage format and with any strides: as dense runs of the type that
// is computed in, in the arrays themselves where they are such runs, else through buffers in the first-level cache.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "api/integers.hpp"
#include "api/staged.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {

struct Operand {
  const onepass_array* array;  // may be absent; integers only where it is read
  bool written;
};

// A transcendental function is taken to cost as much as moving so many times its bytes.
constexpr std::int64_t kTranscendental = 4;

// summed: runs are cut at multiples of kLossBlock elements whatever the strides, so that sums over them have the same
// bits for every layout of one order.
template <typename T, bool summed = false>
class Runs {
 public:
  static constexpr int kMost = 6;
  static constexpr std::int64_t kRun = summed ? kLossBlock : kStage;

  Runs(const KernelTable& table, std::initializer_list<Operand> operands, Order order = Order::memory)
      : codecs_(table.kernels<T>().codecs), list_(operands), layout_(list_.views, list_.present, order) {
    const std::int32_t computed = sizeof(T) == sizeof(double) ? ONEPASS_FLOAT64 : ONEPASS_FLOAT32;
    for (int k = 0; k < list_.count; ++k) {
      const Slot& slot = list_.slots[k];
      direct_[k] =
          slot.stored.operand < 0 || (slot.stored.dtype == computed && layout_.dense(slot.stored.operand, sizeof(T)));
      all_direct_ = all_direct_ && direct_[k];
    }
  }

  std::int64_t bytes() const { return list_.bytes; }

  // body(T* const* runs, first element, n) for runs that together are the elements [begin, end) in the layout's order;
  // runs[k] is null where operand k is absent.
  template <typename Body>
  void visit(std::int64_t begin, std::int64_t end, Body&& body) const {
    if (all_direct_ && layout_.ndim == 1) return body(pointers(begin).at, begin, end - begin);
    if (all_direct_ && !summed) return walk(begin, end, body);
    alignas(64) T buffer[kMost][kRun];
    for (std::int64_t at = begin; at < end; at += kRun) {
      const std::int64_t n = std::min(kRun, end - at);
      Pointers runs = pointers(at);
      for (int k = 0; k < list_.count; ++k) {
        if (in_place(k)) continue;
        runs.at[k] = buffer[k];
        if (!list_.slots[k].written) load(list_.slots[k].stored, at, at + n, buffer[k]);
      }
      body(runs.at, at, n);
      for (int k = 0; k < list_.count; ++k)
        if (!in_place(k) && list_.slots[k].written) store(list_.slots[k].stored, at, at + n, buffer[k]);
    }
  }

  // The same of n elements in parallel, in pieces of whole cache lines. work: the cost in bytes moved, bytes() at
  // least.
  template <typename Body>
  void visit_all(std::int64_t n, std::int64_t work, std::int32_t threads, Body&& body) const {
    constexpr std::int64_t kGrain = 64;  // a line or more of any type
    const std::int64_t grains = (n + kGrain - 1) / kGrain;
    runtime::parallel(runtime::team_size(threads, grains, work), grains, [&](std::int64_t begin, std::int64_t end) {
      visit(begin * kGrain, std::min(end * kGrain, n), body);
    });
  }

 private:
  struct Slot {
    Stored stored = {nullptr, 0, -1};  // operand -1: absent
    bool written = false;
  };
  struct List {
    const onepass_array* views[kMost] = {};
    Slot slots[kMost];
    int count = 0, present = 0;
    std::int64_t bytes = 0;

    explicit List(std::initializer_list<Operand> operands) {
      for (const Operand& o : operands) {
        Slot& slot = slots[count++];
        slot.written = o.written;
        if (!api::present(o.array)) continue;
        slot.stored = {static_cast<char*>(o.array->data), o.array->dtype, present};
        views[present++] = o.array;
        bytes += elements(*o.array) * itemsize(o.array->dtype);
      }
    }
  };
  struct Pointers {
    T* at[kMost] = {};
  };

  bool in_place(int k) const { return list_.slots[k].stored.operand < 0 || (direct_[k] && layout_.ndim == 1); }

  Pointers pointers(std::int64_t begin) const {
    Pointers p;
    for (int k = 0; k < list_.count; ++k)
      if (list_.slots[k].stored.operand >= 0 && in_place(k))
        p.at[k] = reinterpret_cast<T*>(list_.slots[k].stored.data) + begin;
    return p;
  }

  template <typename Body>
  void walk(std::int64_t begin, std::int64_t end, Body&& body) const {
    layout_.walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
      Pointers p;
      for (int k = 0; k < list_.count; ++k) {
        const Stored& a = list_.slots[k].stored;
        if (a.operand >= 0) p.at[k] = reinterpret_cast<T*>(a.data + at[a.operand]);
      }
      body(p.at, begin, length);
      begin += length;
    });
  }

  void load(const Stored& a, std::int64_t begin, std::int64_t end, T* to) const {
    if (!is_any_float(a.dtype)) {
      const std::int64_t step = layout_.strides[a.operand][layout_.ndim - 1];
      layout_.walk(begin, end, [&](const std::int64_t* at, std::int64_t length) {
        load_integers(a.data + at[a.operand], step, a.dtype, to, length);
        to += length;
      });
      return;
    }
    for (; begin < end; begin += kStage, to += kStage)
      stage_in(codecs_, layout_, a, begin, std::min(begin + kStage, end), to);
  }
  void store(const Stored& a, std::int64_t begin, std::int64_t end, const T* from) const {
    for (; begin < end; begin += kStage, from += kStage)
      stage_out(codecs_, layout_, a, begin, std::min(begin + kStage, end), from, nullptr, 0);
  }

  const Codecs<T>& codecs_;
  List list_;
  Layout layout_;
  bool direct_[kMost] = {};
  bool all_direct_ = true;
};

}  // namespace onepass::api
