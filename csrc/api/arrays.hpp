// What the C ABI's arrays are checked with, and how strided ones are walked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <string>

#include "onepass/onepass.h"
#include "runtime/error.hpp"
#include "runtime/host.hpp"

namespace onepass::api {

using runtime::fail;

inline bool present(const onepass_array* a) { return a != nullptr && a->ndim >= 0; }
inline bool is_float(std::int32_t dtype) { return dtype == ONEPASS_FLOAT32 || dtype == ONEPASS_FLOAT64; }
inline bool is_any_float(std::int32_t dtype) {
  return is_float(dtype) || dtype == ONEPASS_FLOAT16 || dtype == ONEPASS_BFLOAT16;
}
inline bool is_narrow(std::int32_t dtype) { return dtype == ONEPASS_FLOAT16 || dtype == ONEPASS_BFLOAT16; }
// The type that a dtype is computed in, and that parameters and statistics beside it have.
inline std::int32_t computed_dtype(std::int32_t dtype) {
  return dtype == ONEPASS_FLOAT64 ? ONEPASS_FLOAT64 : ONEPASS_FLOAT32;
}
std::int64_t itemsize(std::int32_t dtype);  // 0: unknown
const char* type_name(std::int32_t dtype);
std::int64_t elements(const onepass_array& a);
std::int64_t stride(const onepass_array& a, int axis);  // bytes
bool is_contiguous(const onepass_array& a);             // in C order
bool same_shape(const onepass_array& a, const onepass_array& b);
bool same_view(const onepass_array& a, const onepass_array& b);  // same elements at the same places
// The bytes from the first to one behind the last element, gaps included.
struct Extent {
  std::intptr_t low = 0, high = 0;
  bool meets(const Extent& other) const { return low < other.high && other.low < high; }
};
Extent extent(const onepass_array& a);
// Do any two elements share a byte? Exact for every pair of views.
bool overlap(const onepass_array& a, const onepass_array& b);
bool overlaps_itself(const onepass_array& a);
std::string shape_text(const onepass_array& a);                     // "(3, 4)"
std::string describe(const onepass_array& a);                       // "float32 (3, 4)"
std::string index_text(const onepass_array& a, std::int64_t flat);  // "[1, 2]" of the flat C-order index

// Checks, each naming the argument. ONEPASS_OK or the failure.
onepass_status check_array(const char* name, const onepass_array* a);      // there, known dtype, sane, aligned
onepass_status check_float(const char* name, const onepass_array* a);      // and float32 or float64
onepass_status check_any_float(const char* name, const onepass_array* a);  // or float16 or bfloat16
onepass_status check_contiguous(const char* name, const onepass_array& a);
onepass_status check_shape_like(const char* name, const onepass_array& a, const char* model_name,
                                const onepass_array& model);
onepass_status check_like(const char* name, const onepass_array* a, const char* model_name, const onepass_array& model);
onepass_status check_vector(const char* name, const onepass_array* a, std::int64_t n, std::int32_t dtype);
onepass_status check_apart(const char* name, const onepass_array* a, const char* other_name, const onepass_array* b);
// the same view or nothing shared
onepass_status check_in_place(const char* name, const onepass_array& a, const char* other_name, const onepass_array& b);
// An argument, maybe absent, and how it is called.
struct Named {
  const char* name;
  const onepass_array* array;
};
// What is written: its elements share no memory, nor with any of the others.
onepass_status check_written(const Named& written, std::initializer_list<Named> others = {});
onepass_status check_eps(double eps);
onepass_status check_threads(std::int32_t threads);

#define ONEPASS_TRY(expression)                                                             \
  do {                                                                                      \
    if (const onepass_status status_ = (expression); status_ != ONEPASS_OK) return status_; \
  } while (false)

// Runs the body of an ABI function: nothing is thrown across it.
template <typename F>
onepass_status guarded(F&& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return fail(ONEPASS_NO_MEMORY, "out of memory");
  } catch (const runtime::HostFailure&) {
    return fail(ONEPASS_INVALID_VALUE, "parallel_for: returned before all tasks had run, each once");
  } catch (...) {
    return fail(ONEPASS_INVALID_VALUE, "internal error");
  }
}

template <typename F>
onepass_status with_float(std::int32_t dtype, F&& body) {
  return dtype == ONEPASS_FLOAT32 ? body(float{}) : body(double{});
}

inline std::int32_t computed_type(std::int32_t dtype) {
  return dtype == ONEPASS_FLOAT64 ? ONEPASS_FLOAT64 : ONEPASS_FLOAT32;
}
// Calls body with a number of the type that a dtype is computed in.
template <typename F>
onepass_status with_computed(std::int32_t dtype, F&& body) {
  return dtype == ONEPASS_FLOAT64 ? body(double{}) : body(float{});
}

enum class Order { memory, c };

// Several arrays of one shape, their axes sorted by the first one's strides (or as they are) and merged where all of
// them allow it.
struct Layout {
  static constexpr int kMaxOperands = 4 + ONEPASS_MAX_STATES + ONEPASS_MAX_AVERAGES;
  int operands = 0;
  int ndim = 0;  // at least 1; the last axis is the innermost
  std::int64_t shape[ONEPASS_MAX_DIMENSIONS];
  std::int64_t strides[kMaxOperands][ONEPASS_MAX_DIMENSIONS];  // bytes

  Layout(const onepass_array* const* arrays, int count, Order order = Order::memory);
  bool dense(int operand, std::int64_t item) const;  // its innermost axis has no gaps

  // visit(offsets[operands], length) for each stretch along the innermost axis of elements [begin, end)
  template <typename Visit>
  void walk(std::int64_t begin, std::int64_t end, Visit&& visit) const {
    const int inner = ndim - 1;
    if (ndim == 1) {  // the common case, without divisions
      std::int64_t at[kMaxOperands] = {};
      for (int k = 0; k < operands; ++k) at[k] = begin * strides[k][0];
      if (begin < end) visit(at, end - begin);
      return;
    }
    while (begin < end) {
      std::int64_t rest = begin;
      std::int64_t at[kMaxOperands] = {};
      const std::int64_t column = rest % shape[inner];
      for (int axis = inner; axis >= 0; --axis) {
        const std::int64_t i = rest % shape[axis];
        rest /= shape[axis];
        for (int k = 0; k < operands; ++k) at[k] += i * strides[k][axis];
      }
      const std::int64_t left = shape[inner] - column;
      const std::int64_t length = left < end - begin ? left : end - begin;
      visit(at, length);
      begin += length;
    }
  }
};

}  // namespace onepass::api
