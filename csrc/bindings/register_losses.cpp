// Losses of elements, and negative log likelihood.
#include "bindings/arrays.hpp"

void register_losses(py::module_& m) {
  m.def(
      "mean_squared_error",
      [](py::handle prediction, py::handle target, int reduction, py::handle loss, py::handle grad, bool bits,
         int threads) {
        const onepass_array p = readable_storage("prediction", prediction, bits),
                            t = readable_storage("target", target, bits);
        const onepass_array l = writable("loss", loss), g = writable_storage("grad", grad, bits);
        double total = 0.0;
        call([&] { return onepass_mean_squared_error(&p, &t, reduction, &l, &total, &g, threads); });
        return total;
      },
      py::arg("prediction"), py::arg("target"), py::arg("reduction"), py::arg("loss"), py::arg("grad"), py::arg("bits"),
      py::arg("threads"));
  m.def(
      "huber_loss",
      [](py::handle prediction, py::handle target, double delta, bool smooth_l1, int reduction, py::handle loss,
         py::handle grad, bool bits, int threads) {
        const onepass_array p = readable_storage("prediction", prediction, bits),
                            t = readable_storage("target", target, bits);
        const onepass_array l = writable("loss", loss), g = writable_storage("grad", grad, bits);
        double total = 0.0;
        call([&] { return onepass_huber_loss(&p, &t, delta, smooth_l1, reduction, &l, &total, &g, threads); });
        return total;
      },
      py::arg("prediction"), py::arg("target"), py::arg("delta"), py::arg("smooth_l1"), py::arg("reduction"),
      py::arg("loss"), py::arg("grad"), py::arg("bits"), py::arg("threads"));
  m.def(
      "binary_cross_entropy",
      [](py::handle logits, py::handle targets, py::handle weight, py::handle pos_weight, int reduction,
         py::handle loss, py::handle grad, bool bits, int threads) {
        const onepass_array x = readable_storage("logits", logits, bits);
        const onepass_array t = bits ? readable_storage("targets", targets, bits) : readable("targets", targets);
        const onepass_array w = readable_storage("weight", weight, bits),
                            p = readable_storage("pos_weight", pos_weight, bits);
        const onepass_array l = writable("loss", loss), g = writable_storage("grad", grad, bits);
        double total = 0.0;
        call([&] { return onepass_binary_cross_entropy(&x, &t, &w, &p, reduction, &l, &total, &g, threads); });
        return total;
      },
      py::arg("logits"), py::arg("targets"), py::arg("weight"), py::arg("pos_weight"), py::arg("reduction"),
      py::arg("loss"), py::arg("grad"), py::arg("bits"), py::arg("threads"));
  m.def(
      "nll_loss",
      [](py::handle log_probabilities, py::handle targets, py::handle weight, std::int64_t ignore_index, int reduction,
         py::handle loss, py::handle grad, bool bits, int threads) {
        const onepass_array x = readable_storage("log_probabilities", log_probabilities, bits),
                            t = readable("targets", targets);
        const onepass_array w = readable_storage("weight", weight, bits), l = writable("loss", loss),
                            g = writable_storage("grad", grad, bits);
        double total = 0.0;
        call([&] { return onepass_nll_loss(&x, &t, &w, ignore_index, reduction, &l, &total, &g, threads); });
        return total;
      },
      py::arg("log_probabilities"), py::arg("targets"), py::arg("weight"), py::arg("ignore_index"),
      py::arg("reduction"), py::arg("loss"), py::arg("grad"), py::arg("bits"), py::arg("threads"));
}
