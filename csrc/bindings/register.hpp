#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "onepass/onepass.h"

namespace py = pybind11;

void register_library(py::module_& m);
void register_updates(py::module_& m);
void register_softmax_cross_entropy(py::module_& m);
void register_batch_norm(py::module_& m);
void register_row_norm(py::module_& m);
void register_layers(py::module_& m);
void register_activations(py::module_& m);
void register_losses(py::module_& m);
void register_images(py::module_& m);
void register_tensors(py::module_& m);
void register_xla(py::module_& m);
