#include "bindings/arrays.hpp"

#include <algorithm>

namespace {

static_assert(sizeof(py::ssize_t) == sizeof(std::int64_t));

constexpr std::int32_t kUnknown = -1;

std::int32_t dtype_code(const py::dtype& dtype) {
  const char order = dtype.byteorder();
  if (order != '=' && order != '|') return kUnknown;
  switch (dtype.kind()) {
    case 'f':
      return dtype.itemsize() == 4   ? ONEPASS_FLOAT32
             : dtype.itemsize() == 8 ? ONEPASS_FLOAT64
             : dtype.itemsize() == 2 ? ONEPASS_FLOAT16
                                     : kUnknown;
    case 'V':  // what NumPy says of ml_dtypes' types
      return dtype.itemsize() == 2 && py::str(dtype.attr("name")).cast<std::string>() == "bfloat16" ? ONEPASS_BFLOAT16
                                                                                                    : kUnknown;
    case 'i':
      return dtype.itemsize() == 1   ? ONEPASS_INT8
             : dtype.itemsize() == 2 ? ONEPASS_INT16
             : dtype.itemsize() == 4 ? ONEPASS_INT32
                                     : ONEPASS_INT64;
    case 'u':
      return dtype.itemsize() == 1   ? ONEPASS_UINT8
             : dtype.itemsize() == 2 ? ONEPASS_UINT16
             : dtype.itemsize() == 4 ? ONEPASS_UINT32
                                     : ONEPASS_UINT64;
    default: return kUnknown;
  }
}

py::array as_array(const char* name, py::handle object) {
  if (!py::isinstance<py::array>(object))
    throw py::type_error(std::string(name) + ": expected a NumPy array, got " +
                         py::str(py::type::of(object).attr("__name__")).cast<std::string>() +
                         "; make one with numpy.asarray first");
  return py::reinterpret_borrow<py::array>(object);
}

onepass_array view(const char* name, const py::array& a) {
  const std::int32_t code = dtype_code(a.dtype());
  if (code == kUnknown)
    throw py::type_error(
        std::string(name) + ": dtype " + py::str(a.dtype()).cast<std::string>() +
        " is not supported, expected float32 or float64 (labels: an integer type); convert it with astype first");
  // shape and strides are arrays of npy_intp, which is as wide as int64_t here
  return {const_cast<void*>(a.data()), reinterpret_cast<const std::int64_t*>(a.shape()),
          reinterpret_cast<const std::int64_t*>(a.strides()), static_cast<std::int32_t>(a.ndim()), code};
}

onepass_array stored(const char* name, onepass_array a, bool bits) {
  if (a.ndim < 0 || a.dtype != ONEPASS_UINT16) return a;
  if (!bits)
    throw py::type_error(std::string(name) + ": is uint16; if these are the bits of bfloat16, say dtype='bfloat16'");
  a.dtype = ONEPASS_BFLOAT16;
  return a;
}

constexpr onepass_array kAbsent = {nullptr, nullptr, nullptr, -1, 0};

}  // namespace

void raise_if(onepass_status status) {
  switch (status) {
    case ONEPASS_OK: return;
    case ONEPASS_INVALID_DTYPE: throw py::type_error(onepass_last_error());
    case ONEPASS_NO_MEMORY: PyErr_SetString(PyExc_MemoryError, onepass_last_error()); throw py::error_already_set();
    case ONEPASS_UNAVAILABLE: PyErr_SetString(PyExc_RuntimeError, onepass_last_error()); throw py::error_already_set();
    default: throw py::value_error(onepass_last_error());
  }
}

onepass_array readable(const char* name, py::handle object) {
  return object.is_none() ? kAbsent : view(name, as_array(name, object));
}

onepass_array writable(const char* name, py::handle object) {
  if (object.is_none()) return kAbsent;
  const py::array a = as_array(name, object);
  if (!a.writeable()) throw py::value_error(std::string(name) + ": is read-only; pass a writable array or a copy");
  return view(name, a);
}

onepass_array readable_storage(const char* name, py::handle object, bool bits) {
  return stored(name, readable(name, object), bits);
}

onepass_array writable_storage(const char* name, py::handle object, bool bits) {
  return stored(name, writable(name, object), bits);
}
