#include "bindings/arrays.hpp"

namespace {

// (C) float64 in dense memory, one number for each channel of x
double* numbers(const char* name, py::handle object, const onepass_array& x, int channel_axis,
                onepass_array (*view)(const char*, py::handle) = readable) {
  if (object.is_none()) throw py::type_error(std::string(name) + ": is missing");
  const onepass_array a = view(name, object);
  const int axis = channel_axis < 0 ? channel_axis + x.ndim : channel_axis;
  const std::int64_t channels = axis >= 0 && axis < x.ndim ? x.shape[axis] : 0;
  const bool dense = a.ndim == 1 && (a.shape[0] < 2 || a.strides[0] == static_cast<std::int64_t>(sizeof(double)));
  if (a.dtype != ONEPASS_FLOAT64) throw py::type_error(std::string(name) + ": expected float64; convert it first");
  if (!dense || a.shape[0] != channels)
    throw py::value_error(std::string(name) + ": expected float64 of shape (" + std::to_string(channels) +
                          ",), one value for each channel of x, as batch_norm and its parts return them");
  return static_cast<double*>(a.data);
}

// What the backward functions have in common.
struct BackwardArguments {
  onepass_array dy, x, gamma, beta, y;
  const double *mean, *invstd;
  onepass_batch_norm_options options;

  BackwardArguments(bool bits, py::handle dy_, py::handle x_, py::handle gamma_, py::handle beta_, py::handle mean_,
                    py::handle invstd_, py::handle y_, bool training, int channel_axis, bool relu)
      : dy(readable_storage("dy", dy_, bits)),
        x(readable_storage("x", x_, bits)),
        gamma(readable("gamma", gamma_)),
        beta(readable("beta", beta_)),
        y(readable_storage("y", y_, bits)),
        mean(numbers("saved.mean", mean_, x, channel_axis)),
        invstd(numbers("saved.invstd", invstd_, x, channel_axis)),
        options{channel_axis, training, relu, false, 0.0, 0.0} {}
};

struct BackwardResults {
  onepass_array dx, dgamma, dbeta, dresidual;

