// An array seen as (outer, channels, inner), whatever its axes, strides and storage format, and cut into blocks that
// kernels see in dense memory: where they are, or in buffers of one block.
//
// The axes stand in the order of x's memory, so that images stored channels last are handled as rows whose columns are
// channels, however their axes are permuted. x alone decides, so that no result depends on another array's layout.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "api/rows.hpp"
#include "kernels/table.hpp"

namespace onepass::api {

constexpr std::int64_t kShortInner = 16;   // inner lengths below it are handled as columns
constexpr std::int64_t kRunBlock = 2048;   // elements of a block of runs: first-level cache, with its partner
constexpr std::int64_t kTileBlock = 8192;  // elements of a block of rows of a tile
constexpr std::int64_t kNarrow = 64;       // columns below which several rows are handled as one
constexpr std::int64_t kFolded = 128;      // columns of such a row, at most
constexpr std::int64_t kLine = 64;         // bytes of a cache line

struct Shape {
  std::int64_t outer = 1, channels = 1, inner = 1;
  // x's axes longer than 1 that stand before and behind the channels in memory
  std::vector<int> outer_axes, inner_axes;
  int channel_axis = 0;

  std::int64_t count() const { return outer * inner; }  // values of a channel
  std::int64_t elements() const { return outer * channels * inner; }
  bool by_run() const { return inner >= kShortInner; }
  std::int64_t width() const { return channels * inner; }                                       // of a row
  std::int64_t fold() const { return !by_run() && width() < kNarrow ? kFolded / width() : 1; }  // rows handled as one

  Shape() = default;
  Shape(const onepass_array& x, int axis) : channels(x.shape[axis]), channel_axis(axis) {
    std::vector<int> order;
    for (int i = 0; i < x.ndim; ++i)
      if (x.shape[i] != 1 && i != axis) order.push_back(i);
    const auto reach = [&](int i) { return std::abs(stride(x, i)); };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return reach(a) > reach(b); });
    std::int64_t dense = itemsize(x.dtype);  // stride of an axis that would join the inner ones without a gap
    for (auto i = order.rbegin(); i != order.rend(); ++i) {
      // one channel: its stride says nothing; the inner axes are those without gaps
      const bool inside =
          channels == 1 ? reach(*i) == dense : reach(*i) < reach(axis) || (reach(*i) == reach(axis) && *i > axis);
      if (!inside) {
        outer_axes.assign(order.begin(), i.base());
        break;
      }
      dense *= x.shape[*i];
      inner_axes.insert(inner_axes.begin(), *i);
    }
    for (const int i : outer_axes) outer *= x.shape[i];
    for (const int i : inner_axes) inner *= x.shape[i];
  }
};

// Axes of one array in a given order, merged where no gap divides them.
struct Axes {
  int ndim = 1;
  std::int64_t shape[ONEPASS_MAX_DIMENSIONS] = {1};
  std::int64_t strides[ONEPASS_MAX_DIMENSIONS] = {0};  // bytes

  Axes() = default;
  Axes(const onepass_array& a, const std::vector<int>& order) {
    for (const int axis : order) {
      const std::int64_t step = stride(a, axis);
      int& last = ndim;
      if (shape[last - 1] != 1 && strides[last - 1] != step * a.shape[axis]) shape[last++] = 1;
      shape[last - 1] *= a.shape[axis];
      strides[last - 1] = step;
    }
  }
  bool even() const { return ndim == 1; }  // all elements `step` apart
  std::int64_t step() const { return strides[ndim - 1]; }
  std::int64_t length() const { return shape[ndim - 1]; }
  std::int64_t at(std::int64_t i) const {  // bytes
    if (ndim == 1) return i * strides[0];
    std::int64_t offset = 0;
    for (int axis = ndim - 1; axis >= 0; i /= shape[axis--]) offset += i % shape[axis] * strides[axis];
    return offset;
  }
  // visit(offset, length) for each evenly spaced stretch of elements [begin, end)
  template <typename Visit>
  void walk(std::int64_t begin, std::int64_t end, Visit&& visit) const {
    for (std::int64_t n; begin < end; begin += n) {
      n = even() ? end - begin : std::min(end - begin, length() - begin % length());
      visit(at(begin), n);
    }
  }
};

// `rows` lines of n elements: of one channel's runs, or of columns, whose first is `start`.
struct Block {
  std::int64_t channel, row, rows, start, n;
  std::int64_t numbers;  // the first of its channels' numbers: the channel, or the column
};

// One array of x's shape; T: what is computed in.
template <typename T>
class Operand {
 public:
  Operand() = default;
  Operand(const onepass_array* a, const Shape& shape, const Codecs<T>& codecs) {
    if (!api::present(a)) return;
    data_ = static_cast<char*>(a->data);
    codec_ = &codecs.of[a->dtype];
    item_ = itemsize(a->dtype);
    native_ = item_ == static_cast<std::int64_t>(sizeof(T));
    rows_ = Axes(*a, shape.outer_axes);
    std::vector<int> line = shape.inner_axes;
    if (shape.by_run())
      channel_step_ = stride(*a, shape.channel_axis);
    else if (shape.channels > 1)
      line.insert(line.begin(), shape.channel_axis);
    line_ = Axes(*a, line);
    dense_ = line_.even() && (line_.step() == item_ || line_.length() == 1);
  }
  bool present() const { return data_ != nullptr; }
  bool in_place() const { return native_ && dense_; }  // its lines
  bool even_rows() const { return rows_.even(); }
  std::int64_t row_step() const { return rows_.step(); }
  T* place(const Block& b) const { return reinterpret_cast<T*>(base(b) + rows_.at(b.row) + b.start * item_); }

