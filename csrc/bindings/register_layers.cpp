// linear, and the BLAS that linear uses.
#include "bindings/arrays.hpp"

namespace {

template <typename Function>
Function from_capsule(const py::capsule& capsule) {
  return reinterpret_cast<Function>(capsule.get_pointer());
}

}  // namespace

void register_layers(py::module_& m) {
  m.def(
      "set_blas",
      [](const py::capsule& sgemm, const py::capsule& dgemm, std::uintptr_t set_threads, std::uintptr_t get_threads) {
        const onepass_blas blas = {
            from_capsule<decltype(onepass_blas::sgemm)>(sgemm), from_capsule<decltype(onepass_blas::dgemm)>(dgemm),
            reinterpret_cast<void (*)(int)>(set_threads), reinterpret_cast<int (*)()>(get_threads)};
        raise_if(onepass_set_blas(&blas));
      },
      py::arg("sgemm"), py::arg("dgemm"), py::arg("set_threads"), py::arg("get_threads"));
  m.def(
      "linear",
      [](py::handle x, py::handle weight, py::handle bias, bool relu, py::handle out, int threads) {
        const onepass_array vx = readable("x", x), vw = readable("weight", weight), vb = readable("bias", bias);
        const onepass_array vy = writable("out", out);
        call([&] { return onepass_linear(&vx, &vw, &vb, relu, &vy, threads); });
      },
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("relu"), py::arg("out"), py::arg("threads"));
  m.def(
      "linear_backward",
      [](py::handle dy, py::handle x, py::handle weight, py::handle dx, py::handle dweight, py::handle dbias,
         int threads) {
        const onepass_array vdy = readable("dy", dy), vx = readable("x", x), vw = readable("weight", weight);
        const onepass_array vdx = writable("dx", dx), vdw = writable("dweight", dweight);
        const onepass_array vdb = writable("dbias", dbias);
        call([&] { return onepass_linear_backward(&vdy, &vx, &vw, &vdx, &vdw, &vdb, threads); });
      },
      py::arg("dy"), py::arg("x"), py::arg("weight"), py::arg("dx"), py::arg("dweight"), py::arg("dbias"),
      py::arg("threads"));
}
