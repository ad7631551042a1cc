// Applies one rule to a range of one tensor.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/blocks.hpp"
#include "kernels/formats.hpp"
#include "kernels/lanes.hpp"
#include "kernels/loops.hpp"
#include "kernels/table.hpp"

namespace {

// previous: the last step's rule of the same row, or null. A rule that takes it saves work, never changes its bits.
template <typename Rule, typename Hyper>
void prepare_rule(const void* hyper, const void* previous, void* storage) {
  static_assert(sizeof(Rule) <= onepass::kRuleBytes);
  static_assert(alignof(Rule) <= onepass::kRuleAlignment);
  const Hyper& h = *static_cast<const Hyper*>(hyper);
  const Rule rule = [&] {
    if constexpr (std::is_constructible_v<Rule, const Hyper&, const Rule*>)
      return Rule(h, static_cast<const Rule*>(previous));
    else
      return Rule(h);
  }();
  std::memcpy(storage, &rule, sizeof(rule));  // which may be where the previous one was
}

// param, states: read and written; grad: read. None of them overlap.
template <typename Rule, typename T>
void apply_rule(const void* storage, void* param, const void* grad, void* const* states, std::int64_t n) {
  Rule rule = *static_cast<const Rule*>(storage);
  T* __restrict p = static_cast<T*>(param);
  const T* __restrict g = static_cast<const T*>(grad);
  if constexpr (Rule::states == 0) {
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { rule(p[i], g[i]); }, p, g);
  } else if constexpr (Rule::states == 1) {
    T* __restrict a = static_cast<T*>(states[0]);
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { rule(p[i], g[i], a[i]); }, p, g, a);
  } else if constexpr (Rule::states == 2) {
    T* __restrict a = static_cast<T*>(states[0]);
    T* __restrict b = static_cast<T*>(states[1]);
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { rule(p[i], g[i], a[i], b[i]); }, p, g, a, b);
  } else {
    static_assert(Rule::states == 3);
    T* __restrict a = static_cast<T*>(states[0]);
    T* __restrict b = static_cast<T*>(states[1]);
    T* __restrict c = static_cast<T*>(states[2]);
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { rule(p[i], g[i], a[i], b[i], c[i]); }, p, g, a, b, c);
  }
}

// The same with states in bfloat16, decoded and rounded where they are used: a buffer between would cost more than the
// conversions.
template <typename Rule, bool stochastic>
void apply_bfloat16(const void* storage, void* param, const void* grad, void* const* states, std::int64_t n,
                    std::uint32_t counter) {
  Rule rule = *static_cast<const Rule*>(storage);
  float* __restrict p = static_cast<float*>(param);
  const float* __restrict g = static_cast<const float*>(grad);
  const auto random = [counter](std::int64_t i) {
    return stochastic ? random_bits(counter + static_cast<std::uint32_t>(i)) : 0U;
  };
  const auto encode = [](float x, std::uint32_t bits) {
    return stochastic ? BFloat16::stochastic(x, bits) : BFloat16::nearest(x);
  };
  if constexpr (Rule::states == 1) {
    Half* __restrict a = static_cast<Half*>(states[0]);
    for_each_ahead<float>(
        0, n,
        [&](std::int64_t i) {
          float x = BFloat16::decode(a[i]);
          rule(p[i], g[i], x);
          a[i] = encode(x, bits_for<1>(random(i)));
        },
        p, g, a);
  } else if constexpr (Rule::states == 2) {
    Half* __restrict a = static_cast<Half*>(states[0]);
    Half* __restrict b = static_cast<Half*>(states[1]);
    for_each_ahead<float>(
        0, n,
        [&](std::int64_t i) {
          float x = BFloat16::decode(a[i]), y = BFloat16::decode(b[i]);
          rule(p[i], g[i], x, y);
          const std::uint32_t bits = random(i);
          a[i] = encode(x, bits_for<1>(bits));
          b[i] = encode(y, bits_for<2>(bits));
        },
        p, g, a, b);
  } else {
    static_assert(Rule::states == 3);
    Half* __restrict a = static_cast<Half*>(states[0]);
    Half* __restrict b = static_cast<Half*>(states[1]);
    Half* __restrict c = static_cast<Half*>(states[2]);
    for_each_ahead<float>(
        0, n,
        [&](std::int64_t i) {
          float x = BFloat16::decode(a[i]), y = BFloat16::decode(b[i]), z = BFloat16::decode(c[i]);
          rule(p[i], g[i], x, y, z);
          const std::uint32_t bits = random(i);
          a[i] = encode(x, bits_for<1>(bits));
          b[i] = encode(y, bits_for<2>(bits));
          c[i] = encode(z, bits_for<3>(bits));
        },
        p, g, a, b, c);
  }
}

