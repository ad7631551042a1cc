// Dropout with a mask that is computed where it is needed and stored nowhere.
#pragma once

#include <cstdint>

#include "kernels/formats.hpp"
#include "kernels/loops.hpp"

namespace {

// y = x scale where the element's 32 random bits are at least `dropped`, else 0; the bits of element i are those of
// counter + i step. y may be x.
template <typename T>
void dropout(const T* x, T* y, T scale, std::uint32_t dropped, std::uint32_t counter, std::uint32_t step,
             std::int64_t n) {
  ONEPASS_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t random = random_bits(counter + static_cast<std::uint32_t>(i) * step);
    const T kept = x[i] * scale;
    y[i] = random >= dropped ? kept : T(0);
  }
}

}  // namespace
