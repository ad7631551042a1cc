// What XLA's foreign function interface passes to a handler on the CPU, as far as it is read here: facts of its C ABI
// (version 0.x), declared anew so that building needs no jaxlib. tests/test_jax_abi.py compares sizes, offsets and
// codes with the header of the installed jaxlib; call.cpp compares the sizes that XLA states with these, in every call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onepass::xla::abi {

inline constexpr int kMajor = 0, kMinor = 3;  // the version that this was written from

struct Extension {
  std::size_t struct_size;
  std::uint32_t type;  // kMetadata
  Extension* next;
};
inline constexpr std::uint32_t kMetadata = 1;

struct Version {
  std::size_t struct_size;
  Extension* extension;
  int major, minor;
};
inline constexpr std::size_t kVersionSize = offsetof(Version, minor) + sizeof(int);

enum class ErrorCode : std::uint32_t {
  invalid_argument = 3,
  resource_exhausted = 8,
  failed_precondition = 9,
  out_of_range = 11,
  unimplemented = 12,
  internal = 13,
  unavailable = 14
};

struct Error;  // XLA's own

struct ErrorCreateArguments {
  std::size_t struct_size;
  Extension* extension;
  const char* message;
  ErrorCode code;
};
inline constexpr std::size_t kErrorCreateSize = offsetof(ErrorCreateArguments, code) + sizeof(ErrorCode);

// The beginning of the table of functions; more follow.
struct Api {
  std::size_t struct_size;
  Extension* extension;
  Version version;
  const void* internal;
  Error* (*create_error)(ErrorCreateArguments*);
};

// Element types (xla.PrimitiveType) that onepass.h has a code for.
enum class Type : std::uint32_t {
  s8 = 2,
  s16 = 3,
  s32 = 4,
  s64 = 5,
  u8 = 6,
  u16 = 7,
  u32 = 8,
  u64 = 9,
  f16 = 10,
  f32 = 11,
  f64 = 12,
  bf16 = 16
};

struct Buffer {
  std::size_t struct_size;
  Extension* extension;
  Type type;
  void* data;
  std::int64_t rank;
  std::int64_t* shape;  // (rank), C order
};
inline constexpr std::uint32_t kBuffer = 1;  // the one kind of operand and result

struct Operands {
  std::size_t struct_size;
  Extension* extension;
  std::int64_t count;
  std::uint32_t* kinds;  // (count)
  void** items;          // (count), Buffer
};

struct Bytes {
  const char* data;
  std::size_t size;
};
struct Scalar {
  Type type;
  void* value;
};
struct Array {
  Type type;
  std::size_t size;
  void* data;
};
enum class AttributeKind : std::uint32_t { array = 1, dictionary = 2, scalar = 3, string = 4 };

struct Attributes {
  std::size_t struct_size;
  Extension* extension;
  std::int64_t count;
  AttributeKind* kinds;
  Bytes** names;  // sorted
  void** items;   // Array, Scalar or Bytes
};

inline constexpr std::uint32_t kExecute = 3;  // the one stage that handlers are registered for

struct Frame {
  std::size_t struct_size;
  Extension* extension;
  const Api* api;
  void* context;
  std::uint32_t stage;
  Operands inputs, outputs;
  Attributes attributes;
};

// At registration XLA asks with this extension which version a handler speaks.
struct Metadata {
  std::size_t struct_size;
  Version version;
  std::uint32_t traits;
  std::int64_t state_type;  // since 0.3; 0: the handler keeps no state
};
inline constexpr int kStateTypeMinor = 3;
struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

using Handler = Error*(Frame*);

}  // namespace onepass::xla::abi