// The same with states in 8-bit blocks, of which the first number is one of the first block's: at most kBlocksAtOnce of
// them. Positive says of each state whether it is never negative.
template <typename Rule, typename Positive, bool stochastic, std::size_t... k>
void apply_few_blocks(const Rule& rule, float* __restrict p, const float* __restrict g, std::uint32_t* const* words,
                      std::uint8_t* const* scales, std::int64_t n, std::uint32_t counter, std::index_sequence<k...>) {
  constexpr int states = Rule::states;
  constexpr std::int64_t kMost = kBlocksAtOnce * kBlockNumbers, kAhead = 1024;
  const std::int64_t blocks = (n + kBlockNumbers - 1) / kBlockNumbers;
  alignas(64) float number[states][kMost];
  alignas(64) std::uint32_t random[stochastic ? kMost : 1];
  alignas(64) BlockMaximum maximum[states][kBlocksAtOnce] = {};
  for (std::int64_t half = 0; half < 2 * blocks; ++half) {
    const float scale[states] = {BlockCode<Positive::of[k]>::scale(scales[k][half / 2])...};
    const std::uint32_t* const word[states] = {words[k] + 16 * half...};
    BlockMaximum* const largest[states] = {&maximum[k][half / 2]...};
    (prefetch(word[k], kAhead), ...);  // asked for evenly: a core waits for few lines at a time
    for (std::int64_t line = 0; line < 256; line += 64) {
      prefetch(p + 64 * half, kAhead + line);
      prefetch(g + 64 * half, kAhead + line);
    }
    for_bytes([&](auto byte) {
      const std::int64_t first = 64 * half + 16 * byte;
      ONEPASS_INDEPENDENT
      for (int lane = 0; lane < 16; ++lane) {
        const std::int64_t i = first + lane;
        float x[states] = {BlockCode<Positive::of[k]>::decode(shifted<20 - 8 * byte>(word[k][lane]),
                                                              shifted<24 - 8 * byte>(word[k][lane]), scale[k])...};
        rule(p[i], g[i], x[k]...);
        ((number[k][i] = x[k], largest[k]->see(lane, x[k])), ...);
        if constexpr (stochastic) random[i] = random_bits(counter + static_cast<std::uint32_t>(i));
      }
    });
  }
  if (n % kBlockNumbers != 0) {  // what was made of the padding counts as zero
    const auto see_again = [n, blocks](float* own, BlockMaximum& last) {
      last = {};
      for (std::int64_t i = n; i < blocks * kBlockNumbers; ++i) own[i] = 0.0F;
      for (std::int64_t i = (blocks - 1) * kBlockNumbers; i < n; ++i) last.see(static_cast<int>(i % 16), own[i]);
    };
    (see_again(number[k], maximum[k][blocks - 1]), ...);
  }
  (encode_seen_blocks<Positive::of[k], stochastic, static_cast<int>(k)>(number[k], maximum[k], words[k], scales[k],
                                                                        blocks, random),
   ...);
}

template <typename Rule, typename Positive, bool stochastic>
void apply_blocks(const void* storage, float* param, const float* grad, void* const* codes, std::uint8_t* const* scales,
                  std::int64_t n, std::uint32_t counter) {
  const Rule rule = *static_cast<const Rule*>(storage);
  for (std::int64_t at = 0, length; at < n; at += length) {
    length = n - at < kBlocksAtOnce * kBlockNumbers ? n - at : kBlocksAtOnce * kBlockNumbers;
    if (length > kBlockNumbers) length -= length % kBlockNumbers;  // a last, short block goes alone
    std::uint32_t* words[Rule::states];
    std::uint8_t* own_scales[Rule::states];
    for (int k = 0; k < Rule::states; ++k) {
      words[k] = static_cast<std::uint32_t*>(codes[k]) + at / 4;
      own_scales[k] = scales[k] + at / kBlockNumbers;
    }
    const auto apply = [&](float* p, const float* g) {
      apply_few_blocks<Rule, Positive, stochastic>(rule, p, g, words, own_scales, length,
                                                   counter + static_cast<std::uint32_t>(at),
                                                   std::make_index_sequence<static_cast<std::size_t>(Rule::states)>());
    };
    if (length % kBlockNumbers == 0) {
      apply(param + at, grad + at);
    } else {
      alignas(64) float p[kBlockNumbers] = {}, g[kBlockNumbers] = {};
      const std::size_t bytes = static_cast<std::size_t>(length) * sizeof(float);
      std::memcpy(p, param + at, bytes);
      std::memcpy(g, grad + at, bytes);
      apply(p, g);
      std::memcpy(param + at, p, bytes);
    }
  }
}

