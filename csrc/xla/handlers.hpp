// The custom calls that python/onepass/jax/ registers with XLA. Each file says what its operands, results and
// attributes are. With vmap (method "broadcast_all") all of them have the batch's axes in front.
#pragma once

#include "xla/abi.hpp"

namespace onepass::xla {

abi::Error* update(abi::Frame* frame);
abi::Error* cross_entropy(abi::Frame* frame);
abi::Error* batch_norm(abi::Frame* frame);
abi::Error* batch_norm_backward(abi::Frame* frame);

// Which minor version of the interface to answer with, as an old XLA asks without saying its own. Before registration.
void speak(int minor);

struct Target {
  const char* name;
  abi::Handler* handler;
};
// The name says what a message of XLA about a missing implementation on another platform should say.
inline constexpr Target kTargets[] = {{"onepass_cpu_update", update},
                                      {"onepass_cpu_cross_entropy", cross_entropy},
                                      {"onepass_cpu_batch_norm", batch_norm},
                                      {"onepass_cpu_batch_norm_backward", batch_norm_backward}};

}  // namespace onepass::xla
