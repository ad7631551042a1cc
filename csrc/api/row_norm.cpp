// Layer, RMS, group and instance normalization forward.
#include <cmath>

#include "api/row_norm.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

// visit(segment, first element, elements) for the parts of elements [begin, begin + n) of a row by segment
template <typename Visit>
void by_segment(std::int64_t inner, std::int64_t begin, std::int64_t n, Visit&& visit) {
  for (const std::int64_t end = begin + n; begin < end;) {
    const std::int64_t segment = begin / inner, stop = std::min(end, (segment + 1) * inner);
    visit(segment, begin, stop - begin);
    begin = stop;
  }
}

struct Moments {
  std::int64_t count = 0;
  double mean = 0.0, m2 = 0.0;  // without a mean: m2 is the sum of squares

  void add(const KernelTable& table, std::int64_t n, double other_mean, double other_m2) {
    if (count == 0) {
      mean = other_mean;
      m2 = other_m2;
    } else {
      table.merge_moments(count, &mean, &m2, n, &other_mean, &other_m2, 1);
    }
    count += n;
  }
};

template <typename T>
struct Forward {
  const KernelTable& table;
  Geometry shape;
  RowArray<T> x, y;
  Parameter<T> gamma, beta;
  bool affine;
  double *mean, *invstd;  // mean null: RMS
  double eps;
  std::int32_t threads;

  const FloatKernels<T>& kernels() const { return table.kernels<T>(); }
  std::int64_t size(std::int64_t piece) const { return std::min(kPiece, shape.length() - piece * kPiece); }

  const T* load(std::int64_t row, std::int64_t piece, T* buffer) const {
    return x.read(x.row(row), piece * kPiece, size(piece), buffer);
  }
  void measure(const T* in, std::int64_t piece, double* part_mean, double* part_m2) const {
    const std::int64_t n = size(piece);
    *part_mean = 0.0;
    if (mean)
      kernels().moments_run(in, 1, n, n, part_mean, part_m2);
    else
      *part_m2 = kernels().sum_of_squares(in, n);
  }
  void finish(std::int64_t row, const Moments& moments) const {
    if (mean) mean[row] = moments.mean;
    invstd[row] = 1.0 / std::sqrt(moments.m2 / static_cast<double>(shape.length()) + eps);
  }
  void normalize(const T* in, std::int64_t row, std::int64_t piece, T* buffer) const {
    const RowScale<T> scale = row_scale<T>(mean, invstd[row], row);
    const std::int64_t begin = piece * kPiece, first = row % shape.groups * shape.segments;
    char* to = y.row(row);
    T* out = y.place(to, begin, buffer);
    if (!affine)
      kernels().normalize_row_run(in, T(1), T(0), scale, out, size(piece));
    else if (shape.inner == 1)
      kernels().normalize_row(in, gamma.from(first + begin), beta.from(first + begin), scale, out, size(piece));
    else
      by_segment(shape.inner, begin, size(piece), [&](std::int64_t segment, std::int64_t from, std::int64_t n) {
        kernels().normalize_row_run(in + (from - begin), gamma.at(first + segment, T(1)),
                                    beta.at(first + segment, T(0)), scale, out + (from - begin), n);
      });
    y.write(to, begin, size(piece), out);
  }
  void add(Moments& moments, std::int64_t piece, double part_mean, double part_m2) const {
    if (mean)
      moments.add(table, size(piece), part_mean, part_m2);
    else
      moments.m2 += part_m2;
  }

