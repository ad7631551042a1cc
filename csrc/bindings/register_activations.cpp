// Activations, alone and with a bias, and dropout.
#include "bindings/arrays.hpp"

void register_activations(py::module_& m) {
  m.def(
      "activate",
      [](int activation, double negative_slope, py::handle x, py::handle out, bool bits, int threads) {
        const onepass_array vx = readable_storage("x", x, bits), vy = writable_storage("out", out, bits);
        call([&] { return onepass_activate(activation, negative_slope, &vx, &vy, threads); });
      },
      py::arg("activation"), py::arg("negative_slope"), py::arg("x"), py::arg("out"), py::arg("bits"),
      py::arg("threads"));
  m.def(
      "activate_backward",
      [](int activation, double negative_slope, py::handle dy, const char* saved_name, py::handle saved, py::handle out,
         bool bits, int threads) {
        const onepass_array vdy = readable_storage("dy", dy, bits), vs = readable_storage(saved_name, saved, bits),
                            vdx = writable_storage("out", out, bits);
        call([&] { return onepass_activate_backward(activation, negative_slope, &vdy, &vs, &vdx, threads); });
      },
      py::arg("activation"), py::arg("negative_slope"), py::arg("dy"), py::arg("saved_name"), py::arg("saved"),
      py::arg("out"), py::arg("bits"), py::arg("threads"));
  m.def(
      "bias_activate",
      [](int activation, double negative_slope, py::handle x, py::handle bias, int channel_axis, py::handle out,
         bool bits, int threads) {
        const onepass_array vx = readable_storage("x", x, bits), vb = readable_storage("bias", bias, bits),
                            vy = writable_storage("out", out, bits);
        call([&] { return onepass_bias_activate(activation, negative_slope, &vx, &vb, channel_axis, &vy, threads); });
      },
      py::arg("activation"), py::arg("negative_slope"), py::arg("x"), py::arg("bias"), py::arg("channel_axis"),
      py::arg("out"), py::arg("bits"), py::arg("threads"));
  m.def(
      "bias_activate_backward",
      [](int activation, double negative_slope, py::handle dy, py::handle x, py::handle bias, int channel_axis,
         py::handle dx, py::handle dbias, bool bits, int threads) {
        const onepass_array vdy = readable_storage("dy", dy, bits), vx = readable_storage("x", x, bits),
                            vb = readable_storage("bias", bias, bits);
        const onepass_array vdx = writable_storage("dx", dx, bits), vdb = writable_storage("dbias", dbias, bits);
        call([&] {
          return onepass_bias_activate_backward(activation, negative_slope, &vdy, &vx, &vb, channel_axis, &vdx, &vdb,
                                                threads);
        });
      },
      py::arg("activation"), py::arg("negative_slope"), py::arg("dy"), py::arg("x"), py::arg("bias"),
      py::arg("channel_axis"), py::arg("dx"), py::arg("dbias"), py::arg("bits"), py::arg("threads"));
  m.def(
      "dropout",
      [](py::handle x, double p, std::uint64_t seed, std::int64_t step, py::handle out, bool bits, int threads) {
        const onepass_array vx = readable_storage("x", x, bits), vy = writable_storage("out", out, bits);
        call([&] { return onepass_dropout(&vx, p, seed, step, &vy, threads); });
      },
      py::arg("x"), py::arg("p"), py::arg("seed"), py::arg("step"), py::arg("out"), py::arg("bits"),
      py::arg("threads"));
  m.def(
      "dropout_backward",
      [](py::handle dy, double p, std::uint64_t seed, std::int64_t step, py::handle out, bool bits, int threads) {
        const onepass_array vdy = readable_storage("dy", dy, bits), vdx = writable_storage("out", out, bits);
        call([&] { return onepass_dropout_backward(&vdy, p, seed, step, &vdx, threads); });
      },
      py::arg("dy"), py::arg("p"), py::arg("seed"), py::arg("step"), py::arg("out"), py::arg("bits"),
      py::arg("threads"));
}