  // Asks for a block's memory ahead of its use.
  void fetch(const Block& b) const {
    if (!present() || !dense_) return;
    for (std::int64_t r = b.row; r < b.row + b.rows; ++r) {
      const char* row = base(b) + rows_.at(r) + b.start * item_;
      for (std::int64_t at = 0; at < b.n * item_; at += kLine) {
        __builtin_prefetch(row + at);
        asm volatile("");  // a function that only fetches counts as one without effect, and its calls are dropped
      }
    }
  }
  void load(const Block& b, T* to) const {
    alignas(64) Half raw[kRunBlock];
    for_stretches(b, [&](const char* from, std::int64_t n) {
      if (dense_)
        codec_->decode(from, to, n);
      else if (native_)
        gather(from, line_.step(), to, n);
      else {
        gather(from, line_.step(), raw, n);
        codec_->decode(raw, to, n);
      }
      to += n;
    });
  }
  void store(const Block& b, const T* from) const {
    alignas(64) Half raw[kRunBlock];
    for_stretches(b, [&](char* to, std::int64_t n) {
      if (dense_)
        codec_->encode(from, to, n, nullptr, 0);
      else if (native_)
        scatter(from, to, line_.step(), n);
      else {
        codec_->encode(from, raw, n, nullptr, 0);
        scatter(raw, to, line_.step(), n);
      }
      from += n;
    });
  }

 private:
  using Half = std::uint16_t;

  char* base(const Block& b) const { return data_ + b.channel * channel_step_; }
  // visit(address, elements) for each evenly spaced stretch of a block's lines
  template <typename Visit>
  void for_stretches(const Block& b, Visit&& visit) const {
    for (std::int64_t r = b.row; r < b.row + b.rows; ++r) {
      char* row = base(b) + rows_.at(r);
      line_.walk(b.start, b.start + b.n, [&](std::int64_t at, std::int64_t n) { visit(row + at, n); });
    }
  }

  char* data_ = nullptr;
  const Codec<T>* codec_ = nullptr;
  std::int64_t item_ = 0, channel_step_ = 0;
  bool native_ = false, dense_ = false;
  Axes rows_, line_;  // line_: a channel's inner elements, or a row's columns
};

// A thread's buffers, one for each operand of a kernel; memory is taken when the first is needed.
template <typename T>
class Stage {
 public:
  T* buffer(std::size_t i) {
    if (!memory_[i]) memory_[i] = std::make_unique_for_overwrite<T[]>(kTileBlock);
    return memory_[i].get();
  }

 private:
  std::array<std::unique_ptr<T[]>, 5> memory_;
};

enum class Use { read, write };
template <typename T>
struct Argument {
  const Operand<T>& operand;
  Use use;
  T* at = nullptr;  // where the kernel finds it; null: absent
};

// How the rows of a kernel's arrays may lie: any distance apart, one for all; or without gaps; or handed over one by
// one, too, to a kernel that is elementwise.
enum class Lines { strided, packed, elementwise };

// kernel(block, stride of all arrays) once or for each row, with every argument's `at` set.
template <typename T, std::size_t count, typename Kernel>
void with_block(Stage<T>& stage, const Block& block, Lines lines, Argument<T> (&arguments)[count], Kernel&& kernel) {
  bool dense = true, together = true;
  // the first argument is always there
  const std::int64_t packed = block.n * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t step = lines == Lines::strided ? arguments[0].operand.row_step() : packed;
  for (const Argument<T>& a : arguments) {
    if (!a.operand.present()) continue;
    dense = dense && a.operand.in_place();
    together = together && a.operand.even_rows() && a.operand.row_step() == step;
  }
  if (dense && (together || block.rows == 1)) {
    for (Argument<T>& a : arguments) a.at = a.operand.present() ? a.operand.place(block) : nullptr;
    kernel(block, step / static_cast<std::int64_t>(sizeof(T)));
  } else if (dense && lines == Lines::elementwise && block.n >= kShortInner) {
    for (std::int64_t r = 0; r < block.rows; ++r)
      with_block(stage, {block.channel, block.row + r, 1, block.start, block.n, block.numbers}, lines, arguments,
                 kernel);
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      Argument<T>& a = arguments[i];
      a.at = a.operand.present() ? stage.buffer(i) : nullptr;
      if (a.at && a.use == Use::read) a.operand.load(block, a.at);
    }
    kernel(block, block.n);
    for (const Argument<T>& a : arguments)
      if (a.at && a.use == Use::write) a.operand.store(block, a.at);
  }
}

// kernel(first element, rows, columns) for a block without gaps, `fold` rows as one; the last of the block may be
// fewer.
template <typename Kernel>
void with_folded(std::int64_t fold, const Block& block, Kernel&& kernel) {
  const std::int64_t whole = block.rows / fold, rest = block.rows % fold, columns = fold * block.n;
  if (whole > 0) kernel(0, whole, columns);
  if (rest > 0) kernel(whole * columns, 1, rest * block.n);
}

}  // namespace onepass::api
