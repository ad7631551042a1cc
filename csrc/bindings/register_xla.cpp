// The custom calls for XLA, as capsules that jax.ffi.register_ffi_target takes.
#include "bindings/register.hpp"
#include "xla/handlers.hpp"

void register_xla(py::module_& m) {
  m.def(
      "xla_handlers",
      [](int minor) {
        onepass::xla::speak(minor);
        py::dict handlers;
        for (const onepass::xla::Target& target : onepass::xla::kTargets)
          handlers[target.name] = py::capsule(reinterpret_cast<void*>(target.handler));
        return handlers;
      },
      py::arg("minor"));
}
