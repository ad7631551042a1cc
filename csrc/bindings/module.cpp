// onepass._core: the table of contents. Each register_*.cpp converts arguments, releases the GIL and calls onepass.h.
#include "bindings/register.hpp"

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  if (onepass_init() != ONEPASS_OK) throw py::import_error(std::string("onepass: ") + onepass_last_error());
  register_library(m);
  register_updates(m);
  register_softmax_cross_entropy(m);
  register_batch_norm(m);
  register_row_norm(m);
  register_layers(m);
  register_activations(m);
  register_losses(m);
  register_images(m);
  register_tensors(m);
  register_xla(m);
}
