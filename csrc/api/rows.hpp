// Rows of arrays of any number of axes: all axes but one count the rows, the one is the row's own.
#pragma once

#include <vector>

#include "api/arrays.hpp"

namespace onepass::api {

class Rows {
 public:
  // axis: the rows' own; -1: every axis counts rows.
  Rows(const onepass_array& a, int axis) : base_(static_cast<char*>(a.data)) {
    for (int i = 0; i < a.ndim; ++i) {
      if (i == axis) {
        step_ = stride(a, i);
        continue;
      }
      shape_.push_back(a.shape[i]);
      strides_.push_back(stride(a, i));
      count_ *= a.shape[i];
    }
  }
  std::int64_t count() const { return count_; }
  std::int64_t step() const { return step_; }  // bytes between neighbours within a row
  char* at(std::int64_t row) const {           // in C order
    if (strides_.size() == 1) return base_ + row * strides_[0];
    char* p = base_;
    for (std::size_t i = strides_.size(); i-- > 0;) {
      p += row % shape_[i] * strides_[i];
      row /= shape_[i];
    }
    return p;
  }

 private:
  char* base_;
  std::int64_t count_ = 1, step_ = 0;
  std::vector<std::int64_t> shape_, strides_;
};

template <typename T>
void gather(const char* from, std::int64_t step, T* to, std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) to[j] = *reinterpret_cast<const T*>(from + j * step);
}
template <typename T>
void scatter(const T* from, char* to, std::int64_t step, std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) *reinterpret_cast<T*>(to + j * step) = from[j];
}

}  // namespace onepass::api
