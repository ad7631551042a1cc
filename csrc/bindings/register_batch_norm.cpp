#include "bindings/arrays.hpp"

namespace {

// mean and invstd: (C) float64, as batch_norm returns them for an x of these channels
double* statistics(const char* name, py::handle object, const onepass_array& x, int channel_axis) {
  if (object.is_none()) throw py::type_error(std::string(name) + ": is missing");
  const onepass_array a = readable(name, object);
  const int axis = channel_axis < 0 ? channel_axis + x.ndim : channel_axis;
  const std::int64_t channels = axis >= 0 && axis < x.ndim ? x.shape[axis] : 0;
  const bool dense = a.ndim == 1 && (a.shape[0] < 2 || a.strides[0] == static_cast<std::int64_t>(sizeof(double)));
  if (!dense || a.dtype != ONEPASS_FLOAT64 || a.shape[0] != channels)
    throw py::value_error(std::string(name) + ": expected float64 of shape (" + std::to_string(channels) +
                          ",), one value for each channel of x, as batch_norm returned them");
  return static_cast<double*>(a.data);
}

}  // namespace

void register_batch_norm(py::module_& m) {
  m.def(
      "batch_norm",
      [](py::handle x, py::handle gamma, py::handle beta, py::handle running_mean, py::handle running_var,
         py::handle residual, bool training, double momentum, double eps, int channel_axis, bool relu, py::handle out,
         py::handle mean, py::handle invstd, int threads) {
        const onepass_array vx = readable("x", x), vgamma = readable("gamma", gamma), vbeta = readable("beta", beta);
        const auto running = training ? writable : readable;
        const onepass_array vmean = running("running_mean", running_mean), vvar = running("running_var", running_var);
        const onepass_array vresidual = readable("residual", residual), vout = writable("out", out);
        const onepass_batch_norm_options options = {channel_axis, training, relu, momentum, eps};
        double* m_out = statistics("mean", mean, vx, channel_axis);
        double* s_out = statistics("invstd", invstd, vx, channel_axis);
        call([&] {
          return onepass_batch_norm(&vx, &vgamma, &vbeta, &vmean, &vvar, &vresidual, &options, &vout, m_out, s_out,
                                    threads);
        });
      },
      py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("running_mean"), py::arg("running_var"),
      py::arg("residual"), py::arg("training"), py::arg("momentum"), py::arg("eps"), py::arg("channel_axis"),
      py::arg("relu"), py::arg("out"), py::arg("mean"), py::arg("invstd"), py::arg("threads"));
  m.def(
      "batch_norm_backward",
      [](py::handle dy, py::handle x, py::handle gamma, py::handle beta, py::handle mean, py::handle invstd,
         py::handle y, bool training, int channel_axis, bool relu, py::handle dx, py::handle dgamma, py::handle dbeta,
         py::handle dresidual, int threads) {
        const onepass_array vdy = readable("dy", dy), vx = readable("x", x), vgamma = readable("gamma", gamma);
        const onepass_array vbeta = readable("beta", beta), vy = readable("y", y), vdx = writable("out", dx);
        const onepass_array vdgamma = writable("dgamma", dgamma), vdbeta = writable("dbeta", dbeta);
        const onepass_array vdresidual = writable("dresidual", dresidual);
        const onepass_batch_norm_options options = {channel_axis, training, relu, 0.0, 0.0};
        const double* m_in = statistics("saved.mean", mean, vx, channel_axis);
        const double* s_in = statistics("saved.invstd", invstd, vx, channel_axis);
        call([&] {
          return onepass_batch_norm_backward(&vdy, &vx, &vgamma, &vbeta, m_in, s_in, &vy, &options, &vdx, &vdgamma,
                                             &vdbeta, &vdresidual, threads);
        });
      },
      py::arg("dy"), py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("mean"), py::arg("invstd"), py::arg("y"),
      py::arg("training"), py::arg("channel_axis"), py::arg("relu"), py::arg("dx"), py::arg("dgamma"), py::arg("dbeta"),
      py::arg("dresidual"), py::arg("threads"));
}