  BackwardResults(bool bits, py::handle dx_, py::handle dgamma_, py::handle dbeta_, py::handle dresidual_)
      : dx(writable_storage("out", dx_, bits)),
        dgamma(writable("dgamma", dgamma_)),
        dbeta(writable("dbeta", dbeta_)),
        dresidual(writable_storage("dresidual", dresidual_, bits)) {}
};

void register_forward(py::module_& m) {
  m.def(
      "batch_norm",
      [](py::handle x, py::handle gamma, py::handle beta, py::handle running_mean, py::handle running_var,
         py::handle residual, bool training, double momentum, double eps, int channel_axis, bool relu, bool population,
         py::handle out, py::handle mean, py::handle invstd, bool bits, int threads) {
        const onepass_array vx = readable_storage("x", x, bits), vgamma = readable("gamma", gamma),
                            vbeta = readable("beta", beta);
        const auto running = training ? writable : readable;
        const onepass_array vmean = running("running_mean", running_mean), vvar = running("running_var", running_var);
        const onepass_array vresidual = readable_storage("residual", residual, bits),
                            vout = writable_storage("out", out, bits);
        const onepass_batch_norm_options options = {channel_axis, training, relu, population, momentum, eps};
        double* mean_out = numbers("mean", mean, vx, channel_axis, writable);
        double* invstd_out = numbers("invstd", invstd, vx, channel_axis, writable);
        call([&] {
          return onepass_batch_norm(&vx, &vgamma, &vbeta, &vmean, &vvar, &vresidual, &options, &vout, mean_out,
                                    invstd_out, threads);
        });
      },
      py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("running_mean"), py::arg("running_var"),
      py::arg("residual"), py::arg("training"), py::arg("momentum"), py::arg("eps"), py::arg("channel_axis"),
      py::arg("relu"), py::arg("population"), py::arg("out"), py::arg("mean"), py::arg("invstd"), py::arg("bits"),
      py::arg("threads"));
  m.def(
      "batch_norm_statistics",
      [](py::handle x, int channel_axis, py::handle mean, py::handle m2, bool bits, int threads) {
        const onepass_array vx = readable_storage("x", x, bits);
        double* mean_out = numbers("mean", mean, vx, channel_axis, writable);
        double* m2_out = numbers("m2", m2, vx, channel_axis, writable);
        call([&] { return onepass_batch_norm_statistics(&vx, channel_axis, mean_out, m2_out, threads); });
      },
      py::arg("x"), py::arg("channel_axis"), py::arg("mean"), py::arg("m2"), py::arg("bits"), py::arg("threads"));
  m.def(
      "batch_norm_apply",
      [](py::handle x, py::handle gamma, py::handle beta, py::handle running_mean, py::handle running_var,
         py::handle residual, std::int64_t count, py::handle mean, py::handle m2, double momentum, double eps,
         int channel_axis, bool relu, bool population, py::handle out, py::handle invstd, bool bits, int threads) {
        const onepass_array vx = readable_storage("x", x, bits), vgamma = readable("gamma", gamma),
                            vbeta = readable("beta", beta);
        const onepass_array vmean = writable("running_mean", running_mean), vvar = writable("running_var", running_var);
        const onepass_array vresidual = readable_storage("residual", residual, bits),
                            vout = writable_storage("out", out, bits);
        const onepass_batch_norm_options options = {channel_axis, true, relu, population, momentum, eps};
        const double* mean_in = numbers("statistics: mean", mean, vx, channel_axis);
        const double* m2_in = numbers("statistics: m2", m2, vx, channel_axis);
        double* invstd_out = numbers("invstd", invstd, vx, channel_axis, writable);
        call([&] {
          return onepass_batch_norm_apply(&vx, &vgamma, &vbeta, &vmean, &vvar, &vresidual, &options, count, mean_in,
                                          m2_in, &vout, invstd_out, threads);
        });
      },
      py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("running_mean"), py::arg("running_var"),
      py::arg("residual"), py::arg("count"), py::arg("mean"), py::arg("m2"), py::arg("momentum"), py::arg("eps"),
      py::arg("channel_axis"), py::arg("relu"), py::arg("population"), py::arg("out"), py::arg("invstd"),
      py::arg("bits"), py::arg("threads"));
}

void register_backward(py::module_& m) {
  m.def(
      "batch_norm_backward",
      [](py::handle dy, py::handle x, py::handle gamma, py::handle beta, py::handle mean, py::handle invstd,
         py::handle y, bool training, int channel_axis, bool relu, py::handle dx, py::handle dgamma, py::handle dbeta,
         py::handle dresidual, bool bits, int threads) {
        const BackwardArguments a(bits, dy, x, gamma, beta, mean, invstd, y, training, channel_axis, relu);
        const BackwardResults r(bits, dx, dgamma, dbeta, dresidual);
        call([&] {
          return onepass_batch_norm_backward(&a.dy, &a.x, &a.gamma, &a.beta, a.mean, a.invstd, &a.y, &a.options, &r.dx,
                                             &r.dgamma, &r.dbeta, &r.dresidual, threads);
        });
      },
      py::arg("dy"), py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("mean"), py::arg("invstd"), py::arg("y"),
      py::arg("training"), py::arg("channel_axis"), py::arg("relu"), py::arg("dx"), py::arg("dgamma"), py::arg("dbeta"),
      py::arg("dresidual"), py::arg("bits"), py::arg("threads"));
  m.def(
      "batch_norm_backward_sums",
      [](py::handle dy, py::handle x, py::handle gamma, py::handle beta, py::handle mean, py::handle invstd,
         py::handle y, bool training, int channel_axis, bool relu, py::handle sum_dy, py::handle sum_dyx, bool bits,
         int threads) {
        const BackwardArguments a(bits, dy, x, gamma, beta, mean, invstd, y, training, channel_axis, relu);
        double* sum_dy_out = numbers("sum_dy", sum_dy, a.x, channel_axis, writable);
        double* sum_dyx_out = numbers("sum_dyx", sum_dyx, a.x, channel_axis, writable);
        call([&] {
          return onepass_batch_norm_backward_sums(&a.dy, &a.x, &a.gamma, &a.beta, a.mean, a.invstd, &a.y, &a.options,
                                                  sum_dy_out, sum_dyx_out, threads);
        });
      },
      py::arg("dy"), py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("mean"), py::arg("invstd"), py::arg("y"),
      py::arg("training"), py::arg("channel_axis"), py::arg("relu"), py::arg("sum_dy"), py::arg("sum_dyx"),
      py::arg("bits"), py::arg("threads"));
  m.def(
      "batch_norm_backward_apply",
      [](py::handle dy, py::handle x, py::handle gamma, py::handle beta, py::handle mean, py::handle invstd,
         py::handle y, bool training, int channel_axis, bool relu, std::int64_t count, py::handle sum_dy,
         py::handle sum_dyx, py::handle dx, py::handle dgamma, py::handle dbeta, py::handle dresidual, bool bits,
         int threads) {
        const BackwardArguments a(bits, dy, x, gamma, beta, mean, invstd, y, training, channel_axis, relu);
        const BackwardResults r(bits, dx, dgamma, dbeta, dresidual);
        const double* sum_dy_in = numbers("sums: sum_dy", sum_dy, a.x, channel_axis);
        const double* sum_dyx_in = numbers("sums: sum_dyx", sum_dyx, a.x, channel_axis);
        call([&] {
          return onepass_batch_norm_backward_apply(&a.dy, &a.x, &a.gamma, &a.beta, a.mean, a.invstd, &a.y, &a.options,
                                                   count, sum_dy_in, sum_dyx_in, &r.dx, &r.dgamma, &r.dbeta,
                                                   &r.dresidual, threads);
        });
      },
      py::arg("dy"), py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("mean"), py::arg("invstd"), py::arg("y"),
      py::arg("training"), py::arg("channel_axis"), py::arg("relu"), py::arg("count"), py::arg("sum_dy"),
      py::arg("sum_dyx"), py::arg("dx"), py::arg("dgamma"), py::arg("dbeta"), py::arg("dresidual"), py::arg("bits"),
      py::arg("threads"));
}

}  // namespace

void register_batch_norm(py::module_& m) {
  register_forward(m);
  register_backward(m);
}
