// What the functions of batch normalization share: checks, the numbers of each channel, the two sums of a block.
#pragma once

#include "api/channel_driver.hpp"
#include "runtime/dispatch.hpp"

namespace onepass::api {

template <typename T>
T* data(const onepass_array* a) {
  return present(a) ? static_cast<T*>(a->data) : nullptr;
}
template <typename T>
T* offset(T* p, std::int64_t c) {
  return p ? p + c : nullptr;
}

onepass_status check_channels_of(const onepass_array* x, std::int32_t channel_axis, Shape& shape);
// Arrays of x's shape and type, each absent or any strides.
onepass_status check_wholes(std::initializer_list<Named> arrays, const onepass_array& x);
// (C) of the type that is computed in, or absent.
onepass_status check_vectors(std::initializer_list<Named> arrays, const onepass_array& x, const Shape& shape);
// Values of a channel in all parts of a batch.
onepass_status check_count(std::int64_t count);

// Threads for a pass over so many arrays of x's shape.
template <typename T>
int team_of(const Shape& shape, std::int32_t threads, std::int64_t tasks, int arrays) {
  return runtime::team_size(threads, tasks, arrays * shape.elements() * static_cast<std::int64_t>(sizeof(T)));
}

// The members of ChannelScale, then those of ChannelSlope, one array of numbers each.
template <typename T>
struct Normalization {
  Channels<T> numbers;
  Normalization(const Shape& shape, int kinds) : numbers(shape, kinds) {}
  ChannelScale<T> scale(std::int64_t i) {
    return {numbers.at(0) + i, numbers.at(1) + i, numbers.at(2) + i, numbers.at(3) + i};
  }
  ChannelSlope<T> slope(std::int64_t i) { return {numbers.at(4) + i, numbers.at(5) + i}; }
};

// Two sums of a block through kernel(first element, rows, columns, stride, first, second); rows that were folded into
// one meet again, in order.
template <typename Work, typename T, std::size_t count, typename Kernel>
void reduce_block(const Work& work, Stage<T>& stage, const Block& block, Argument<T> (&arguments)[count], double* first,
                  double* second, Kernel&& kernel) {
  const std::int64_t fold = work.shape.fold();
  const Lines lines = fold > 1 ? Lines::packed : Lines::strided;
  with_block(stage, block, lines, arguments, [&](const Block& b, std::int64_t stride) {
    if (fold == 1) return kernel(std::int64_t{0}, b.rows, b.n, stride, first, second);
    std::fill_n(first, b.n, 0.0);
    std::fill_n(second, b.n, 0.0);
    std::int64_t seen = 0;
    with_folded(fold, b, [&](std::int64_t at, std::int64_t rows, std::int64_t columns) {
      double f[kFolded], s[kFolded];
      kernel(at, rows, columns, columns, f, s);
      for (std::int64_t c = 0; c < columns; c += b.n, seen += rows)
        work.combine(seen, first, second, rows, f + c, s + c, b.n);
    });
  });
}

}  // namespace onepass::api