// ---- rules that need sums over the whole tensor

// Sums of first^2, second^2 and first second, in double: n <= kSumRun of them.
template <typename T>
void add_products(const T* first, const T* second, std::int64_t n, double* sums) {
  Lanes<double> squares = Lanes<double>::all(0.0), others = squares, products = squares;
  for_groups(n, [&](std::int64_t j, std::int64_t count) {
    T padded[2][kLanes] = {};
    const T *x = first + j, *y = second + j;
    if (count < kLanes) {
      for (std::int64_t l = 0; l < count; ++l) {
        padded[0][l] = x[l];
        padded[1][l] = y[l];
      }
      x = padded[0];
      y = padded[1];
    }
    const Lanes<double> a = load_double(x), b = load_double(y);
    squares = squares + a * a;
    others = others + b * b;
    products = products + a * b;
  });
  sums[0] += squares.sum();
  sums[1] += others.sum();
  sums[2] += products.sum();
}

template <typename Rule, typename T>
void measure_rule(const void* storage, void* param, const void* grad, void* const* states, std::int64_t n,
                  double* sums) {
  Rule rule = *static_cast<const Rule*>(storage);
  for (std::int64_t begin = 0; begin < n; begin += onepass::kSumRun) {
    const std::int64_t length = n - begin < onepass::kSumRun ? n - begin : onepass::kSumRun;
    T* __restrict p = static_cast<T*>(param) + begin;
    const T* __restrict g = static_cast<const T*>(grad) + begin;
    alignas(64) T first[onepass::kSumRun], second[onepass::kSumRun];
    if constexpr (Rule::states == 1) {
      T* __restrict a = static_cast<T*>(states[0]) + begin;
      for_each_ahead<T>(
          0, length, [&](std::int64_t i) { rule.measure(p[i], g[i], a[i], first[i], second[i]); }, p, g, a);
    } else {
      static_assert(Rule::states == 2);
      T* __restrict a = static_cast<T*>(states[0]) + begin;
      T* __restrict b = static_cast<T*>(states[1]) + begin;
      for_each_ahead<T>(
          0, length, [&](std::int64_t i) { rule.measure(p[i], g[i], a[i], b[i], first[i], second[i]); }, p, g, a, b);
    }
    add_products(first, second, length, sums);
  }
}

template <typename Rule>
void adjust_rule(const void* storage, const double* sums, void* adjusted) {
  Rule rule = *static_cast<const Rule*>(storage);
  rule.adjust(sums);
  std::memcpy(adjusted, &rule, sizeof(rule));
}

// ---- behind every rule

// average += weight (param - average): an exponential moving average, a running mean, or Lookahead's slow weights.
template <typename T>
void average(T* param, T* average, T weight, bool write_back, std::int64_t n) {
  T* __restrict p = param;
  T* __restrict a = average;
  if (write_back) {
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { p[i] = a[i] = a[i] + weight * (p[i] - a[i]); }, a);
  } else {
    for_each_ahead<T>(
        0, n, [&](std::int64_t i) { a[i] = a[i] + weight * (p[i] - a[i]); }, a);
  }
}

template <typename Rule, typename Hyper, typename Positive, typename T>
constexpr onepass::UpdateKernel update_kernel() {
  onepass::UpdateKernel kernel = {Rule::states,
                                  prepare_rule<Rule, Hyper>,
                                  apply_rule<Rule, T>,
                                  {nullptr, nullptr},
                                  {nullptr, nullptr},
                                  nullptr,
                                  nullptr,
                                  false};
  if constexpr (sizeof(T) == sizeof(float) && Rule::states > 0) {
    kernel.apply_bfloat16[0] = apply_bfloat16<Rule, false>;
    kernel.apply_bfloat16[1] = apply_bfloat16<Rule, true>;
  }
  if constexpr (sizeof(T) == sizeof(float) && Rule::states > 0 && !requires { Rule::kMeasureWrites; }) {
    kernel.apply_blocks[0] = apply_blocks<Rule, Positive, false>;
    kernel.apply_blocks[1] = apply_blocks<Rule, Positive, true>;
  }
  if constexpr (requires { Rule::kMeasureWrites; }) {
    kernel.measure = measure_rule<Rule, T>;
    kernel.measure_writes = Rule::kMeasureWrites;
  }
  if constexpr (requires(Rule rule, const double* sums) { rule.adjust(sums); }) kernel.adjust = adjust_rule<Rule>;
  return kernel;
}

}  // namespace
