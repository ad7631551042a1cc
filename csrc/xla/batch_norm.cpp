// Batch normalization of x (..., C, ...) and its gradient. statistics: uint32 (2, C, 2), the bits of the channels'
// means and inverse standard deviations in float64, which JAX without its 64-bit mode has no arrays of.
//
// forward     x, gamma, beta, running mean, running variance -> y, both running statistics in their memory, statistics
// backward    dy, x, gamma, beta, statistics -> dx in the memory of dy, dgamma, dbeta
// attributes  axis: of C, counted from the end (1: the last); training, relu; momentum, eps
#include <vector>

#include "xla/call.hpp"
#include "xla/handlers.hpp"

namespace onepass::xla {
namespace {

class Problem {
 public:
  std::int64_t copies, channels;
  onepass_batch_norm_options options;

  Problem(const Call& call, const abi::Buffer& x, const abi::Buffer& gamma)
      : copies(copies_of(gamma, 1)), channels(gamma.shape[gamma.rank - 1]) {
    const std::int64_t batch_axes = gamma.rank - 1;
    shape_.assign(x.shape + batch_axes, x.shape + x.rank);
    options = {static_cast<std::int32_t>(static_cast<std::int64_t>(shape_.size()) - call.integer("axis")),
               static_cast<std::int32_t>(call.integer("training")),
               static_cast<std::int32_t>(call.integer("relu")),
               0,
               call.real("momentum"),
               call.real("eps")};
  }
  onepass_array like_x(const abi::Buffer& b, std::int64_t copy) const { return part_of(b, copies, copy, shape_); }
  onepass_array of_channels(const abi::Buffer& b, std::int64_t copy) const {
    return part_of(b, copies, copy, {&channels, 1});
  }
  double* mean(const abi::Buffer& statistics, std::int64_t copy) const {
    return static_cast<double*>(statistics.data) + copy * 2 * channels;
  }
  double* invstd(const abi::Buffer& statistics, std::int64_t copy) const { return mean(statistics, copy) + channels; }

 private:
  std::vector<std::int64_t> shape_;
};

void forward(const Call& call) {
  call.expect(5, 4);
  const Problem p(call, call.input(0), call.input(1));
  const abi::Buffer& statistics = call.output(3);
  start_from(call.input(3), call.output(1));
  start_from(call.input(4), call.output(2));
  for (std::int64_t i = 0; i < p.copies; ++i) {
    const onepass_array x = p.like_x(call.input(0), i), y = p.like_x(call.output(0), i), none = absent();
    const onepass_array gamma = p.of_channels(call.input(1), i), beta = p.of_channels(call.input(2), i);
    const onepass_array mean = p.of_channels(call.output(1), i), var = p.of_channels(call.output(2), i);
    raise_if(onepass_batch_norm(&x, &gamma, &beta, &mean, &var, &none, &p.options, &y, p.mean(statistics, i),
                                p.invstd(statistics, i), 0));
  }
}

void backward(const Call& call) {
  call.expect(5, 3);
  const Problem p(call, call.input(1), call.input(2));
  const abi::Buffer& statistics = call.input(4);
  start_from(call.input(0), call.output(0));
  for (std::int64_t i = 0; i < p.copies; ++i) {
    const onepass_array dy = p.like_x(call.output(0), i), x = p.like_x(call.input(1), i), none = absent();
    const onepass_array gamma = p.of_channels(call.input(2), i), beta = p.of_channels(call.input(3), i);
    const onepass_array dgamma = p.of_channels(call.output(1), i), dbeta = p.of_channels(call.output(2), i);
    raise_if(onepass_batch_norm_backward(&dy, &x, &gamma, &beta, p.mean(statistics, i), p.invstd(statistics, i), &none,
                                         &p.options, &dy, &dgamma, &dbeta, &none, 0));
  }
}

}  // namespace

abi::Error* batch_norm(abi::Frame* frame) { return run(frame, forward); }
abi::Error* batch_norm_backward(abi::Frame* frame) { return run(frame, backward); }

}  // namespace onepass::xla
