#include "bindings/arrays.hpp"

void register_row_norm(py::module_& m) {
  m.def(
      "row_norm",
      [](py::handle x, py::handle gamma, py::handle beta, int axes, std::int64_t groups, double eps, py::handle out,
         py::handle mean, py::handle invstd, bool bits, int threads) {
        const onepass_array vx = readable_storage("x", x, bits);
        const onepass_array vgamma = readable("gamma", gamma), vbeta = readable("beta", beta);
        const onepass_array vout = writable_storage("out", out, bits);
        const onepass_array vmean = writable("mean", mean), vinvstd = writable("invstd", invstd);
        const onepass_row_norm_options options = {axes, groups, eps};
        call([&] { return onepass_row_norm(&vx, &vgamma, &vbeta, &options, &vout, &vmean, &vinvstd, threads); });
      },
      py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("axes"), py::arg("groups"), py::arg("eps"),
      py::arg("out"), py::arg("mean"), py::arg("invstd"), py::arg("bits"), py::arg("threads"));
  m.def(
      "row_norm_backward",
      [](py::handle dy, py::handle x, py::handle gamma, py::handle mean, py::handle invstd, int axes,
         std::int64_t groups, py::handle dx, py::handle dgamma, py::handle dbeta, bool bits, int threads) {
        const onepass_array vdy = readable_storage("dy", dy, bits), vx = readable_storage("x", x, bits);
        const onepass_array vgamma = readable("gamma", gamma);
        const onepass_array vmean = readable("saved.mean", mean), vinvstd = readable("saved.invstd", invstd);
        const onepass_array vdx = writable_storage("out", dx, bits);
        const onepass_array vdgamma = writable("dgamma", dgamma), vdbeta = writable("dbeta", dbeta);
        const onepass_row_norm_options options = {axes, groups, 0.0};
        call([&] {
          return onepass_row_norm_backward(&vdy, &vx, &vgamma, &vmean, &vinvstd, &options, &vdx, &vdgamma, &vdbeta,
                                           threads);
        });
      },
      py::arg("dy"), py::arg("x"), py::arg("gamma"), py::arg("mean"), py::arg("invstd"), py::arg("axes"),
      py::arg("groups"), py::arg("dx"), py::arg("dgamma"), py::arg("dbeta"), py::arg("bits"), py::arg("threads"));
}
