// Rows of arrays in any floating-point format, with any strides and any number of axes to a row.
#pragma once

#include <algorithm>
#include <vector>

#include "api/rows.hpp"
#include "kernels/table.hpp"

namespace onepass::api {

constexpr std::int64_t kPiece = 2048;  // elements of a piece of a row: first-level cache, with its partners

// A row's elements, moved in pieces through a buffer of kPiece where they are not dense elements of T.
template <typename T>
class RowArray {
 public:
  // Axes before `first` count rows. groups > 0: so does axis 1 cut into so many groups, and first is 2.
  RowArray(const KernelTable& table, const onepass_array& a, int first, std::int64_t groups)
      : base_(static_cast<char*>(a.data)), item_(itemsize(a.dtype)), codec_(table.kernels<T>().codecs.of[a.dtype]) {
    for (int axis = 0; axis < a.ndim; ++axis) {
      if (groups > 0 && axis == 1) {
        const std::int64_t channels = a.shape[1] / groups;
        add(lead_, groups, channels * stride(a, 1));
        add(own_, channels, stride(a, 1));
      } else {
        add(axis < first ? lead_ : own_, a.shape[axis], stride(a, axis));
      }
    }
    if (own_.empty()) own_.push_back({1, item_});
    direct_ = own_.size() == 1 && dense() && item_ == sizeof(T);
  }

  char* row(std::int64_t r) const {
    if (lead_.size() == 1) return base_ + r * lead_[0].step;
    char* p = base_;
    for (std::size_t i = lead_.size(); i-- > 0;) {
      p += r % lead_[i].count * lead_[i].step;
      r /= lead_[i].count;
    }
    return p;
  }
  // Elements [begin, begin + n) of a row, where they are or decoded into the buffer.
  const T* read(char* row, std::int64_t begin, std::int64_t n, T* buffer) const {
    if (direct_) return reinterpret_cast<const T*>(row) + begin;
    T* to = buffer;
    walk(row, begin, n, [&](char* at, std::int64_t length) {
      alignas(64) char raw[kPiece * sizeof(T)];
      if (!dense())
        (item_ == sizeof(T) ? gather<T> : gather_half)(at, own_.back().step, reinterpret_cast<T*>(raw), length);
      codec_.decode(dense() ? at : raw, to, length);
      to += length;
    });
    return buffer;
  }
  T* place(char* row, std::int64_t begin, T* buffer) const {
    return direct_ ? reinterpret_cast<T*>(row) + begin : buffer;
  }
  void write(char* row, std::int64_t begin, std::int64_t n, const T* buffer) const {
    if (direct_) return;
    walk(row, begin, n, [&](char* at, std::int64_t length) {
      alignas(64) char raw[kPiece * sizeof(T)];
      codec_.encode(buffer, dense() ? at : raw, length, nullptr, 0);
      if (!dense())
        (item_ == sizeof(T) ? scatter<T> : scatter_half)(reinterpret_cast<const T*>(raw), at, own_.back().step, length);
      buffer += length;
    });
  }

 private:
  struct Axis {
    std::int64_t count, step;  // bytes
  };
  using Half = std::uint16_t;

  // One axis more, merged with the one outside it where that is possible.
  static void add(std::vector<Axis>& axes, std::int64_t count, std::int64_t step) {
    if (count == 1) return;
    if (!axes.empty() && axes.back().step == count * step)
      axes.back() = {axes.back().count * count, step};
    else
      axes.push_back({count, step});
  }
  bool dense() const { return own_.back().step == item_; }
  static void gather_half(const char* from, std::int64_t step, T* to, std::int64_t n) {
    gather(from, step, reinterpret_cast<Half*>(to), n);
  }
  static void scatter_half(const T* from, char* to, std::int64_t step, std::int64_t n) {
    scatter(reinterpret_cast<const Half*>(from), to, step, n);
  }
  // visit(address, elements) for each stretch along the innermost axis; n <= kPiece
  template <typename Visit>
  void walk(char* row, std::int64_t begin, std::int64_t n, Visit&& visit) const {
    const Axis& last = own_.back();
    for (const std::int64_t end = begin + n; begin < end;) {
      std::int64_t rest = begin / last.count;
      const std::int64_t column = begin % last.count, length = std::min(last.count - column, end - begin);
      char* at = row + column * last.step;
      for (std::size_t i = own_.size() - 1; i-- > 0;) {
        at += rest % own_[i].count * own_[i].step;
        rest /= own_[i].count;
      }
      visit(at, length);
      begin += length;
    }
  }

  char* base_;
  std::int64_t item_;
  Codec<T> codec_;
  bool direct_;
  std::vector<Axis> lead_, own_;  // those of the rows, and a row's own
};

}  // namespace onepass::api
