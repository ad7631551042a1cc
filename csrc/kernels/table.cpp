// The one translation unit of an instruction-set level. It defines one external symbol, the level's table; everything
// else in this folder lives in unnamed namespaces (a test reads the symbols).
#include "kernels/table.hpp"

#include "kernels/activations.hpp"
#include "kernels/batch_norm.hpp"
#include "kernels/blocks.hpp"
#include "kernels/dropout.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/elementwise_losses.hpp"
#include "kernels/few_classes.hpp"
#include "kernels/formats.hpp"
#include "kernels/row_norm.hpp"
#include "kernels/rules.hpp"
#include "kernels/softmax_cross_entropy.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor_rules.hpp"
#include "kernels/update.hpp"
#include "kernels/windows.hpp"

namespace {

namespace positive {  // which states of an update are never negative
#define ONEPASS_STATE(name) false,
#define ONEPASS_POSITIVE(name) true,
#define ONEPASS_UPDATE(name, state_names, hyperparameters) \
  struct name {                                            \
    static constexpr bool of[] = {state_names false};      \
  };
#include "onepass/updates.def"
#undef ONEPASS_UPDATE
#undef ONEPASS_POSITIVE
#undef ONEPASS_STATE
}  // namespace positive

template <typename T>
constexpr onepass::FloatKernels<T> float_kernels() {
  return {
      .updates =
          {
#define ONEPASS_UPDATE(name, state_names, hyperparameters) \
  update_kernel<rules::name<T>, onepass_##name##_hyper, positive::name, T>(),
#include "onepass/updates.def"
#undef ONEPASS_UPDATE
          },
      .codecs = codecs<T>(),
      .average = average<T>,
      .sum_of_squares = sum_of_squares<T>,
      .softmax_row = softmax_row<T>,
      .cross_entropy_row = cross_entropy_row<T>,
      .cross_entropy_few = cross_entropy_few<T>,
      .piece_maximum = piece_maximum<T>,
      .softmax_peak = softmax_peak<T>,
      .softmax_sum = softmax_sum<T>,
      .softmax_write = softmax_write<T>,
      .cross_entropy_peak = cross_entropy_peak<T>,
      .cross_entropy_sums = cross_entropy_sums<T>,
      .cross_entropy_result = cross_entropy_result<T>,
      .cross_entropy_gradient = cross_entropy_gradient<T>,
      .add_column_sums = add_column_sums<T>,
      .bias_relu = bias_relu<T>,
      .column_sums = column_sums<T>,
      .squared_error = squared_error<T>,
      .huber = huber<T>,
      .binary_cross_entropy = binary_cross_entropy<T>,
      .weighted_losses = weighted_losses<T>,
      .activations =
          {
              activation::kernel<activation::Relu<T>, T>(),
              activation::kernel<activation::LeakyRelu<T>, T>(),
              activation::kernel<activation::Gelu<T>, T>(),
              activation::kernel<activation::GeluTanh<T>, T>(),
              activation::kernel<activation::Silu<T>, T>(),
              activation::kernel<activation::Sigmoid<T>, T>(),
              activation::kernel<activation::Tanh<T>, T>(),
          },
      .move_sums = move_sums<T>,
      .dropout = dropout<T>,
      .moments_run = moments_run<T>,
      .moments_columns = moments_columns<T>,
      .gradient_run = gradient_run<T>,
      .gradient_columns = gradient_columns<T>,
      .forward_statistics = forward_statistics<T>,
      .channel_scale = channel_scale<T>,
      .backward_statistics = backward_statistics<T>,
      .normalize_run = normalize_run<T>,
      .normalize_columns = normalize_columns<T>,
      .dx_run = dx_run<T>,
      .dx_columns = dx_columns<T>,
      .normalize_row = normalize_row<T>,
      .normalize_row_run = normalize_row_run<T>,
      .gradient_row = gradient_row<T>,
      .dx_row = dx_row<T>,
      .dx_row_run = dx_row_run<T>,
      .unfold = unfold<T>,
      .fold = fold<T>,
      .row_bias_relu = row_bias_relu<T>,
      .add_row_sums = add_row_sums<T>,
      .max_pool = max_pool<T>,
      .max_pool_backward = max_pool_backward<T>,
      .average_pool = average_pool<T>,
      .average_pool_backward = average_pool_backward<T>,
      .empty_into = empty_into<T>,
  };
}

}  // namespace

// ONEPASS_TABLE and ONEPASS_ISA_NAME come from cmake/IsaLevels.cmake.
extern "C" const onepass::KernelTable ONEPASS_TABLE;
constexpr onepass::KernelTable ONEPASS_TABLE = {
    .isa = ONEPASS_ISA_NAME,
    .f32 = float_kernels<float>(),
    .f64 = float_kernels<double>(),
    .merge_moments = merge_moments,
    .blocks = {{decode_blocks<false>, encode_blocks<false>}, {decode_blocks<true>, encode_blocks<true>}},
    .join_halves = join_halves,
    .split_halves = split_halves,
    .fill_random = {fill_random<false>, fill_random<true>},
    .stream = stream,
};
