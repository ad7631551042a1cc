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

// body(index sequence of the states, pointer to each of them)
template <typename Rule, typename Stored, typename Body>
inline void with_states(void* const* states, Body&& body) {
  [&]<std::size_t... k>(std::index_sequence<k...> all) { body(all, static_cast<Stored*>(states[k])...); }
  (std::make_index_sequence<static_cast<std::size_t>(Rule::states)>());
}

template <typename T>
constexpr bool kHasPlain = sizeof(T) == sizeof(float);  // of its own: a copy for double would be large, and rarely run

// The rule of a loop that knows whether it is plain: see Gradient.
template <typename Rule, bool plain>
inline Rule known(const void* storage) {
  Rule rule = *static_cast<const Rule*>(storage);
  rule.gradient.plain = plain;
  return rule;
}
template <typename Rule>
inline bool is_plain(const void* storage) {
  return static_cast<const Rule*>(storage)->gradient.plain;
}

// param, states: read and written; grad: read. None of them overlap.
template <typename Rule, bool plain, typename T, typename... States>
void run_rule(const void* storage, std::int64_t n, T* __restrict p, const T* __restrict g,
              States* __restrict... states) {
  const Rule rule = known<Rule, plain>(storage);
  for_each_ahead<T>(
      0, n, [&](std::int64_t i) { rule(p[i], g[i], states[i]...); }, p, g, states...);
}

template <typename Rule, typename T>
void apply_rule(const void* storage, void* param, const void* grad, void* const* states, std::int64_t n) {
  with_states<Rule, T>(states, [&](auto, auto*... s) {
    T* const p = static_cast<T*>(param);
    const T* const g = static_cast<const T*>(grad);
    if (kHasPlain<T> && is_plain<Rule>(storage))
      run_rule<Rule, kHasPlain<T>>(storage, n, p, g, s...);
    else
      run_rule<Rule, false>(storage, n, p, g, s...);
  });
}

// The same with states in bfloat16, decoded and rounded where they are used: a buffer between would cost more than the
// conversions.
template <typename Rule, bool stochastic, std::size_t... k, typename... States>
void run_bfloat16(const void* storage, std::int64_t n, std::uint32_t counter, float* __restrict p,
                  const float* __restrict g, std::index_sequence<k...>, States* __restrict... states) {
  const Rule rule = known<Rule, false>(storage);
  for_each_ahead<float>(
      0, n,
      [&](std::int64_t i) {
        float x[] = {BFloat16::decode(states[i])...};
        rule(p[i], g[i], x[k]...);
        const std::uint32_t random = stochastic ? random_bits(counter + static_cast<std::uint32_t>(i)) : 0U;
        ((states[i] = stochastic ? BFloat16::stochastic(x[k], bits_for<1 + k>(random)) : BFloat16::nearest(x[k])), ...);
      },
      p, g, states...);
}

template <typename Rule, bool stochastic>
void apply_bfloat16(const void* storage, void* param, const void* grad, void* const* states, std::int64_t n,
                    std::uint32_t counter) {
  with_states<Rule, Half>(states, [&](auto all, auto*... s) {
    run_bfloat16<Rule, stochastic>(storage, n, counter, static_cast<float*>(param), static_cast<const float*>(grad),
                                   all, s...);
  });
}

// A param and a grad as they lie beside states in blocks.
inline float decoded(float x) { return x; }
inline float decoded(Half x) { return BFloat16::decode(x); }
template <bool stochastic>
inline void store_rounded(float x, float* to, std::uint32_t) {
  *to = x;
}
template <bool stochastic>
inline void store_rounded(float x, Half* to, std::uint32_t random) {
  *to = stochastic ? BFloat16::stochastic(x, bits_for<0>(random)) : BFloat16::nearest(x);
}

