// Layer, RMS, group and instance normalization. An array is (samples, groups, segments, inner): a row is the segments
// and inner elements of one sample and group, and the inner elements of a segment share a gamma and a beta (layer and
// RMS: one group, a segment for each element). Rows are taken in pieces: a row's sums are those of its pieces in order,
// and dgamma and dbeta those of bands of samples in order, whoever computed them.
#pragma once

#include <algorithm>
#include <vector>

#include "api/arrays.hpp"
#include "api/row_array.hpp"

namespace onepass::api {

inline constexpr std::int64_t kShortRun = 16;  // inner lengths below it take gamma and beta element by element

inline std::int64_t pieces_of(std::int64_t n) { return (n + kPiece - 1) / kPiece; }

struct Geometry {
  std::int64_t samples = 1, groups = 1, segments = 1, inner = 1;
  std::int64_t rows() const { return samples * groups; }
  std::int64_t length() const { return segments * inner; }  // of a row
  std::int64_t width() const { return groups * segments; }  // gammas
  std::int64_t elements() const { return rows() * length(); }
};

// gamma or beta for each element of a segment; null stays null.
template <typename T>
class Parameter {
 public:
  Parameter(const onepass_array* a, std::int64_t width, std::int64_t times, bool ones) {
    if (!present(a) && !ones) return;
    values_ = present(a) ? static_cast<const T*>(a->data) : nullptr;
    if (values_ != nullptr && times == 1) return;
    own_.assign(static_cast<std::size_t>(width * times), T(1));
    for (std::int64_t i = 0; values_ != nullptr && i < width * times; ++i)
      own_[static_cast<std::size_t>(i)] = values_[i / times];
    values_ = own_.data();
  }
  const T* from(std::int64_t i) const { return values_ ? values_ + i : nullptr; }
  T at(std::int64_t i, T otherwise) const { return values_ ? values_[i] : otherwise; }

 private:
  const T* values_ = nullptr;
  std::vector<T> own_;
};

template <typename T>
RowScale<T> row_scale(const double* mean, double invstd, std::int64_t row) {
  const double m = mean ? mean[row] : 0.0;
  const T high = static_cast<T>(m);
  return {high, static_cast<T>(m - static_cast<double>(high)), static_cast<T>(invstd)};
}

// Whole rows keep a thread's row in its cache; too few of them leave threads without work.
inline bool enough(std::int64_t tasks, int team) { return tasks % team == 0 || tasks >= 4 * team; }

struct Arguments {
  Geometry shape;
  std::int32_t dtype = ONEPASS_FLOAT32;        // of gamma and beta, and what is computed in
  std::int64_t groups = 0;                     // 0: a row is the last axes
  int first = 2;                               // the row's first axis, behind axis 1 cut into groups
  int parameter_axis = 1, parameter_axes = 1;  // of x, that gamma and beta have

  // gamma and beta element by element: each stands for `times` elements
  std::int64_t repeat_parameters() {
    const std::int64_t times = shape.inner < kShortRun ? shape.inner : 1;
    shape.segments *= times;
    shape.inner /= times;
    return times;
  }
  void without_parameters() { shape = {shape.samples, shape.groups, 1, shape.length()}; }
};

// x, options, and what they say of the shape.
onepass_status check_x(const onepass_array* x, const onepass_row_norm_options* options, Arguments& a);
// gamma, beta, or a gradient of theirs; may be absent.
onepass_status check_parameter(const char* name, const onepass_array* p, const onepass_array& x, const Arguments& a);
// The first `written` of `count` arrays, which are written, apart from all else.
onepass_status check_all_apart(const char* const* names, const onepass_array* const* arrays, int written, int count);

template <typename T>
RowArray<T> rows_of(const KernelTable& table, const onepass_array& array, const Arguments& a) {
  return RowArray<T>(table, array, a.first, a.groups);
}

inline double* doubles(const onepass_array* a) { return present(a) ? static_cast<double*>(a->data) : nullptr; }

}  // namespace onepass::api
