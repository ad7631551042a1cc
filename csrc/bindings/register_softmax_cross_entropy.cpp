#include "bindings/arrays.hpp"

namespace {

template <typename Function>
auto along_axis(Function function) {
  return [function](py::handle x, int axis, py::handle out, bool bits, int threads) {
    const onepass_array from = readable_storage("x", x, bits), to = writable_storage("out", out, bits);
    call([&] { return function(&from, axis, &to, threads); });
  };
}

}  // namespace

void register_softmax_cross_entropy(py::module_& m) {
  m.def(
      "softmax_cross_entropy",
      [](py::handle logits, py::handle targets, py::handle weight, std::int64_t ignore_index, double label_smoothing,
         double z_loss, int reduction, std::int64_t n_classes, py::handle loss, py::handle grad,
         py::handle log_probabilities, bool bits, int threads) {
        const onepass_array x = readable_storage("logits", logits, bits), labels = readable("targets", targets);
        const onepass_array t = bits && labels.ndim == x.ndim ? readable_storage("targets", targets, bits)
                                                              : labels;  // fewer axes: labels in uint16
        const onepass_array w = readable_storage("weight", weight, bits), l = writable("loss", loss);
        const onepass_array g = writable_storage("grad", grad, bits);
        const onepass_array p = writable_storage("log_probabilities", log_probabilities, bits);
        const onepass_cross_entropy_options options = {ignore_index, label_smoothing, z_loss, reduction, n_classes};
        double total = 0.0;
        call([&] { return onepass_softmax_cross_entropy(&x, &t, &w, &options, &l, &total, &g, &p, threads); });
        return total;
      },
      py::arg("logits"), py::arg("targets"), py::arg("weight"), py::arg("ignore_index"), py::arg("label_smoothing"),
      py::arg("z_loss"), py::arg("reduction"), py::arg("n_classes"), py::arg("loss"), py::arg("grad"),
      py::arg("log_probabilities"), py::arg("bits"), py::arg("threads"));
  m.def(
      "linear_cross_entropy",
      [](py::handle x, py::handle weight, py::handle bias, py::handle targets, py::handle class_weight,
         std::int64_t ignore_index, double label_smoothing, double z_loss, int reduction, std::int64_t n_classes,
         py::handle loss, py::handle dx, py::handle dweight, py::handle dbias, int threads) {
        const onepass_array vx = readable("x", x), vw = readable("weight", weight), vb = readable("bias", bias);
        const onepass_array t = readable("targets", targets), c = readable("class_weight", class_weight);
        const onepass_array l = writable("loss", loss), gx = writable("dx", dx), gw = writable("dweight", dweight);
        const onepass_array gb = writable("dbias", dbias);
        const onepass_cross_entropy_options options = {ignore_index, label_smoothing, z_loss, reduction, n_classes};
        double total = 0.0;
        call([&] {
          return onepass_linear_cross_entropy(&vx, &vw, &vb, &t, &c, &options, &l, &total, &gx, &gw, &gb, threads);
        });
        return total;
      },
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("targets"), py::arg("class_weight"),
      py::arg("ignore_index"), py::arg("label_smoothing"), py::arg("z_loss"), py::arg("reduction"),
      py::arg("n_classes"), py::arg("loss"), py::arg("dx"), py::arg("dweight"), py::arg("dbias"), py::arg("threads"));
  m.def("softmax", along_axis(onepass_softmax), py::arg("x"), py::arg("axis"), py::arg("out"), py::arg("bits"),
        py::arg("threads"));
  m.def("log_softmax", along_axis(onepass_log_softmax), py::arg("x"), py::arg("axis"), py::arg("out"), py::arg("bits"),
        py::arg("threads"));
}
