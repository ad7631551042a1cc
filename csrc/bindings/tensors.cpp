#include "bindings/tensors.hpp"

#include <string>

namespace {

// What the capsules of DLPack 0 hold, the one that every release of torch gives out.
struct DLTensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  std::uint8_t type, bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;  // elements; null: contiguous
  std::uint64_t byte_offset;
};
constexpr std::int32_t kCpu = 1;
constexpr int kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4;

constexpr std::int32_t dtype_code(const DLTensor& t) {
  if (t.lanes != 1) return -1;
  switch (t.type << 8 | t.bits) {
    case kFloat << 8 | 32: return ONEPASS_FLOAT32;
    case kFloat << 8 | 64: return ONEPASS_FLOAT64;
    case kFloat << 8 | 16: return ONEPASS_FLOAT16;
    case kBfloat << 8 | 16: return ONEPASS_BFLOAT16;
    case kInt << 8 | 8: return ONEPASS_INT8;
    case kInt << 8 | 16: return ONEPASS_INT16;
    case kInt << 8 | 32: return ONEPASS_INT32;
    case kInt << 8 | 64: return ONEPASS_INT64;
    case kUInt << 8 | 8: return ONEPASS_UINT8;
    case kUInt << 8 | 16: return ONEPASS_UINT16;
    case kUInt << 8 | 32: return ONEPASS_UINT32;
    case kUInt << 8 | 64: return ONEPASS_UINT64;
    default: return -1;
  }
}

// DLPack hands out the memory of a view of torch's that is negated where it is read.
bool is_negated(py::handle tensor) {
  static PyObject* const method = PyUnicode_InternFromString("is_neg");
  const auto answer = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor.ptr(), method));
  if (!answer) throw py::error_already_set();
  return answer.ptr() == Py_True;
}

}  // namespace

Tensor::Tensor(const char* name, py::handle tensor, py::handle to_dlpack) : array_{nullptr, nullptr, nullptr, -1, 0} {
  if (tensor.is_none()) return;
  if (is_negated(tensor)) throw py::value_error(std::string(name) + ": is a lazily negated view");
  capsule_ = py::reinterpret_steal<py::object>(PyObject_CallOneArg(to_dlpack.ptr(), tensor.ptr()));
  if (!capsule_) throw py::error_already_set();
  const auto* t = static_cast<const DLTensor*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor"));
  if (t == nullptr) throw py::error_already_set();
  if (t->device_type != kCpu) throw py::value_error(std::string(name) + ": is not in the CPU's memory");
  const std::int32_t code = dtype_code(*t);
  if (code < 0) throw py::type_error(std::string(name) + ": is of a type that is not supported");
  if (t->ndim > ONEPASS_MAX_DIMENSIONS) throw py::value_error(std::string(name) + ": has too many axes");
  array_ = {static_cast<char*>(t->data) + t->byte_offset, t->shape, nullptr, t->ndim, code};
  if (t->strides == nullptr) return;
  for (std::int32_t i = 0; i < t->ndim; ++i) strides_[static_cast<std::size_t>(i)] = t->strides[i] * (t->bits / 8);
  array_.strides = strides_.data();
}
