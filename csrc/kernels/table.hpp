// What a level offers: one constant table of plain functions on contiguous ranges. No checks, no threads, no memory
// management: those are api/'s and runtime/'s.
#pragma once

#include <cstdint>

#include "onepass/onepass.h"

namespace onepass {

inline constexpr int kRuleBytes = 192;  // room for any rule, prepared for one step
inline constexpr int kRuleAlignment = 16;

inline constexpr int kSums = 2;               // of what a rule names: squares or products
inline constexpr std::int64_t kSumRun = 256;  // elements whose sums are added up before the next ones begin

struct UpdateKernel {
  int states;
  // previous: the last step's rule of the same row (it may lie where the new one goes), or null
  void (*prepare)(const void* hyper, const void* previous, void* rule);
  void (*apply)(const void* rule, void* param, const void* grad, void* const* states, std::int64_t n);

  // The same on a float32 param and grad with states in bfloat16; [1]: rounded stochastically, the first element with
  // random_bits(counter). Null where there are no states, for rules that need sums, and where T is not float.
  void (*apply_bfloat16[2])(const void* rule, void* param, const void* grad, void* const* states, std::int64_t n,
                            std::uint32_t counter);

  // The same with states in 8-bit blocks of which `param` begins one; [1][.]: param and grad are bfloat16.
  void (*apply_blocks[2][2])(const void* rule, void* param, const void* grad, void* const* codes,
                             std::uint8_t* const* scales, std::int64_t n, std::uint32_t counter);