// The same with states in 8-bit blocks, of which the first number is one of the first block's: at most kBlocksAtOnce of
// them. Positive says of each state whether it is never negative; param and grad are float32, or both bfloat16.
template <typename Rule, bool plain, typename Positive, typename Stored, bool stochastic, std::size_t... k>
void run_blocks(const void* storage, Stored* __restrict p, const Stored* __restrict g, std::uint32_t* const* words,
                std::uint8_t* const* scales, std::int64_t n, std::uint32_t counter, std::index_sequence<k...>) {
  constexpr int states = Rule::states;
  constexpr std::int64_t kMost = kBlocksAtOnce * kBlockNumbers, kAhead = 1024;
  constexpr auto kHalfBytes = static_cast<std::int64_t>(64 * sizeof(Stored));
  const Rule rule = known<Rule, plain>(storage);
  const std::int64_t blocks = (n + kBlockNumbers - 1) / kBlockNumbers;
  alignas(64) float number[states][kMost];
  alignas(64) std::uint32_t random[stochastic ? kMost : 1];
  alignas(64) BlockMaximum maximum[states][kBlocksAtOnce] = {};
  for (std::int64_t half = 0; half < 2 * blocks; ++half) {
    const float scale[states] = {BlockCode<Positive::of[k]>::scale(scales[k][half / 2])...};
    const std::uint32_t* const word[states] = {words[k] + 16 * half...};
    BlockMaximum* const largest[states] = {&maximum[k][half / 2]...};
    (prefetch(word[k], kAhead), ...);  // asked for evenly: a core waits for few lines at a time
    for (std::int64_t line = 0; line < kHalfBytes; line += 64) {
      prefetch(p + 64 * half, kAhead + line);
      prefetch(g + 64 * half, kAhead + line);
    }
    for_bytes([&](auto byte) {
      const std::int64_t first = 64 * half + 16 * byte;
      ONEPASS_INDEPENDENT
      for (int lane = 0; lane < 16; ++lane) {
        const std::int64_t i = first + lane;
        std::uint32_t bits = 0;
        if constexpr (stochastic)
          random[i] = bits = byte % 2 == 0 ? random_bits(counter + static_cast<std::uint32_t>(i))
                                           : second_of_pair(random[i - kPairDistance]);
        float own = decoded(p[i]);
        float x[states] = {BlockCode<Positive::of[k]>::decode(shifted<20 - 8 * byte>(word[k][lane]),
                                                              shifted<24 - 8 * byte>(word[k][lane]), scale[k])...};
        rule(own, decoded(g[i]), x[k]...);
        store_rounded<stochastic>(own, p + i, bits);
        ((number[k][i] = x[k], largest[k]->see(lane, x[k])), ...);
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

template <typename Rule, typename Positive, typename Stored, bool stochastic>
void apply_blocks(const void* storage, void* param, const void* grad, void* const* codes, std::uint8_t* const* scales,
                  std::int64_t n, std::uint32_t counter) {
  constexpr auto all = std::make_index_sequence<static_cast<std::size_t>(Rule::states)>();
  const bool plain = is_plain<Rule>(storage);
  for (std::int64_t at = 0, length; at < n; at += length) {
    length = n - at < kBlocksAtOnce * kBlockNumbers ? n - at : kBlocksAtOnce * kBlockNumbers;
    if (length > kBlockNumbers) length -= length % kBlockNumbers;  // a last, short block goes alone
    std::uint32_t* words[Rule::states];
    std::uint8_t* own_scales[Rule::states];
    for (int k = 0; k < Rule::states; ++k) {
      words[k] = static_cast<std::uint32_t*>(codes[k]) + at / 4;
      own_scales[k] = scales[k] + at / kBlockNumbers;
    }
    const auto apply = [&](Stored* p, const Stored* g) {
      const std::uint32_t first = counter + static_cast<std::uint32_t>(at);
      if (plain)
        run_blocks<Rule, true, Positive, Stored, stochastic>(storage, p, g, words, own_scales, length, first, all);
      else
        run_blocks<Rule, false, Positive, Stored, stochastic>(storage, p, g, words, own_scales, length, first, all);
    };
    Stored* const p = static_cast<Stored*>(param) + at;
    const Stored* const g = static_cast<const Stored*>(grad) + at;
    if (length % kBlockNumbers == 0) {
      apply(p, g);
    } else {
      alignas(64) Stored whole_p[kBlockNumbers] = {}, whole_g[kBlockNumbers] = {};
      const std::size_t bytes = static_cast<std::size_t>(length) * sizeof(Stored);
      std::memcpy(whole_p, p, bytes);
      std::memcpy(whole_g, g, bytes);
      apply(whole_p, whole_g);
      std::memcpy(p, whole_p, bytes);
    }
  }
}

// ---- rules that need sums over the whole tensor

// Sums of first^2 and of second^2, or of first second, in double: n <= kSumRun of them.
template <bool cross, typename T>
void add_products(const T* first, const T* second, std::int64_t n, double* sums) {
  Lanes<double> squares = Lanes<double>::all(0.0), products = squares;
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
    products = products + (cross ? a : b) * b;
  });
  sums[0] += squares.sum();
  sums[1] += products.sum();
}

template <typename Rule, bool plain, typename T, typename... States>
void run_measure(const void* storage, std::int64_t n, double* sums, T* __restrict p, const T* __restrict g,
                 States* __restrict... states) {
  const Rule rule = known<Rule, plain>(storage);
  alignas(64) T first[onepass::kSumRun], second[onepass::kSumRun];
  for (std::int64_t begin = 0; begin < n; begin += onepass::kSumRun) {
    const std::int64_t length = n - begin < onepass::kSumRun ? n - begin : onepass::kSumRun;
    for_each_ahead<T>(
        begin, begin + length,
        [&](std::int64_t i) { rule.measure(p[i], g[i], states[i]..., first[i - begin], second[i - begin]); }, p, g,
        states...);
    add_products<Rule::kCross>(first, second, length, sums);
  }
}

template <typename Rule, typename T>
void measure_rule(const void* storage, void* param, const void* grad, void* const* states, std::int64_t n,
                  double* sums) {
  with_states<Rule, T>(states, [&](auto, auto*... s) {
    T* const p = static_cast<T*>(param);
    const T* const g = static_cast<const T*>(grad);
    if (kHasPlain<T> && is_plain<Rule>(storage))
      run_measure<Rule, kHasPlain<T>>(storage, n, sums, p, g, s...);
    else
      run_measure<Rule, false>(storage, n, sums, p, g, s...);
  });
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
  onepass::UpdateKernel kernel = {};
  kernel.states = Rule::states;
  kernel.prepare = prepare_rule<Rule, Hyper>;
  kernel.apply = apply_rule<Rule, T>;
  if constexpr (sizeof(T) == sizeof(float) && Rule::states > 0 && !requires { Rule::kMeasureWrites; }) {
    kernel.apply_bfloat16[0] = apply_bfloat16<Rule, false>;
    kernel.apply_bfloat16[1] = apply_bfloat16<Rule, true>;
    kernel.apply_blocks[0][0] = apply_blocks<Rule, Positive, float, false>;
    kernel.apply_blocks[0][1] = apply_blocks<Rule, Positive, float, true>;
    kernel.apply_blocks[1][0] = apply_blocks<Rule, Positive, Half, false>;
    kernel.apply_blocks[1][1] = apply_blocks<Rule, Positive, Half, true>;
  }
  if constexpr (requires { Rule::kMeasureWrites; }) {
    kernel.measure = measure_rule<Rule, T>;
    kernel.measure_writes = Rule::kMeasureWrites;
  }
  if constexpr (requires(Rule rule, const double* sums) { rule.adjust(sums); }) kernel.adjust = adjust_rule<Rule>;
  return kernel;
}

}  // namespace
