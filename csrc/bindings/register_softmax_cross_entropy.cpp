#include "bindings/arrays.hpp"

void register_softmax_cross_entropy(py::module_& m) {
  m.def(
      "softmax_cross_entropy",
      [](py::handle logits, py::handle targets, py::handle weight, std::int64_t ignore_index, double label_smoothing,
         double z_loss, int reduction, py::handle loss, py::handle grad, int threads) {
        const onepass_array x = readable("logits", logits), t = readable("targets", targets);
        const onepass_array w = readable("weight", weight), l = writable("loss", loss), g = writable("grad", grad);
        const onepass_cross_entropy_options options = {ignore_index, label_smoothing, z_loss, reduction};
        double total = 0.0;
        call([&] { return onepass_softmax_cross_entropy(&x, &t, &w, &options, &l, &total, &g, threads); });
        return total;
      },
      py::arg("logits"), py::arg("targets"), py::arg("weight"), py::arg("ignore_index"), py::arg("label_smoothing"),
      py::arg("z_loss"), py::arg("reduction"), py::arg("loss"), py::arg("grad"), py::arg("threads"));
  m.def(
      "softmax",
      [](py::handle x, int axis, py::handle out, int threads) {
        const onepass_array from = readable("x", x), to = writable("out", out);
        call([&] { return onepass_softmax(&from, axis, &to, threads); });
      },
      py::arg("x"), py::arg("axis"), py::arg("out"), py::arg("threads"));
  m.def(
      "log_softmax",
      [](py::handle x, int axis, py::handle out, int threads) {
        const onepass_array from = readable("x", x), to = writable("out", out);
        call([&] { return onepass_log_softmax(&from, axis, &to, threads); });
      },
      py::arg("x"), py::arg("axis"), py::arg("out"), py::arg("threads"));
}
