// One call of a handler, read: operands, results, attributes by name; failures are exceptions that become XLA's errors.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "onepass/onepass.h"
#include "xla/abi.hpp"

namespace onepass::xla {

struct Failure : std::runtime_error {
  abi::ErrorCode code;
  Failure(abi::ErrorCode c, const std::string& message) : std::runtime_error(message), code(c) {}
};

class Call {
 public:
  explicit Call(const abi::Frame& frame) : frame_(frame) {}

  std::size_t inputs() const { return static_cast<std::size_t>(frame_.inputs.count); }
  std::size_t outputs() const { return static_cast<std::size_t>(frame_.outputs.count); }
  const abi::Buffer& input(std::size_t i) const { return buffer(frame_.inputs, i); }
  const abi::Buffer& output(std::size_t i) const { return buffer(frame_.outputs, i); }
  void expect(std::size_t inputs, std::size_t outputs) const;

  std::string_view text(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;  // a scalar of 64 bits
  double real(std::string_view name) const;           // a scalar of float64
  std::span<const std::int64_t> integers(std::string_view name) const;
  std::span<const double> reals(std::string_view name) const;

 private:
  static const abi::Buffer& buffer(const abi::Operands& all, std::size_t i);
  const void* attribute(std::string_view name, abi::AttributeKind kind) const;
  const void* scalar(std::string_view name, abi::Type type) const;
  std::span<const std::byte> array(std::string_view name, abi::Type type) const;
  const abi::Frame& frame_;
};

std::int64_t element_count(const abi::Buffer& b);
std::int64_t item_bytes(const abi::Buffer& b);
std::int32_t dtype_of(const abi::Buffer& b);  // onepass_dtype
bool is_floating(const abi::Buffer& b);
// The first of `copies` equal parts of a buffer's memory, or another; of `shape`, which must live on.
onepass_array part_of(const abi::Buffer& b, std::int64_t copies, std::int64_t index,
                      std::span<const std::int64_t> shape);
onepass_array absent();

// The product of the leading axes that vmap put in front: all but the last `own`.
std::int64_t copies_of(const abi::Buffer& b, std::int64_t own);

// Where a result that XLA was asked to put into an operand's memory is not there, the operand is copied into it.
void start_from(const abi::Buffer& operand, const abi::Buffer& result);

void raise_if(onepass_status status);

// Answers the question for metadata, checks sizes and stage, runs body, turns what it throws into an error.
abi::Error* run(abi::Frame* frame, void (*body)(const Call&));

}  // namespace onepass::xla