  // Of rules that need sums over the whole tensor, else null. measure adds n elements' to sums (kSums), and with
  // measure_writes writes the states, which apply then leaves alone. adjust makes the tensor's own rule of them, which
  // apply then takes; null: measure was the update.
  void (*measure)(const void* rule, void* param, const void* grad, void* const* states, std::int64_t n, double* sums);
  void (*adjust)(const void* rule, const double* sums, void* adjusted);
  bool measure_writes;
};

// What the next call will read and write: fetched into cache meanwhile. Never null: the row itself, if there is no
// next.
struct RowsAhead {
  const void *read, *write;
};

inline constexpr std::int64_t kRowPiece = 8192;  // elements of a row whose sums are added up before the next ones begin

template <typename T>
struct CrossEntropyRow {
  std::int64_t classes;
  const T* logits;         // (C)
  T* grad;                 // (C), may be logits, or null
  std::int64_t label;      // ignored where probabilities are given
  const T* probabilities;  // (C) or null
  const T* weight;         // (C) or null
  double label_smoothing, z_loss;
  double scale;  // the gradient is multiplied by it
  RowsAhead ahead;
};

// What is known of a row once its largest element is, before anything is written.
template <typename T>
struct RowPeak {
  T max, logit;          // the largest, and that of the special element: the label's, or one of the largest
  std::int64_t special;  // where it is
  double exp;            // exp(logit - max)
};
// Sums over a piece or a row.
struct RowSums {
  double others;          // exp(x - max) of all elements but the special one
  double mass, distance;  // of the target t: t, and t (max - x)
};
template <typename T>
struct RowResult {
  double loss, slope;
  T at_label;
};

inline constexpr std::int64_t kFewClasses = 32;  // rows of no more are taken sixteen at once
inline constexpr int kFewRows = 16;

// Rows of at most kFewClasses, with one class each as their target.
template <typename T>
struct FewRows {
  std::int64_t classes;
  const std::int64_t* labels;  // (16), below 0: no row, or one without a loss
  const T* weight;             // (C) or null
  double z_loss, scale;
  bool gradient;
  T* tile;         // (C, 16): the logits; the gradient, if wanted, else destroyed
  double* losses;  // (16)
};

// Per-channel numbers of batch normalization, ready for use: x - mean is (x - mean_high) - mean_low.
template <typename T>
struct ChannelScale {
  const T *mean_high, *mean_low;
  const T* scale;  // gamma * invstd
  const T* shift;  // beta
};
template <typename T>
struct ChannelSlope {
  const T* mean_dy;  // mean of dy
  const T* slope;    // mean(dy (x - mean)) * invstd^2
};

// What the statistics of some channels lead to. Every array is (channels); null where it is absent.
template <typename T>
struct ForwardStatistics {
  double count;      // values of a channel
  double freedom;    // what divides m2 for running_var: count - 1, or count
  const double* m2;  // sums of squared deviations from mean; null: inference, from the running statistics
  double momentum, eps;
  const T *gamma, *beta;
  T *running_mean, *running_var;
  double *mean, *invstd;
  T *mean_high, *mean_low, *scale, *shift;  // written, the members of ChannelScale
};
template <typename T>
struct BackwardStatistics {
  double count;
  bool training;
  const double *sum_dy, *sum_dyx, *invstd;
  T *dgamma, *dbeta;
  T *mean_dy, *slope;  // written, the members of ChannelSlope
};

// What normalizes a row: xhat = ((x - mean_high) - mean_low) invstd; both parts are zero where there is no mean.
template <typename T>
struct RowScale {
  T mean_high, mean_low, invstd;
};
// What a row's gradient loses, with g = dy gamma: the means of g (zero where there is no mean) and of g xhat.
template <typename T>
struct RowSlope {
  T mean_g, mean_gx;
};

// A storage format beside the type T that is computed in. encode rounds to nearest even where random is null, else up
// with the probability of what is cut off: random holds 32 bits an element, and array (0 the param, 1 + k state k) says
// which of them. It is null where nothing of T is stored so.
template <typename T>
struct Codec {
  void (*decode)(const void* from, T* to, std::int64_t n);
  void (*encode)(const T* from, void* to, std::int64_t n, const std::uint32_t* random, int array);
};
template <typename T>
struct Codecs {
  Codec<T> of[4];  // of float32, float64, float16, bfloat16: the order of onepass_dtype
};

// Blocks of 128 numbers in 8 bits (kernels/blocks.hpp); random as above, state: which state of the update it is.
struct BlockCodec {
  void (*decode)(const void* codes, const std::uint8_t* scales, float* to, std::int64_t blocks);
  void (*encode)(const float* from, void* codes, std::uint8_t* scales, std::int64_t blocks, const std::uint32_t* random,
                 int state);
};

// An activation f, in the order of onepass_activation. saved: f's output where takes_output says so, else its input.
// sums: what dx is added to. option: the negative slope of leaky ReLU.
template <typename T>
struct ActivationKernel {
  bool takes_output;
  void (*forward)(const T* x, T* y, T option, std::int64_t n);
  void (*backward)(const T* dy, const T* saved, T* dx, T option, std::int64_t n);
  void (*bias_forward)(const T* x, const T* bias, T* y, T option, std::int64_t n);
  void (*bias_backward)(const T* dy, const T* x, const T* bias, T* dx, T* sums, T option, std::int64_t n);
};

inline constexpr std::int64_t kLossBlock = 1024;  // losses of elements are summed in blocks of so many

// |d| < corner: curvature / 2 d^2, else slope (|d| - corner / 2)
template <typename T>
struct Huber {
  T corner, curvature, slope;
};

// A window that slides over a plane (height, width).
struct Window {
  std::int64_t height, width, out_height, out_width;
  std::int64_t kernel[2], stride[2], padding[2];  // of height, of width
};

enum class Mask { none, from_x, from_y };  // where ReLU let nothing through

template <typename T>
struct FloatKernels {
  UpdateKernel updates[ONEPASS_UPDATE_COUNT];
  Codecs<T> codecs;
  // average += weight (param - average); with write_back, param = average then
  void (*average)(T* param, T* average, T weight, bool write_back, std::int64_t n);

