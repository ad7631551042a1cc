// Arrays of any integer type.
#pragma once

#include <cstdint>
#include <string>

#include "onepass/onepass.h"

namespace onepass::api {

// visit(value of the integer type) of one element.
template <typename Visit>
auto with_integer(const char* p, std::int32_t dtype, Visit&& visit) {
  switch (dtype) {
    case ONEPASS_INT8: return visit(*reinterpret_cast<const std::int8_t*>(p));
    case ONEPASS_UINT8: return visit(*reinterpret_cast<const std::uint8_t*>(p));
    case ONEPASS_INT16: return visit(*reinterpret_cast<const std::int16_t*>(p));
    case ONEPASS_UINT16: return visit(*reinterpret_cast<const std::uint16_t*>(p));
    case ONEPASS_INT32: return visit(*reinterpret_cast<const std::int32_t*>(p));
    case ONEPASS_UINT32: return visit(*reinterpret_cast<const std::uint32_t*>(p));
    case ONEPASS_INT64: return visit(*reinterpret_cast<const std::int64_t*>(p));
    default: return visit(*reinterpret_cast<const std::uint64_t*>(p));
  }
}

// false: above the largest int64
inline bool load_integer(const char* p, std::int32_t dtype, std::int64_t& value) {
  return with_integer(p, dtype, [&](auto number) {
    value = static_cast<std::int64_t>(number);
    return sizeof(number) < sizeof(value) || value >= 0 || static_cast<decltype(number)>(-1) < 0;
  });
}

inline std::string integer_text(const char* p, std::int32_t dtype) {
  return with_integer(p, dtype, [](auto number) { return std::to_string(number); });
}

// n elements `step` bytes apart as T.
template <typename T>
void load_integers(const char* from, std::int64_t step, std::int32_t dtype, T* to, std::int64_t n) {
  with_integer(from, dtype, [&](auto first) {
    for (std::int64_t i = 0; i < n; ++i)
      to[i] = static_cast<T>(*reinterpret_cast<const decltype(first)*>(from + i * step));
  });
}

}  // namespace onepass::api
