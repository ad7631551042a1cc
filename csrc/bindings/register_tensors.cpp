// Kernels on torch's tensors, and torch's threads. What they do is what an eager call of a small network would else
// spend its time on in Python.
#include "bindings/openmp.hpp"
#include "bindings/tensors.hpp"

namespace {

// How tensors are seen, and in whose threads the kernels run.
class Tensors {
 public:
  // types: of tensors that nothing but autograd looks at. to_dlpack: gives a DLPack capsule.
  Tensors(py::tuple types, py::object to_dlpack) : types_(std::move(types)), to_dlpack_(std::move(to_dlpack)) {}

  py::object openmp() const { return openmp_; }
  void set_openmp(py::object openmp) {
    runtime_ = openmp.is_none() ? nullptr : openmp.cast<const OpenMp*>();
    openmp_ = std::move(openmp);
  }

  // Whether all are None or of one of the types
  bool are_plain(const py::args& objects) const {
    for (const py::handle object : objects)
      if (!object.is_none() && !is_plain(object)) return false;
    return true;
  }

  void batch_norm(py::handle input, py::handle weight, py::handle bias, py::handle running_mean, py::handle running_var,
                  bool training, double momentum, double eps, py::handle y, py::array_t<double> saved) const {
    const Tensor x("input", input, to_dlpack_), gamma("weight", weight, to_dlpack_), beta("bias", bias, to_dlpack_),
        mean("running_mean", running_mean, to_dlpack_), var("running_var", running_var, to_dlpack_),
        out("y", y, to_dlpack_);
    const onepass_array absent = {nullptr, nullptr, nullptr, -1, 0};
    const onepass_batch_norm_options options = {1, training, false, false, momentum, eps};
    double* kept = statistics(saved, x);
    run([&] {
      return onepass_batch_norm(x.get(), gamma.get(), beta.get(), mean.get(), var.get(), &absent, &options, out.get(),
                                kept, kept + x.size(1), 0);
    });
  }

  void batch_norm_backward(py::handle dy, py::handle input, py::handle weight, py::array_t<double> saved, bool training,
                           py::handle dx, py::handle dweight, py::handle dbias) const {
    const Tensor gradient("dy", dy, to_dlpack_), x("input", input, to_dlpack_), gamma("weight", weight, to_dlpack_),
        to("dx", dx, to_dlpack_), dgamma("dweight", dweight, to_dlpack_), dbeta("dbias", dbias, to_dlpack_);
    const onepass_array absent = {nullptr, nullptr, nullptr, -1, 0};
    const onepass_batch_norm_options options = {1, training, false, false, 0.0, 0.0};
    const double* kept = statistics(saved, x);
    run([&] {
      return onepass_batch_norm_backward(gradient.get(), x.get(), gamma.get(), &absent, kept, kept + x.size(1), &absent,
                                         &options, to.get(), dgamma.get(), dbeta.get(), &absent, 0);
    });
  }

  // losses: for each row, or None, with the reduced loss as result
  double softmax_cross_entropy(py::handle input, py::handle target, py::handle weight, std::int64_t ignore_index,
                               double label_smoothing, double z_loss, int reduction, py::handle losses,
                               py::handle gradient) const {
    const Tensor x("input", input, to_dlpack_), t("target", target, to_dlpack_), w("weight", weight, to_dlpack_),
        l("losses", losses, to_dlpack_), g("gradient", gradient, to_dlpack_);
    const onepass_array absent = {nullptr, nullptr, nullptr, -1, 0};
    const onepass_cross_entropy_options options = {ignore_index, label_smoothing, z_loss, reduction, 0};
    double total = 0.0;
    run([&] {
      return onepass_softmax_cross_entropy(x.get(), t.get(), w.get(), &options, l.get(), &total, g.get(), &absent, 0);
    });
    return total;
  }

 private:
  bool is_plain(py::handle object) const {
    for (const py::handle type : types_)
      if (py::type::handle_of(object).ptr() == type.ptr()) return true;
    return false;
  }

  // mean, then 1 / sqrt(var + eps), (2, C)
  static double* statistics(py::array_t<double>& saved, const Tensor& x) {
    if (saved.ndim() != 2 || saved.shape(0) != 2 || saved.shape(1) != x.size(1) || x.size(1) == 0)
      throw py::value_error("saved: expected float64 of shape (2, channels)");
    return saved.mutable_data();
  }

  template <typename F>
  void run(F&& function) const {
    const OpenMp* const runtime = runtime_;
    call([&] {
      if (runtime == nullptr) return function();
      runtime->enter();
      const onepass_status status = function();
      runtime->leave();
      return status;
    });
  }

  py::tuple types_;
  py::object to_dlpack_, openmp_ = py::none();
  const OpenMp* runtime_ = nullptr;
};

}  // namespace

void register_tensors(py::module_& m) {
  py::class_<OpenMp>(m, "OpenMp")
      .def(py::init<std::uintptr_t>(), py::arg("library"))
      .def("enter", &OpenMp::enter)
      .def("leave", &OpenMp::leave);
  py::class_<Tensors>(m, "Tensors")
      .def(py::init<py::tuple, py::object>(), py::arg("types"), py::arg("to_dlpack"))
      .def_property("openmp", &Tensors::openmp, &Tensors::set_openmp)
      .def("are_plain", &Tensors::are_plain)
      .def("batch_norm", &Tensors::batch_norm, py::arg("input"), py::arg("weight"), py::arg("bias"),
           py::arg("running_mean"), py::arg("running_var"), py::arg("training"), py::arg("momentum"), py::arg("eps"),
           py::arg("y"), py::arg("saved").noconvert())
      .def("batch_norm_backward", &Tensors::batch_norm_backward, py::arg("dy"), py::arg("input"), py::arg("weight"),
           py::arg("saved").noconvert(), py::arg("training"), py::arg("dx"), py::arg("dweight"), py::arg("dbias"))
      .def("softmax_cross_entropy", &Tensors::softmax_cross_entropy, py::arg("input"), py::arg("target"),
           py::arg("weight"), py::arg("ignore_index"), py::arg("label_smoothing"), py::arg("z_loss"),
           py::arg("reduction"), py::arg("losses"), py::arg("gradient"));
}
