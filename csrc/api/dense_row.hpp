// A row of any stride and storage format, as dense memory of the type T that is computed in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "api/rows.hpp"
#include "kernels/table.hpp"

namespace onepass::api {

// In place where the row is dense and of type T, else a buffer that it is decoded to and encoded from. dtype: that of
// T, or one of 16 bits beside float.
template <typename T>
class DenseRow {
 public:
  DenseRow(const KernelTable& table, std::int32_t dtype, std::int64_t n, std::int64_t step)
      : codec_(table.kernels<T>().codecs.of[dtype]),
        step_(step),
        narrow_(is_narrow(dtype)),
        direct_(!narrow_ && (step == sizeof(T) || n <= 1)),
        buffer_(direct_ ? nullptr : std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(n))) {}

  bool direct() const { return direct_; }
  T* place(char* row) { return direct_ ? reinterpret_cast<T*>(row) : buffer_.get(); }
  // The row's elements [begin, end) into place, and back to the row.
  void load(const char* row, std::int64_t begin, std::int64_t end) {
    if (direct_) return;
    if (!narrow_) return gather(row + begin * step_, step_, at(begin), end - begin);
    in_runs(begin, end, [&](std::int64_t i, std::int64_t n, Half* raw) {
      if (raw != nullptr) gather(row + i * step_, step_, raw, n);
      codec_.decode(raw != nullptr ? raw : static_cast<const void*>(row + i * step_), at(i), n);
    });
  }
  void store(char* row, std::int64_t begin, std::int64_t end) {
    if (direct_) return;
    if (!narrow_) return scatter(at(begin), row + begin * step_, step_, end - begin);
    in_runs(begin, end, [&](std::int64_t i, std::int64_t n, Half* raw) {
      codec_.encode(at(i), raw != nullptr ? raw : static_cast<void*>(row + i * step_), n, nullptr, 0);
      if (raw != nullptr) scatter(raw, row + i * step_, step_, n);
    });
  }
  // Elements [begin, end) of the row, all one value.
  void fill(char* row, std::int64_t begin, std::int64_t end, T value) {
    std::fill(place(row) + begin, place(row) + end, value);
    store(row, begin, end);
  }

 private:
  using Half = std::uint16_t;

  T* at(std::int64_t i) { return buffer_.get() + i; }
  // visit(first, elements, room for them): elements side by side need no room and come in one run
  template <typename Visit>
  void in_runs(std::int64_t begin, std::int64_t end, Visit&& visit) const {
    if (step_ == sizeof(Half)) return visit(begin, end - begin, static_cast<Half*>(nullptr));
    constexpr std::int64_t kRun = 256;
    Half raw[kRun];
    for (std::int64_t i = begin; i < end; i += kRun) visit(i, std::min(kRun, end - i), raw);
  }

  Codec<T> codec_;
  std::int64_t step_;
  bool narrow_, direct_;
  std::unique_ptr<T[]> buffer_;
};

// An operand of several rows, one row at a time; absent: null and nothing.
template <typename T>
class RowOperand {
 public:
  // model: of the same shape, there in any case
  RowOperand(const KernelTable& table, const onepass_array& model, const onepass_array* a, int axis)
      : there_(present(a)),
        rows_(there_ ? *a : model, axis),
        dense_(table, there_ ? a->dtype : model.dtype, there_ ? a->shape[axis] : 0, rows_.step()),
        row_(rows_.at(0)) {}

  bool there() const { return there_; }
  void seek(std::int64_t r) { row_ = rows_.at(r); }
  T* place() { return there_ ? dense_.place(row_) : nullptr; }
  const void* ahead(std::int64_t r) { return dense_.place(rows_.at(r)); }
  void load(std::int64_t begin, std::int64_t end) {
    if (there_) dense_.load(row_, begin, end);
  }
  void store(std::int64_t begin, std::int64_t end) {
    if (there_) dense_.store(row_, begin, end);
  }
  void fill(std::int64_t begin, std::int64_t end, T value) {
    if (there_ && begin < end) dense_.fill(row_, begin, end, value);
  }

 private:
  bool there_;
  Rows rows_;
  DenseRow<T> dense_;
  char* row_;
};

// Rows of few elements as columns of a tile (n, kFewRows) of T.
template <typename T>
class TurnedRows {
 public:
  TurnedRows(const KernelTable& table, const onepass_array& a, int axis)
      : codec_(table.kernels<T>().codecs.of[a.dtype]), rows_(a, axis), narrow_(is_narrow(a.dtype)) {}

  // Rows [first, first + count), without those whose label is negative: their columns are zero, as are missing ones.
  void load(std::int64_t first, int count, const std::int64_t* labels, std::int64_t n, T* tile) const {
    if (!narrow_) return turn(first, count, labels, n, tile);
    Half raw[kFewClasses * kFewRows];
    turn(first, count, labels, n, raw);
    codec_.decode(raw, tile, n * kFewRows);
  }
  // n of the tile, then zeros up to the row's end.
  void store(const T* tile, std::int64_t first, int count, std::int64_t n, std::int64_t columns) const {
    if (!narrow_) return turn_back(tile, first, count, n, columns);
    Half raw[kFewClasses * kFewRows];
    codec_.encode(tile, raw, n * kFewRows, nullptr, 0);
    turn_back(raw, first, count, n, columns);
  }

 private:
  using Half = std::uint16_t;  // zero is zero in each format

  template <typename Item>
  void turn(std::int64_t first, int count, const std::int64_t* labels, std::int64_t n, Item* tile) const {
    for (int r = 0; r < kFewRows; ++r) {
      if (r < count && labels[r] >= 0) {
        const char* row = rows_.at(first + r);
        for (std::int64_t c = 0; c < n; ++c)
          tile[c * kFewRows + r] = *reinterpret_cast<const Item*>(row + c * rows_.step());
      } else {
        for (std::int64_t c = 0; c < n; ++c) tile[c * kFewRows + r] = Item(0);
      }
    }
  }
  template <typename Item>
  void turn_back(const Item* tile, std::int64_t first, int count, std::int64_t n, std::int64_t columns) const {
    for (int r = 0; r < count; ++r) {
      char* row = rows_.at(first + r);
      for (std::int64_t c = 0; c < n; ++c) *reinterpret_cast<Item*>(row + c * rows_.step()) = tile[c * kFewRows + r];
      for (std::int64_t c = n; c < columns; ++c) *reinterpret_cast<Item*>(row + c * rows_.step()) = Item(0);
    }
  }

  Codec<T> codec_;
  Rows rows_;
  bool narrow_;
};

// Buffers that a thread takes for a chunk of rows and leaves for the next: no more are made than threads work.
template <typename Worker>
class Idle {
 public:
  template <typename Make>
  std::unique_ptr<Worker> take(Make&& make) {
    {
      const std::lock_guard lock(guard_);
      if (!idle_.empty()) {
        std::unique_ptr<Worker> worker = std::move(idle_.back());
        idle_.pop_back();
        return worker;
      }
    }
    return make();
  }
  void leave(std::unique_ptr<Worker> worker) {
    const std::lock_guard lock(guard_);
    idle_.push_back(std::move(worker));
  }

 private:
  std::mutex guard_;
  std::vector<std::unique_ptr<Worker>> idle_;
};

}  // namespace onepass::api
