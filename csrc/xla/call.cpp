#include "xla/call.hpp"

#include <atomic>
#include <cstring>
#include <new>

#include "xla/handlers.hpp"

namespace onepass::xla {
namespace {

using abi::ErrorCode;

std::atomic<int> spoken_minor = abi::kMinor;

// What is declared in abi.hpp is the same in all minor versions known; what a later one may have moved shows in the
// sizes, which run() compares.
void describe(const abi::Frame& frame, abi::MetadataExtension& question) {
  abi::Metadata& answer = *question.metadata;
  const bool known = frame.api != nullptr && frame.api->version.major == abi::kMajor;
  const int minor = known ? frame.api->version.minor : spoken_minor.load();
  answer.version = {abi::kVersionSize, nullptr, abi::kMajor, minor};
  answer.traits = 0;
  if (known && minor >= abi::kStateTypeMinor) answer.state_type = 0;
}

abi::Error* fail(const abi::Frame& frame, ErrorCode code, const char* message) {
  abi::ErrorCreateArguments arguments = {abi::kErrorCreateSize, nullptr, message, code};
  return frame.api->create_error(&arguments);
}

bool sizes_agree(const abi::Frame& frame) {
  bool agree = frame.inputs.struct_size == sizeof(abi::Operands) &&
               frame.outputs.struct_size == sizeof(abi::Operands) &&
               frame.attributes.struct_size == sizeof(abi::Attributes);
  for (const abi::Operands* all : {&frame.inputs, &frame.outputs})
    for (std::int64_t i = 0; agree && i < all->count; ++i)
      agree = all->kinds[i] == abi::kBuffer &&
              static_cast<const abi::Buffer*>(all->items[i])->struct_size >= sizeof(abi::Buffer);
  return agree;
}

ErrorCode code_of(onepass_status status) {
  switch (status) {
    case ONEPASS_OUT_OF_RANGE: return ErrorCode::out_of_range;
    case ONEPASS_UNAVAILABLE: return ErrorCode::unavailable;
    case ONEPASS_NO_MEMORY: return ErrorCode::resource_exhausted;
    default: return ErrorCode::invalid_argument;
  }
}

[[noreturn]] void fail_attribute(std::string_view name) {
  throw Failure(ErrorCode::internal, "attribute " + std::string(name) + " is missing or of another type");
}

}  // namespace

void Call::expect(std::size_t wanted_inputs, std::size_t wanted_outputs) const {
  if (inputs() != wanted_inputs || outputs() != wanted_outputs)
    throw Failure(ErrorCode::internal, "got " + std::to_string(inputs()) + " operands and " +
                                           std::to_string(outputs()) + " results, expected " +
                                           std::to_string(wanted_inputs) + " and " + std::to_string(wanted_outputs));
}

const abi::Buffer& Call::buffer(const abi::Operands& all, std::size_t i) {
  if (i >= static_cast<std::size_t>(all.count))
    throw Failure(ErrorCode::internal, "there is no operand or result " + std::to_string(i));
  return *static_cast<const abi::Buffer*>(all.items[i]);
}

const void* Call::attribute(std::string_view name, abi::AttributeKind kind) const {
  const abi::Attributes& all = frame_.attributes;
  for (std::int64_t i = 0; i < all.count; ++i)
    if (all.kinds[i] == kind && std::string_view(all.names[i]->data, all.names[i]->size) == name) return all.items[i];
  fail_attribute(name);
}

const void* Call::scalar(std::string_view name, abi::Type type) const {
  const auto& found = *static_cast<const abi::Scalar*>(attribute(name, abi::AttributeKind::scalar));
  if (found.type != type) fail_attribute(name);
  return found.value;
}

std::span<const std::byte> Call::array(std::string_view name, abi::Type type) const {
  const auto& found = *static_cast<const abi::Array*>(attribute(name, abi::AttributeKind::array));
  if (found.type != type) fail_attribute(name);
  return {static_cast<const std::byte*>(found.data), found.size};
}

std::string_view Call::text(std::string_view name) const {
  const auto& found = *static_cast<const abi::Bytes*>(attribute(name, abi::AttributeKind::string));
  return {found.data, found.size};
}

std::int64_t Call::integer(std::string_view name) const {
  return *static_cast<const std::int64_t*>(scalar(name, abi::Type::s64));
}

double Call::real(std::string_view name) const { return *static_cast<const double*>(scalar(name, abi::Type::f64)); }

std::span<const std::int64_t> Call::integers(std::string_view name) const {
  const auto found = array(name, abi::Type::s64);
  return {reinterpret_cast<const std::int64_t*>(found.data()), found.size()};
}

std::span<const double> Call::reals(std::string_view name) const {
  const auto found = array(name, abi::Type::f64);
  return {reinterpret_cast<const double*>(found.data()), found.size()};
}

std::int64_t element_count(const abi::Buffer& b) { return copies_of(b, 0); }

std::int64_t copies_of(const abi::Buffer& b, std::int64_t own) {
  std::int64_t product = 1;
  for (std::int64_t i = 0; i < b.rank - own; ++i) product *= b.shape[i];
  return product;
}

std::int32_t dtype_of(const abi::Buffer& b) {
  switch (b.type) {
    case abi::Type::f32: return ONEPASS_FLOAT32;
    case abi::Type::f64: return ONEPASS_FLOAT64;
    case abi::Type::f16: return ONEPASS_FLOAT16;
    case abi::Type::bf16: return ONEPASS_BFLOAT16;
    case abi::Type::s8: return ONEPASS_INT8;
    case abi::Type::u8: return ONEPASS_UINT8;
    case abi::Type::s16: return ONEPASS_INT16;
    case abi::Type::u16: return ONEPASS_UINT16;
    case abi::Type::s32: return ONEPASS_INT32;
    case abi::Type::u32: return ONEPASS_UINT32;
    case abi::Type::s64: return ONEPASS_INT64;
    case abi::Type::u64: return ONEPASS_UINT64;
  }
  throw Failure(ErrorCode::invalid_argument,
                "element type " + std::to_string(static_cast<std::uint32_t>(b.type)) + " of XLA is not supported");
}

std::int64_t item_bytes(const abi::Buffer& b) {
  switch (dtype_of(b)) {
    case ONEPASS_INT8:
    case ONEPASS_UINT8: return 1;
    case ONEPASS_FLOAT16:
    case ONEPASS_BFLOAT16:
    case ONEPASS_INT16:
    case ONEPASS_UINT16: return 2;
    case ONEPASS_FLOAT64:
    case ONEPASS_INT64:
    case ONEPASS_UINT64: return 8;
    default: return 4;
  }
}

bool is_floating(const abi::Buffer& b) { return dtype_of(b) < ONEPASS_INT8; }

onepass_array part_of(const abi::Buffer& b, std::int64_t copies, std::int64_t index,
                      std::span<const std::int64_t> shape) {
  const std::int64_t bytes = element_count(b) / copies * item_bytes(b);
  return {static_cast<char*>(b.data) + index * bytes, shape.data(), nullptr, static_cast<std::int32_t>(shape.size()),
          dtype_of(b)};
}

onepass_array absent() { return {nullptr, nullptr, nullptr, -1, 0}; }

void start_from(const abi::Buffer& operand, const abi::Buffer& result) {
  if (operand.data != result.data)
    std::memcpy(result.data, operand.data, static_cast<std::size_t>(element_count(result) * item_bytes(result)));
}

void raise_if(onepass_status status) {
  if (status != ONEPASS_OK) throw Failure(code_of(status), std::string("onepass: ") + onepass_last_error());
}

void speak(int minor) { spoken_minor = minor; }

abi::Error* run(abi::Frame* frame, void (*body)(const Call&)) {
  if (frame->extension != nullptr && frame->extension->type == abi::kMetadata) {
    describe(*frame, *reinterpret_cast<abi::MetadataExtension*>(frame->extension));
    return nullptr;
  }
  try {
    if (!sizes_agree(*frame))
      throw Failure(ErrorCode::unimplemented,
                    "onepass: this jaxlib lays out its calls otherwise than onepass knows; install a newer onepass");
    if (frame->stage != abi::kExecute)
      throw Failure(ErrorCode::failed_precondition,
                    "onepass: called in stage " + std::to_string(frame->stage) + ", expected execute");
    body(Call(*frame));
    return nullptr;
  } catch (const Failure& failure) {
    return fail(*frame, failure.code, failure.what());
  } catch (const std::bad_alloc&) {
    return fail(*frame, ErrorCode::resource_exhausted, "onepass: out of memory");
  } catch (const std::exception& error) {
    return fail(*frame, ErrorCode::internal, error.what());
  }
}

}  // namespace onepass::xla
