// Softmax and log-softmax along an axis: checks, then rows in parallel.
#include <memory>
#include <utility>

#include "api/dense_row.hpp"
#include "api/shared_rows.hpp"
#include "runtime/dispatch.hpp"

namespace onepass::api {
namespace {

template <typename T>
struct Worker {
  RowOperand<T> x, out;
};

template <typename T>
void softmax_rows(const KernelTable& table, const onepass_array& x, int axis, const onepass_array& out,
                  std::int32_t threads, bool log) {
  const std::int64_t columns = x.shape[axis], rows = elements(x) / columns;
  Idle<Worker<T>> idle;
  const auto work = [&](int team, std::int64_t begin, std::int64_t end) {
    auto worker = idle.take([&] {
      return std::unique_ptr<Worker<T>>(new Worker<T>{{table, x, &x, axis}, {table, x, &out, axis}});
    });
    RowOperand<T>&from = worker->x, &to = worker->out;
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t next = r + 1 < end ? r + 1 : r;
      from.seek(r);
      to.seek(r);
      softmax_of_row(
          table, team, from.place(), to.place(), columns, log, {from.ahead(next), to.ahead(next)},
          [&](std::int64_t first, std::int64_t last) { from.load(first, last); },
          [&](std::int64_t first, std::int64_t last) { to.store(first, last); });
    }
    idle.leave(std::move(worker));
  };
  const int within = threads_within_row(threads, rows, columns, sizeof(T));
  if (within > 1) return work(within, 0, rows);
  const int team = runtime::team_size(threads, rows, softmax_cost(rows, columns, sizeof(T)));
  runtime::parallel(team, rows, [&](std::int64_t begin, std::int64_t end) { work(1, begin, end); });
}

onepass_status along_axis(const onepass_array* x, std::int32_t axis, const onepass_array* out, std::int32_t threads,
                          bool log) {
  const KernelTable* table = runtime::kernels();
  if (table == nullptr) return ONEPASS_UNAVAILABLE;
  ONEPASS_TRY(check_threads(threads));
  ONEPASS_TRY(check_any_float("x", x));
  if (axis < -x->ndim || axis >= x->ndim)
    return fail(ONEPASS_INVALID_VALUE, "axis: %d is out of range for %s", axis, describe(*x).c_str());
  if (axis < 0) axis += x->ndim;
  ONEPASS_TRY(check_like("out", out, "x", *x));
  if (elements(*x) == 0) return fail(ONEPASS_INVALID_SHAPE, "x: is empty, shape %s", shape_text(*x).c_str());
  if (overlaps_itself(*out)) return fail(ONEPASS_OVERLAP, "out: several of its elements share memory; pass a copy");
  ONEPASS_TRY(check_in_place("out", *out, "x", *x));
  return with_computed(x->dtype, [&](auto zero) {
    softmax_rows<decltype(zero)>(*table, *x, axis, *out, threads, log);
    return ONEPASS_OK;
  });
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_softmax(const onepass_array* x, int32_t axis, const onepass_array* out, int32_t threads) {
  return guarded([&] { return along_axis(x, axis, out, threads, false); });
}

onepass_status onepass_log_softmax(const onepass_array* x, int32_t axis, const onepass_array* out, int32_t threads) {
  return guarded([&] { return along_axis(x, axis, out, threads, true); });
}