  double (*sum_of_squares)(const T* x, std::int64_t n);
  // Whole rows; log: log-softmax. out may be x.
  void (*softmax_row)(const T* x, T* out, std::int64_t n, bool log, const RowsAhead& ahead);
  double (*cross_entropy_row)(const CrossEntropyRow<T>& row);
  void (*cross_entropy_few)(const FewRows<T>& rows);
  // A row in pieces [begin, end) of kRowPiece elements: the largest of each; then the peak; then each one's sums, to
  // be added in order; then what is written.
  T (*piece_maximum)(const T* x, std::int64_t n);
  RowPeak<T> (*softmax_peak)(const T* x, std::int64_t n, T max, bool log);
  double (*softmax_sum)(const T* x, T* out, std::int64_t begin, std::int64_t end, const RowPeak<T>& peak, bool log,
                        const RowsAhead& ahead);
  void (*softmax_write)(const T* x, T* out, std::int64_t begin, std::int64_t end, const RowPeak<T>& peak, double others,
                        bool log);
  RowPeak<T> (*cross_entropy_peak)(const CrossEntropyRow<T>& row, T max);
  void (*cross_entropy_sums)(const CrossEntropyRow<T>& row, const RowPeak<T>& peak, std::int64_t begin,
                             std::int64_t end, RowSums& sums);
  RowResult<T> (*cross_entropy_result)(const CrossEntropyRow<T>& row, const RowPeak<T>& peak, const RowSums& sums);
  void (*cross_entropy_gradient)(const CrossEntropyRow<T>& row, const RowResult<T>& result, std::int64_t begin,
                                 std::int64_t end);
  void (*add_column_sums)(const T* x, double* sums, std::int64_t rows, std::int64_t columns, std::int64_t stride);
  // y (rows, columns; stride in elements) += bias, then ReLU
  void (*bias_relu)(T* y, const T* bias, bool relu, std::int64_t rows, std::int64_t columns, std::int64_t stride);
  void (*column_sums)(const T* x, T* sums, std::int64_t rows, std::int64_t columns, std::int64_t stride);

  // Losses of elements: loss and grad (times scale) may be null; they return the sum.
  double (*squared_error)(const T* a, const T* b, T* loss, T* grad, T scale, std::int64_t n);
  double (*huber)(const T* a, const T* b, const Huber<T>& shape, T* loss, T* grad, T scale, std::int64_t n);
  double (*binary_cross_entropy)(const T* x, const T* t, const T* weight, const T* positive, T* loss, T* grad, T scale,
                                 std::int64_t n);
  double (*weighted_losses)(const T* value, const T* weight, T* loss, std::int64_t n);  // -weight value

  ActivationKernel<T> activations[ONEPASS_ACTIVATION_COUNT];
  void (*move_sums)(T* part, double* total, std::int64_t n);  // total += part; part = 0
  // y = x scale where random_bits(counter + i step) >= dropped, else 0
  void (*dropout)(const T* x, T* y, T scale, std::uint32_t dropped, std::uint32_t counter, std::uint32_t step,
                  std::int64_t n);

  // Batch normalization. _run: one channel, `rows` runs of n elements, stride apart. _columns: `rows` rows, each column
  // a channel of its own. moments: mean and sum of squared deviations; gradient: sum of dy and of dy (x - mean).
  void (*moments_run)(const T* x, std::int64_t rows, std::int64_t n, std::int64_t stride, double* mean, double* m2);
  void (*moments_columns)(const T* x, std::int64_t rows, std::int64_t columns, std::int64_t stride, double* mean,
                          double* m2);
  void (*gradient_run)(const T* dy, const T* x, const T* y, Mask mask, const ChannelScale<T>& channel,
                       std::int64_t rows, std::int64_t n, std::int64_t stride, double* sum_dy, double* sum_dyx);
  void (*gradient_columns)(const T* dy, const T* x, const T* y, Mask mask, const ChannelScale<T>& channel,
                           std::int64_t rows, std::int64_t columns, std::int64_t stride, double* sum_dy,
                           double* sum_dyx);
  void (*forward_statistics)(const ForwardStatistics<T>& statistics, std::int64_t channels);
  void (*channel_scale)(const double* mean, const double* invstd, const T* gamma, const T* beta, T* mean_high,
                        T* mean_low, T* scale, T* shift, std::int64_t channels);
  void (*backward_statistics)(const BackwardStatistics<T>& statistics, std::int64_t channels);
  void (*normalize_run)(const T* x, const T* residual, T* y, bool relu, const ChannelScale<T>& channel,
                        std::int64_t rows, std::int64_t n, std::int64_t stride);
  void (*normalize_columns)(const T* x, const T* residual, T* y, bool relu, const ChannelScale<T>& channel,
                            std::int64_t rows, std::int64_t columns);
  void (*dx_run)(const T* dy, const T* x, const T* y, Mask mask, const ChannelScale<T>& channel,
                 const ChannelSlope<T>& slope, T* dx, T* dresidual, std::int64_t rows, std::int64_t n,
                 std::int64_t stride);
  void (*dx_columns)(const T* dy, const T* x, const T* y, Mask mask, const ChannelScale<T>& channel,
                     const ChannelSlope<T>& slope, T* dx, T* dresidual, std::int64_t rows, std::int64_t columns);

