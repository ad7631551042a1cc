// The registry: updates.def as data.
#include <cstddef>
#include <iterator>

#include "onepass/onepass.h"

namespace {

#define ONEPASS_REAL(name, value) {#name, value, offsetof(Hyper, name), 0},
#define ONEPASS_FLAG(name) {#name, 0.0, offsetof(Hyper, name), 1},
#define ONEPASS_MORE_BYTES(n)
#define ONEPASS_STATE(name) #name,
#define ONEPASS_POSITIVE(name) #name,
#define ONEPASS_UPDATE(name, state_names, hyperparameters)                                      \
  namespace name##_registry {                                                                   \
    using Hyper = onepass_##name##_hyper;                                                       \
    constexpr const char* states[] = {state_names nullptr};                                     \
    constexpr onepass_field fields[] = {hyperparameters};                                       \
    onepass_status run(onepass_plan* plan, const void* groups, size_t count, int32_t threads) { \
      return onepass_##name(plan, static_cast<const Hyper*>(groups), count, threads);           \
    }                                                                                           \
  }
#include "onepass/updates.def"
#undef ONEPASS_UPDATE
#undef ONEPASS_POSITIVE
#undef ONEPASS_STATE
#undef ONEPASS_MORE_BYTES
#undef ONEPASS_FLAG
#undef ONEPASS_REAL

#define ONEPASS_REAL(name, value)
#define ONEPASS_FLAG(name)
#define ONEPASS_MORE_BYTES(n) +(n)
#define ONEPASS_STATE(name) 0,
#define ONEPASS_POSITIVE(name) 1,
#define ONEPASS_UPDATE(name, state_names, hyperparameters)                             \
  namespace name##_registry {                                                          \
    constexpr int32_t positive[] = {state_names 0};                                    \
    constexpr int32_t bytes = 4 * (1 + 2 * static_cast<int32_t>(std::size(positive))); \
    constexpr int32_t all_bytes = bytes hyperparameters;                               \
  }
#include "onepass/updates.def"
#undef ONEPASS_UPDATE
#undef ONEPASS_POSITIVE
#undef ONEPASS_STATE
#undef ONEPASS_MORE_BYTES
#undef ONEPASS_FLAG
#undef ONEPASS_REAL

constexpr onepass_update_info kRegistry[] = {
#define ONEPASS_UPDATE(name, state_names, hyperparameters) \
  {#name,                                                  \
   name##_registry::states,                                \
   name##_registry::positive,                              \
   std::size(name##_registry::states) - 1,                 \
   name##_registry::fields,                                \
   std::size(name##_registry::fields),                     \
   sizeof(name##_registry::Hyper),                         \
   name##_registry::all_bytes,                             \
   name##_registry::run},
#include "onepass/updates.def"
#undef ONEPASS_UPDATE
};

}  // namespace

const onepass_update_info* onepass_update_registry(onepass_update update) {
  return update >= 0 && update < ONEPASS_UPDATE_COUNT ? &kRegistry[update] : nullptr;
}
