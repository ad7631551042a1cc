#include "api/arrays.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

namespace onepass::api {
namespace {

struct Type {
  std::int32_t dtype;
  std::int64_t size;
  const char* name;
};
constexpr Type kTypes[] = {
    {ONEPASS_FLOAT32, 4, "float32"},   {ONEPASS_FLOAT64, 8, "float64"},      {ONEPASS_FLOAT16, 2, "float16"},
    {ONEPASS_BFLOAT16, 2, "bfloat16"}, {ONEPASS_BLOCKS8, 1, "8-bit blocks"}, {ONEPASS_INT8, 1, "int8"},
    {ONEPASS_UINT8, 1, "uint8"},       {ONEPASS_INT16, 2, "int16"},          {ONEPASS_UINT16, 2, "uint16"},
    {ONEPASS_INT32, 4, "int32"},       {ONEPASS_UINT32, 4, "uint32"},        {ONEPASS_INT64, 8, "int64"},
    {ONEPASS_UINT64, 8, "uint64"},
};

template <typename Visit>
void for_each_offset(const onepass_array& a, Visit&& visit) {
  const onepass_array* arrays[] = {&a};
  const Layout layout(arrays, 1);
  const std::int64_t step = layout.strides[0][layout.ndim - 1];
  layout.walk(0, elements(a), [&](const std::int64_t* at, std::int64_t length) {
    for (std::int64_t i = 0; i < length; ++i) visit(at[0] + i * step);
  });
}

}  // namespace

const char* type_name(std::int32_t dtype) {
  for (const Type& t : kTypes)
    if (t.dtype == dtype) return t.name;
  return "unknown type";
}

std::int64_t itemsize(std::int32_t dtype) {
  for (const Type& t : kTypes)
    if (t.dtype == dtype) return t.size;
  return 0;
}

std::int64_t elements(const onepass_array& a) {
  std::int64_t n = 1;
  for (int axis = 0; axis < a.ndim; ++axis) n *= a.shape[axis];
  return n;
}

std::int64_t stride(const onepass_array& a, int axis) {
  if (a.strides != nullptr) return a.strides[axis];
  std::int64_t s = itemsize(a.dtype);
  for (int i = a.ndim - 1; i > axis; --i) s *= a.shape[i];
  return s;
}

Extent extent(const onepass_array& a) {
  const auto start = reinterpret_cast<std::intptr_t>(a.data);
  if (elements(a) == 0) return {start, start};
  Extent e = {start, start + itemsize(a.dtype)};
  for (int axis = 0; axis < a.ndim; ++axis) {
    const std::int64_t reach = (a.shape[axis] - 1) * stride(a, axis);
    (reach < 0 ? e.low : e.high) += reach;
  }
  return e;
}

bool is_contiguous(const onepass_array& a) {
  std::int64_t expected = itemsize(a.dtype);
  for (int axis = a.ndim - 1; axis >= 0; --axis) {
    if (a.shape[axis] != 1 && stride(a, axis) != expected) return elements(a) == 0;
    expected *= a.shape[axis];
  }
  return true;
}

bool same_shape(const onepass_array& a, const onepass_array& b) {
  return a.ndim == b.ndim && std::equal(a.shape, a.shape + a.ndim, b.shape);
}

bool same_view(const onepass_array& a, const onepass_array& b) {
  if (a.data != b.data || a.dtype != b.dtype || !same_shape(a, b)) return false;
  for (int axis = 0; axis < a.ndim; ++axis)
    if (a.shape[axis] > 1 && stride(a, axis) != stride(b, axis)) return false;
  return true;
}

bool overlap(const onepass_array& a, const onepass_array& b) {
  const Extent ea = extent(a), eb = extent(b);
  const std::intptr_t low = std::max(ea.low, eb.low), high = std::min(ea.high, eb.high);
  if (low >= high) return false;
  if (is_contiguous(a) && is_contiguous(b)) return true;
  // views that interleave: mark the bytes of one, look for those of the other
  std::vector<bool> touched(static_cast<std::size_t>(high - low));
  const std::int64_t size_a = itemsize(a.dtype), size_b = itemsize(b.dtype);
  const auto base_a = reinterpret_cast<std::intptr_t>(a.data), base_b = reinterpret_cast<std::intptr_t>(b.data);
  for_each_offset(a, [&](std::int64_t at) {
    for (std::intptr_t byte = base_a + at; byte < base_a + at + size_a; ++byte)
      if (byte >= low && byte < high) touched[static_cast<std::size_t>(byte - low)] = true;
  });
  bool found = false;
  for_each_offset(b, [&](std::int64_t at) {
    for (std::intptr_t byte = base_b + at; byte < base_b + at + size_b; ++byte)
      found = found || (byte >= low && byte < high && touched[static_cast<std::size_t>(byte - low)]);
  });
  return found;
}

bool overlaps_itself(const onepass_array& a) {
  if (elements(a) < 2) return false;
  const onepass_array* arrays[] = {&a};
  const Layout layout(arrays, 1);
  std::int64_t reach = itemsize(a.dtype);  // bytes that the axes inside span
  bool nested = true;
  for (int axis = layout.ndim - 1; axis >= 0; --axis) {
    const std::int64_t step = std::abs(layout.strides[0][axis]);
    nested = nested && step >= reach;
    reach = step * (layout.shape[axis] - 1) + reach;
  }
  if (nested) return false;
  const Extent e = extent(a);
  const auto base = reinterpret_cast<std::intptr_t>(a.data);
  std::vector<bool> touched(static_cast<std::size_t>(e.high - e.low));
  bool found = false;
  for_each_offset(a, [&](std::int64_t at) {
    for (std::int64_t i = 0; i < itemsize(a.dtype); ++i) {
      const auto byte = static_cast<std::size_t>(base + at + i - e.low);
      found = found || touched[byte];
      touched[byte] = true;
    }
  });
  return found;
}

std::string shape_text(const onepass_array& a) {
  std::string s = "(";
  for (int axis = 0; axis < a.ndim; ++axis) s += (axis ? ", " : "") + std::to_string(a.shape[axis]);
  return s + (a.ndim == 1 ? ",)" : ")");
}

std::string describe(const onepass_array& a) { return std::string(type_name(a.dtype)) + " " + shape_text(a); }

std::string index_text(const onepass_array& a, std::int64_t flat) {
  std::string s = "]";
  for (int axis = a.ndim - 1; axis >= 0; --axis) {
    s = (axis ? ", " : "[") + std::to_string(flat % a.shape[axis]) + s;
    flat /= a.shape[axis];
  }
  return s;
}

onepass_status check_array(const char* name, const onepass_array* a) {
  if (!present(a)) return fail(ONEPASS_INVALID_VALUE, "%s: is missing", name);
  if (itemsize(a->dtype) == 0) return fail(ONEPASS_INVALID_DTYPE, "%s: unknown dtype code %d", name, a->dtype);
  if (a->ndim > ONEPASS_MAX_DIMENSIONS)
    return fail(ONEPASS_INVALID_SHAPE, "%s: has %d dimensions, at most %d are supported", name, a->ndim,
                ONEPASS_MAX_DIMENSIONS);
  if (a->ndim > 0 && a->shape == nullptr) return fail(ONEPASS_INVALID_VALUE, "%s: shape is null", name);
  std::int64_t n = 1;
  for (int axis = 0; axis < a->ndim; ++axis)
    if (a->shape[axis] < 0 || __builtin_mul_overflow(n, a->shape[axis], &n))
      return fail(ONEPASS_INVALID_SHAPE, "%s: impossible shape %s", name, shape_text(*a).c_str());
  if (n == 0) return ONEPASS_OK;
  if (a->data == nullptr) return fail(ONEPASS_INVALID_VALUE, "%s: data is null", name);
  bool aligned = reinterpret_cast<std::uintptr_t>(a->data) % static_cast<std::uintptr_t>(itemsize(a->dtype)) == 0;
  for (int axis = 0; axis < a->ndim; ++axis)
    aligned = aligned && (a->shape[axis] == 1 || stride(*a, axis) % itemsize(a->dtype) == 0);
  if (!aligned)
    return fail(ONEPASS_INVALID_LAYOUT, "%s: elements of %s are not aligned to their size; copy it first", name,
                describe(*a).c_str());
  return ONEPASS_OK;
}

onepass_status check_float(const char* name, const onepass_array* a) {
  ONEPASS_TRY(check_array(name, a));
  if (!is_float(a->dtype))
    return fail(ONEPASS_INVALID_DTYPE, "%s: expected float32 or float64, got %s; convert it first", name,
                type_name(a->dtype));
  return ONEPASS_OK;
}

onepass_status check_contiguous(const char* name, const onepass_array& a) {
  if (!is_contiguous(a))
    return fail(ONEPASS_INVALID_LAYOUT,
                "%s: expected a C-contiguous array, got strides that leave gaps or another order;"
                " copy it with numpy.ascontiguousarray first",
                name);
  return ONEPASS_OK;
}

onepass_status check_any_float(const char* name, const onepass_array* a) {
  ONEPASS_TRY(check_array(name, a));
  if (!is_any_float(a->dtype))
    return fail(ONEPASS_INVALID_DTYPE, "%s: expected float32, float64, float16 or bfloat16, got %s; convert it first",
                name, type_name(a->dtype));
  return ONEPASS_OK;
}

onepass_status check_shape_like(const char* name, const onepass_array& a, const char* model_name,
                                const onepass_array& model) {
  if (!same_shape(a, model))
    return fail(ONEPASS_INVALID_SHAPE, "%s: expected shape %s like %s, got %s", name, shape_text(model).c_str(),
                model_name, shape_text(a).c_str());
  return ONEPASS_OK;
}

onepass_status check_like(const char* name, const onepass_array* a, const char* model_name,
                          const onepass_array& model) {
  ONEPASS_TRY(check_array(name, a));
  if (a->dtype != model.dtype)
    return fail(ONEPASS_INVALID_DTYPE, "%s: expected %s like %s, got %s; convert it first", name,
                type_name(model.dtype), model_name, type_name(a->dtype));
  return check_shape_like(name, *a, model_name, model);
}

onepass_status check_vector(const char* name, const onepass_array* a, std::int64_t n, std::int32_t dtype) {
  ONEPASS_TRY(check_array(name, a));
  if (a->dtype != dtype)
    return fail(ONEPASS_INVALID_DTYPE, "%s: expected %s, got %s; convert it first", name, type_name(dtype),
                type_name(a->dtype));
  if (a->ndim != 1 || a->shape[0] != n)
    return fail(ONEPASS_INVALID_SHAPE, "%s: expected shape (%lld,), got %s", name, static_cast<long long>(n),
                shape_text(*a).c_str());
  return check_contiguous(name, *a);
}

onepass_status check_apart(const char* name, const onepass_array* a, const char* other_name, const onepass_array* b) {
  if (present(a) && present(b) && overlap(*a, *b))
    return fail(ONEPASS_OVERLAP, "%s: shares memory with %s; pass a copy", name, other_name);
  return ONEPASS_OK;
}

onepass_status check_in_place(const char* name, const onepass_array& a, const char* other_name,
                              const onepass_array& b) {
  if (same_view(a, b)) return ONEPASS_OK;
  if (overlap(a, b))
    return fail(ONEPASS_OVERLAP, "%s: shares some memory with %s without being the same view; pass %s itself or a copy",
                name, other_name, other_name);
  return ONEPASS_OK;
}

onepass_status check_written(const Named& written, std::initializer_list<Named> others) {
  if (!present(written.array)) return ONEPASS_OK;
  if (overlaps_itself(*written.array))
    return fail(ONEPASS_OVERLAP, "%s: several of its elements share memory; pass a copy", written.name);
  for (const Named& other : others) ONEPASS_TRY(check_apart(written.name, written.array, other.name, other.array));
  return ONEPASS_OK;
}

onepass_status check_eps(double eps) {
  if (!(eps >= 0.0) || !std::isfinite(eps))
    return fail(ONEPASS_INVALID_VALUE, "eps: expected a finite number >= 0, got %g", eps);
  return ONEPASS_OK;
}

onepass_status check_threads(std::int32_t threads) {
  if (threads < 0 || threads > 4096)
    return fail(ONEPASS_INVALID_VALUE, "threads: expected 0 (the default) to 4096, got %d", threads);
  return ONEPASS_OK;
}

Layout::Layout(const onepass_array* const* arrays, int count, Order order) : operands(count) {
  const onepass_array& first = *arrays[0];
  int sorted[ONEPASS_MAX_DIMENSIONS];
  for (int axis = 0; axis < first.ndim; ++axis)
    if (first.shape[axis] != 1) sorted[ndim++] = axis;
  std::stable_sort(sorted, sorted + ndim, [&](int a, int b) {
    for (int k = 0; order == Order::memory && k < count; ++k) {
      const std::int64_t sa = std::abs(stride(*arrays[k], a)), sb = std::abs(stride(*arrays[k], b));
      if (sa != sb) return sa > sb;
    }
    return false;
  });
  const int axes = ndim;
  ndim = 0;
  for (int i = 0; i < axes; ++i) {
    const int axis = sorted[i];
    bool merge = ndim > 0;
    for (int k = 0; merge && k < count; ++k)
      merge = strides[k][ndim - 1] == stride(*arrays[k], axis) * first.shape[axis];
    if (!merge) shape[ndim++] = 1;
    shape[ndim - 1] *= first.shape[axis];
    for (int k = 0; k < count; ++k) strides[k][ndim - 1] = stride(*arrays[k], axis);
  }
  if (ndim == 0) {
    ndim = 1;
    shape[0] = 1;
    for (int k = 0; k < count; ++k) strides[k][0] = itemsize(arrays[k]->dtype);
  }
}

bool Layout::dense(int operand, std::int64_t item) const { return strides[operand][ndim - 1] == item; }

}  // namespace onepass::api
