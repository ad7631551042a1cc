// Rows of arrays of any number of axes: all axes but one count the rows, the one is the row's own.
#pragma once

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
      shape_[axes_] = a.shape[i];
      strides_[axes_++] = stride(a, i);
      count_ *= a.shape[i];
    }
  }
  std::int64_t count() const { return count_; }
  std::int64_t step() const { return step_; }  // bytes between neighbours within a row
  char* at(std::int64_t row) const {           // in C order
    if (axes_ == 1) return base_ + row * strides_[0];
    char* p = base_;
    for (int i = axes_; i-- > 0;) {
      p += row % shape_[i] * strides_[i];
      row /= shape_[i];
    }
    return p;
  }

 private:
  char* base_;
  std::int64_t count_ = 1, step_ = 0;
  int axes_ = 0;
  std::int64_t shape_[ONEPASS_MAX_DIMENSIONS], strides_[ONEPASS_MAX_DIMENSIONS];
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