  void whole_row(std::int64_t row, std::int64_t pieces) const {
    alignas(64) T buffer[kPiece];
    const T* in = nullptr;
    Moments moments;
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
      double part_mean, part_m2;
      in = load(row, piece, buffer);
      measure(in, piece, &part_mean, &part_m2);
      add(moments, piece, part_mean, part_m2);
    }
    finish(row, moments);
    for (std::int64_t piece = 0; piece < pieces; ++piece)
      normalize(pieces == 1 ? in : load(row, piece, buffer), row, piece, buffer);
  }

  void run() {
    const std::int64_t rows = shape.rows(), pieces = pieces_of(shape.length()), tasks = rows * pieces;
    const int team = runtime::team_size(threads, tasks, 3 * shape.elements() * static_cast<std::int64_t>(sizeof(T)));
    if (enough(rows, team)) {
      runtime::parallel(team, rows, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) whole_row(row, pieces);
      });
      return;
    }
    std::vector<double> means(static_cast<std::size_t>(tasks)), squares(means.size());
    runtime::parallel(team, tasks, [&](std::int64_t begin, std::int64_t end) {
      alignas(64) T buffer[kPiece];
      for (std::int64_t i = begin; i < end; ++i)
        measure(load(i / pieces, i % pieces, buffer), i % pieces, &means[static_cast<std::size_t>(i)],
                &squares[static_cast<std::size_t>(i)]);
    });
    runtime::parallel(1, rows, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        Moments moments;
        for (std::int64_t piece = 0; piece < pieces; ++piece) {
          const auto i = static_cast<std::size_t>(row * pieces + piece);
          add(moments, piece, means[i], squares[i]);
        }
        finish(row, moments);
      }
    });
    runtime::parallel(team, tasks, [&](std::int64_t begin, std::int64_t end) {
      alignas(64) T buffer[kPiece];
      for (std::int64_t i = begin; i < end; ++i) {
        const T* in = load(i / pieces, i % pieces, buffer);
        normalize(in, i / pieces, i % pieces, buffer);
      }
    });
  }
};

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

onepass_status onepass_row_norm(const onepass_array* x, const onepass_array* gamma, const onepass_array* beta,
                                const onepass_row_norm_options* options, const onepass_array* out,
                                const onepass_array* mean, const onepass_array* invstd, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    Arguments a;
    ONEPASS_TRY(check_x(x, options, a));
    ONEPASS_TRY(check_parameter("gamma", gamma, *x, a));
    ONEPASS_TRY(check_parameter("beta", beta, *x, a));
    ONEPASS_TRY(check_like("out", out, "x", *x));
    if (overlaps_itself(*out)) return fail(ONEPASS_OVERLAP, "out: several of its elements share memory; pass a copy");
    ONEPASS_TRY(check_in_place("out", *out, "x", *x));
    if (present(mean)) ONEPASS_TRY(check_vector("mean", mean, a.shape.rows(), ONEPASS_FLOAT64));
    ONEPASS_TRY(check_vector("invstd", invstd, a.shape.rows(), ONEPASS_FLOAT64));
    const char* names[] = {"mean", "invstd", "out", "gamma", "beta"};
    const onepass_array* arrays[] = {mean, invstd, out, gamma, beta};
    ONEPASS_TRY(check_all_apart(names, arrays, 3, 5));
    for (int i = 0; i < 2; ++i) ONEPASS_TRY(check_apart(names[i], arrays[i], "x", x));
    return with_float(a.dtype, [&](auto zero) {
      using T = decltype(zero);
      const bool affine = present(gamma) || present(beta);
      std::int64_t times = 1;
      if (affine)
        times = a.repeat_parameters();
      else
        a.without_parameters();
      const std::int64_t width = a.shape.width() / times;
      Forward<T>{.table = *table,
                 .shape = a.shape,
                 .x = rows_of<T>(*table, *x, a),
                 .y = rows_of<T>(*table, *out, a),
                 .gamma = Parameter<T>(gamma, width, times, affine && a.shape.inner == 1),
                 .beta = Parameter<T>(beta, width, times, false),
                 .affine = affine,
                 .mean = doubles(mean),
                 .invstd = doubles(invstd),
                 .eps = options->eps,
                 .threads = threads}
          .run();
      return ONEPASS_OK;
    });
  });
}