  // Row normalization: n elements of one row, each with a gamma and a beta (may be null) of its own, or all with one
  // (_run). y may be x, dx may be dy. Their statistics: moments_run and sum_of_squares.
  void (*normalize_row)(const T* x, const T* gamma, const T* beta, const RowScale<T>& scale, T* y, std::int64_t n);
  void (*normalize_row_run)(const T* x, T gamma, T beta, const RowScale<T>& scale, T* y, std::int64_t n);
  // sums of g and of g xhat; gamma null: ones
  void (*gradient_row)(const T* dy, const T* x, const T* gamma, const RowScale<T>& scale, std::int64_t n, double* sum_g,
                       double* sum_gx);
  // dgamma += dy xhat and dbeta += dy, both or neither null
  void (*dx_row)(const T* dy, const T* x, const T* gamma, const RowScale<T>& scale, const RowSlope<T>& slope, T* dx,
                 T* dgamma, T* dbeta, std::int64_t n);
  void (*dx_row_run)(const T* dy, const T* x, T gamma, const RowScale<T>& scale, const RowSlope<T>& slope, T* dx,
                     std::int64_t n);

  // Convolution: the columns of output rows [first, last) of an image (channels, height, width), and dx += theirs
  void (*unfold)(const T* x, T* columns, const Window& window, std::int64_t channels, std::int64_t first,
                 std::int64_t last);
  void (*fold)(const T* columns, T* dx, const Window& window, std::int64_t channels, std::int64_t first,
               std::int64_t last);
  void (*row_bias_relu)(T* y, const T* bias, bool relu, std::int64_t rows, std::int64_t columns, std::int64_t stride);
  void (*add_row_sums)(const T* x, double* sums, std::int64_t rows, std::int64_t columns);
  // Pooling of one plane; dx is added to
  void (*max_pool)(const T* x, T* y, const Window& window);
  void (*max_pool_backward)(const T* dy, const T* x, T* dx, const Window& window);
  void (*average_pool)(const T* x, T* y, const Window& window);
  void (*average_pool_backward)(const T* dy, T* dx, const Window& window);

  void (*empty_into)(T* from, double* to, std::int64_t n);  // to += from, from = 0
};

struct KernelTable {
  const char* isa;
  FloatKernels<float> f32;
  FloatKernels<double> f64;

  // a += b of (count, mean, m2) for every column (Chan, Golub and LeVeque 1983)
  void (*merge_moments)(std::int64_t count_a, double* mean_a, double* m2_a, std::int64_t count_b, const double* mean_b,
                        const double* m2_b, std::int64_t columns);
  BlockCodec blocks[2];  // of signed and of never negative numbers
  void (*join_halves)(const void* upper, const void* lower, float* to, std::int64_t n);
  void (*split_halves)(const float* from, void* upper, void* lower, std::int64_t n);
  void (*fill_random[2])(std::uint32_t counter, std::uint32_t* out, std::int64_t n);  // [1]: in pairs, for blocks
  void (*stream)(float* const* arrays, std::size_t reads, std::size_t updates, std::size_t writes, std::int64_t begin,
                 std::int64_t end);

  template <typename T>
  const FloatKernels<T>& kernels() const {
    if constexpr (sizeof(T) == sizeof(float))
      return f32;
    else
      return f64;
  }
};

}  // namespace onepass
