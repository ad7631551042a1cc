// NumPy arrays seen as onepass_array, never copied or converted; status codes seen as exceptions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bindings/register.hpp"

// A status other than ONEPASS_OK becomes the Python exception that fits it.
void raise_if(onepass_status status);

// The array behind a Python object (None: absent). It borrows: the object must live on.
onepass_array readable(const char* name, py::handle object);
onepass_array writable(const char* name, py::handle object);
// Of any floating-point type. NumPy has no bfloat16: with `bits` arrays in uint16 are its bits, without they
// are refused.
onepass_array readable_storage(const char* name, py::handle object, bool bits);
onepass_array writable_storage(const char* name, py::handle object, bool bits);

// Calls an ABI function without the GIL.
template <typename F>
void call(F&& function) {
  onepass_status status;
  {
    const py::gil_scoped_release release;
    status = function();
  }
  raise_if(status);
}
