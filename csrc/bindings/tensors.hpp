// torch's tensors seen as onepass_array through DLPack, never copied or converted.
#pragma once

#include <array>

#include "bindings/register.hpp"

// A tensor (None: absent) in the CPU's memory, of any strides. It borrows: the tensor must live on.
class Tensor {
 public:
  // to_dlpack: gives a capsule; it may refuse.
  Tensor(const char* name, py::handle tensor, py::handle to_dlpack);
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  const onepass_array* get() const { return &array_; }
  std::int64_t size(int axis) const { return axis < array_.ndim ? array_.shape[axis] : 0; }

 private:
  py::object capsule_;  // owns the shape
  std::array<std::int64_t, ONEPASS_MAX_DIMENSIONS> strides_;
  onepass_array array_;
};
