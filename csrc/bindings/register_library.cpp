// Version, levels, threads, stream_limit.
#include <vector>

#include "bindings/arrays.hpp"

void register_library(py::module_& m) {
  m.def("version", [] { return onepass_version(); });
  m.def("isa", [] { return onepass_isa(); });
  m.def("isa_levels", [] {
    py::list levels;
    for (std::size_t i = 0; i < onepass_isa_count(); ++i)
      levels.append(py::make_tuple(onepass_isa_name(i), onepass_isa_available(i) != 0));
    return levels;
  });
  m.def(
      "set_threads", [](int threads) { raise_if(onepass_set_threads(threads)); }, py::arg("threads"));
  m.def("get_threads", [] { return onepass_get_threads(); });
  m.def(
      "stream_limit",
      [](const py::list& reads, const py::list& updates, const py::list& writes, int threads) {
        std::vector<onepass_array> arrays;
        for (const py::handle a : reads) arrays.push_back(readable("reads", a));
        for (const py::handle a : updates) arrays.push_back(writable("updates", a));
        for (const py::handle a : writes) arrays.push_back(writable("writes", a));
        call([&] { return onepass_stream_limit(arrays.data(), reads.size(), updates.size(), writes.size(), threads); });
      },
      py::arg("reads"), py::arg("updates"), py::arg("writes"), py::arg("threads") = 0);
}
