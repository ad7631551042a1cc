// Convolution and pooling of images.
#include <pybind11/stl.h>

#include <array>

#include "bindings/arrays.hpp"

namespace {

using Pair = std::array<std::int64_t, 2>;

onepass_window window_of(const Pair& kernel, const Pair& stride, const Pair& padding) {
  return {{kernel[0], kernel[1]}, {stride[0], stride[1]}, {padding[0], padding[1]}};
}

}  // namespace

void register_images(py::module_& m) {
  m.def(
      "conv2d",
      [](py::handle x, py::handle weight, py::handle bias, Pair kernel, Pair stride, Pair padding, bool relu,
         py::handle out, int threads) {
        const onepass_array vx = readable("x", x), vw = readable("weight", weight), vb = readable("bias", bias);
        const onepass_array vy = writable("out", out);
        const onepass_window window = window_of(kernel, stride, padding);
        call([&] { return onepass_conv2d(&vx, &vw, &vb, &window, relu, &vy, threads); });
      },
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
      py::arg("relu"), py::arg("out"), py::arg("threads"));
  m.def(
      "conv2d_backward",
      [](py::handle dy, py::handle x, py::handle weight, Pair kernel, Pair stride, Pair padding, py::handle dx,
         py::handle dweight, py::handle dbias, int threads) {
        const onepass_array vdy = readable("dy", dy), vx = readable("x", x), vw = readable("weight", weight);
        const onepass_array vdx = writable("dx", dx), vdw = writable("dweight", dweight);
        const onepass_array vdb = writable("dbias", dbias);
        const onepass_window window = window_of(kernel, stride, padding);
        call([&] { return onepass_conv2d_backward(&vdy, &vx, &vw, &window, &vdx, &vdw, &vdb, threads); });
      },
      py::arg("dy"), py::arg("x"), py::arg("weight"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
      py::arg("dx"), py::arg("dweight"), py::arg("dbias"), py::arg("threads"));
  m.def(
      "max_pool2d",
      [](py::handle x, Pair kernel, Pair stride, Pair padding, py::handle out, int threads) {
        const onepass_array vx = readable("x", x), vy = writable("out", out);
        const onepass_window window = window_of(kernel, stride, padding);
        call([&] { return onepass_max_pool2d(&vx, &window, &vy, threads); });
      },
      py::arg("x"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("out"), py::arg("threads"));
  m.def(
      "max_pool2d_backward",
      [](py::handle dy, py::handle x, Pair kernel, Pair stride, Pair padding, py::handle out, int threads) {
        const onepass_array vdy = readable("dy", dy), vx = readable("x", x), vdx = writable("out", out);
        const onepass_window window = window_of(kernel, stride, padding);
        call([&] { return onepass_max_pool2d_backward(&vdy, &vx, &window, &vdx, threads); });
      },
      py::arg("dy"), py::arg("x"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("out"),
      py::arg("threads"));
  m.def(
      "avg_pool2d",
      [](py::handle x, Pair kernel, Pair stride, Pair padding, py::handle out, int threads) {
        const onepass_array vx = readable("x", x), vy = writable("out", out);
        const onepass_window window = window_of(kernel, stride, padding);
        call([&] { return onepass_avg_pool2d(&vx, &window, &vy, threads); });
      },
      py::arg("x"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("out"), py::arg("threads"));
  m.def(
      "avg_pool2d_backward",
      [](py::handle dy, Pair kernel, Pair stride, Pair padding, py::handle out, int threads) {
        const onepass_array vdy = readable("dy", dy), vdx = writable("out", out);
        const onepass_window window = window_of(kernel, stride, padding);
        call([&] { return onepass_avg_pool2d_backward(&vdy, &window, &vdx, threads); });
      },
      py::arg("dy"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("out"), py::arg("threads"));
}
