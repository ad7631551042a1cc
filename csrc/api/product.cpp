#include "api/product.hpp"

#include <climits>

namespace onepass::api {

onepass_status check_matrix(const char* name, const onepass_array* a, std::int64_t rows, std::int64_t columns,
                            std::int32_t dtype, Matrix& m) {
  ONEPASS_TRY(check_float(name, a));
  if (dtype >= 0 && a->dtype != dtype)
    return fail(ONEPASS_INVALID_DTYPE, "%s: expected %s like weight, got %s; convert it first", name, type_name(dtype),
                describe(*a).c_str());
  if (a->ndim != 2 || (rows >= 0 && a->shape[0] != rows) || (columns >= 0 && a->shape[1] != columns)) {
    const auto text = [](std::int64_t n, const char* any) { return n >= 0 ? std::to_string(n) : any; };
    return fail(ONEPASS_INVALID_SHAPE, "%s: expected shape (%s, %s), got %s", name, text(rows, "rows").c_str(),
                text(columns, "columns").c_str(), shape_text(*a).c_str());
  }
  if (elements(*a) == 0) return fail(ONEPASS_INVALID_SHAPE, "%s: is empty, shape %s", name, shape_text(*a).c_str());
  const std::int64_t item = itemsize(a->dtype);
  m = {a->data, a->shape[0], a->shape[1], a->shape[0] == 1 ? a->shape[1] : stride(*a, 0) / item};
  if ((m.columns > 1 && stride(*a, 1) != item) || m.stride < m.columns)
    return fail(ONEPASS_INVALID_LAYOUT,
                "%s: expected rows without gaps between their elements; copy it with"
                " numpy.ascontiguousarray first",
                name);
  if (m.rows > INT_MAX || m.stride > INT_MAX)
    return fail(ONEPASS_INVALID_SHAPE, "%s: %s is too large for BLAS", name, shape_text(*a).c_str());
  return ONEPASS_OK;
}

onepass_status need_blas() {
  return runtime::has_blas() ? ONEPASS_OK : fail(ONEPASS_UNAVAILABLE, "linear: no BLAS; call onepass_set_blas first");
}

}  // namespace onepass::api
