// Images (N, C, H, W) in C order and the windows that slide over them.
#pragma once

#include "api/arrays.hpp"
#include "kernels/table.hpp"

namespace onepass::api {

struct Images {
  std::int64_t count, channels, height, width;
  std::int64_t plane() const { return height * width; }
  std::int64_t image() const { return channels * plane(); }
};

// x: of any size but 0. images, window: written.
onepass_status check_images(const char* name, const onepass_array* x, Images& images);
onepass_status check_window(const onepass_window* given, const Images& x, Window& window);
// a: of x's type, (count, channels, outputs of the window)
onepass_status check_outputs_of(const char* name, const onepass_array* a, const onepass_array& x, std::int64_t count,
                                std::int64_t channels, const Window& window);

}  // namespace onepass::api
