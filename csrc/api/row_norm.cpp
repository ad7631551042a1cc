// Layer, RMS, group and instance normalization. An array is (samples, groups, segments, inner): a row is the segments
// and inner elements of one sample and group, and the inner elements of a segment share a gamma and a beta (layer and
// RMS: one group, a segment for each element). Rows are taken in pieces: a row's sums are those of its pieces in order,
// and dgamma and dbeta those of bands of samples in order, whoever computed them.
#include <algorithm>
#include <cmath>
#include <vector>

#include "api/arrays.hpp"
#include "api/row_array.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

constexpr std::int64_t kShortRun = 16;     // inner lengths below it take gamma and beta element by element
constexpr std::int64_t kBands = 64;        // at most; each has sums of its own for dgamma and dbeta
constexpr std::int64_t kBandSamples = 32;  // samples whose sums are added up in T before they meet others in double

std::int64_t pieces_of(std::int64_t n) { return (n + kPiece - 1) / kPiece; }

struct Geometry {
  std::int64_t samples = 1, groups = 1, segments = 1, inner = 1;
  std::int64_t rows() const { return samples * groups; }
  std::int64_t length() const { return segments * inner; }  // of a row
  std::int64_t width() const { return groups * segments; }  // gammas
  std::int64_t elements() const { return rows() * length(); }
};

// gamma or beta for each element of a segment; null stays null.
template <typename T>
class Parameter {
 public:
  Parameter(const onepass_array* a, std::int64_t width, std::int64_t times, bool ones) {
    if (!present(a) && !ones) return;
    values_ = present(a) ? static_cast<const T*>(a->data) : nullptr;
    if (values_ != nullptr && times == 1) return;
    own_.assign(static_cast<std::size_t>(width * times), T(1));
    for (std::int64_t i = 0; values_ != nullptr && i < width * times; ++i)
      own_[static_cast<std::size_t>(i)] = values_[i / times];
    values_ = own_.data();
  }
  const T* from(std::int64_t i) const { return values_ ? values_ + i : nullptr; }
  T at(std::int64_t i, T otherwise) const { return values_ ? values_[i] : otherwise; }

 private:
  const T* values_ = nullptr;
  std::vector<T> own_;
};

template <typename T>
RowScale<T> row_scale(const double* mean, double invstd, std::int64_t row) {
  const double m = mean ? mean[row] : 0.0;
  const T high = static_cast<T>(m);
  return {high, static_cast<T>(m - static_cast<double>(high)), static_cast<T>(invstd)};
}

// Whole rows keep a thread's row in its cache; too few of them leave threads without work.
bool enough(std::int64_t tasks, int team) { return tasks % team == 0 || tasks >= 4 * team; }

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

// Samples whose sums for dgamma and dbeta are added up before they meet others'; cut by the shape alone.
struct Bands {
  std::int64_t samples, height, count;

  explicit Bands(const Geometry& shape) : samples(shape.samples) {
    height = (samples + kBands - 1) / kBands;
    if (shape.inner == 1) height = (height + kBandSamples - 1) / kBandSamples * kBandSamples;
    count = (samples + height - 1) / height;
  }
  std::int64_t end(std::int64_t band) const { return std::min(samples, (band + 1) * height); }
};

template <typename T>
struct Backward {
  const KernelTable& table;
  Geometry shape;
  RowArray<T> dy, x, dx;
  Parameter<T> gamma;
  const double *mean, *invstd;
  bool wanted;  // dgamma and dbeta
  std::int32_t threads;
  Bands bands;
  std::vector<double> dgammas, dbetas;  // (bands, width)

  struct Sums {
    double g = 0.0, gx = 0.0;
  };
  // Consecutive elements of a row that are worked on at once: of one segment, where elements share its gamma.
  struct Part {
    std::int64_t segment, begin, size;
  };

  const FloatKernels<T>& kernels() const { return table.kernels<T>(); }
  bool by_element() const { return shape.inner == 1; }
  std::int64_t parts() const {
    return by_element() ? pieces_of(shape.length()) : shape.segments * pieces_of(shape.inner);
  }
  Part part(std::int64_t i) const {
    if (by_element()) return {0, i * kPiece, std::min(kPiece, shape.length() - i * kPiece)};
    const std::int64_t pieces = pieces_of(shape.inner), segment = i / pieces, begin = i % pieces * kPiece;
    return {segment, segment * shape.inner + begin, std::min(kPiece, shape.inner - begin)};
  }
  std::int64_t first_gamma(std::int64_t row) const { return row % shape.groups * shape.segments; }

  // By segment: of dy and dy xhat, without gamma.
  Sums measure(std::int64_t row, const Part& p, const RowScale<T>& scale) const {
    alignas(64) T dy_buffer[kPiece], x_buffer[kPiece];
    Sums s;
    kernels().gradient_row(dy.read(dy.row(row), p.begin, p.size, dy_buffer),
                           x.read(x.row(row), p.begin, p.size, x_buffer),
                           by_element() ? gamma.from(first_gamma(row) + p.begin) : nullptr, scale, p.size, &s.g, &s.gx);
    return s;
  }
  // The row's slope from the sums of its parts in order, sums_of(part); those of its segments go to the band's.
  template <typename SumsOf>
  RowSlope<T> finish(std::int64_t row, std::int64_t band, SumsOf&& sums_of) {
    Sums total, segment;
    const std::int64_t pieces = by_element() ? 1 : pieces_of(shape.inner);
    for (std::int64_t i = 0, count = parts(); i < count; ++i) {
      const Sums s = sums_of(i);
      segment = i % pieces == 0 ? s : Sums{segment.g + s.g, segment.gx + s.gx};
      if (i % pieces != pieces - 1) continue;
      double factor = 1.0;
      if (!by_element()) {
        const std::int64_t c = first_gamma(row) + i / pieces;
        factor = static_cast<double>(gamma.at(c, T(1)));
        if (wanted) {
          dbetas[static_cast<std::size_t>(band * shape.width() + c)] += segment.g;
          dgammas[static_cast<std::size_t>(band * shape.width() + c)] += segment.gx;
        }
      }
      total = {total.g + factor * segment.g, total.gx + factor * segment.gx};
    }
    const double n = static_cast<double>(shape.length());
    return {mean ? static_cast<T>(total.g / n) : T(0), static_cast<T>(total.gx / n)};
  }
  void write_dx(std::int64_t row, const Part& p, const RowScale<T>& scale, const RowSlope<T>& slope, T* dgamma,
                T* dbeta) const {
    alignas(64) T dy_buffer[kPiece], x_buffer[kPiece];
    char* to = dx.row(row);
    const T* d = dy.read(dy.row(row), p.begin, p.size, dy_buffer);
    const T* in = x.read(x.row(row), p.begin, p.size, x_buffer);
    T* out = dx.place(to, p.begin, dy_buffer);
    if (by_element())
      kernels().dx_row(d, in, gamma.from(first_gamma(row) + p.begin), scale, slope, out, dgamma, dbeta, p.size);
    else
      kernels().dx_row_run(d, in, gamma.at(first_gamma(row) + p.segment, T(1)), scale, slope, out, p.size);
    dx.write(to, p.begin, p.size, out);
  }
  // n sums of elements [begin, begin + n) of rows of this group, to the band's
  void empty(T* dgamma, T* dbeta, std::int64_t band, std::int64_t group, std::int64_t begin, std::int64_t n) {
    const auto at = static_cast<std::size_t>(band * shape.width() + group * shape.segments + begin);
    kernels().empty_into(dgamma, &dgammas[at], n);
    kernels().empty_into(dbeta, &dbetas[at], n);
  }
  bool keeps_sums() const { return by_element() && wanted; }
  bool band_is_full(std::int64_t sample, std::int64_t end) const {
    return (sample + 1) % kBandSamples == 0 || sample + 1 == end;
  }

  void whole_rows(std::int64_t band, std::int64_t group, T* sums) {
    const std::int64_t n = shape.length(), count = parts(), end = bands.end(band);
    for (std::int64_t sample = band * bands.height; sample < end; ++sample) {
      const std::int64_t row = sample * shape.groups + group;
      const RowScale<T> scale = row_scale<T>(mean, invstd[row], row);
      const RowSlope<T> slope = finish(row, band, [&](std::int64_t i) { return measure(row, part(i), scale); });
      for (std::int64_t i = 0; i < count; ++i) {
        const Part p = part(i);
        write_dx(row, p, scale, slope, keeps_sums() ? sums + p.begin : nullptr,
                 keeps_sums() ? sums + n + p.begin : nullptr);
      }
      if (keeps_sums() && band_is_full(sample, end)) empty(sums, sums + n, band, group, 0, n);
    }
  }

  void run() {
    const std::int64_t rows = shape.rows(), count = parts(), tasks = bands.count * shape.groups;
    const std::int64_t bytes = 5 * shape.elements() * static_cast<std::int64_t>(sizeof(T));
    const int team = runtime::team_size(threads, rows * count, bytes);
    if (enough(tasks, team)) {
      runtime::parallel(team, tasks, [&](std::int64_t begin, std::int64_t end) {
        std::vector<T> sums(keeps_sums() ? static_cast<std::size_t>(2 * shape.length()) : 0);
        for (std::int64_t i = begin; i < end; ++i) whole_rows(i / shape.groups, i % shape.groups, sums.data());
      });
      return;
    }
    // few bands: all threads on all parts, then the same sums in the same order
    std::vector<Sums> sums(static_cast<std::size_t>(rows * count));
    std::vector<RowSlope<T>> slopes(static_cast<std::size_t>(rows));
    const auto scale_of = [&](std::int64_t row) { return row_scale<T>(mean, invstd[row], row); };
    runtime::parallel(team, rows * count, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        sums[static_cast<std::size_t>(i)] = measure(i / count, part(i % count), scale_of(i / count));
    });
    runtime::parallel(1, rows, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        slopes[static_cast<std::size_t>(row)] = finish(row, row / shape.groups / bands.height, [&](std::int64_t i) {
          return sums[static_cast<std::size_t>(row * count + i)];
        });
    });
    runtime::parallel(team, tasks * count, [&](std::int64_t begin, std::int64_t end) {
      alignas(64) T dgamma[kPiece] = {}, dbeta[kPiece] = {};
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t band = i / count / shape.groups, group = i / count % shape.groups;
        const Part p = part(i % count);
        for (std::int64_t sample = band * bands.height; sample < bands.end(band); ++sample) {
          const std::int64_t row = sample * shape.groups + group;
          write_dx(row, p, scale_of(row), slopes[static_cast<std::size_t>(row)], keeps_sums() ? dgamma : nullptr,
                   keeps_sums() ? dbeta : nullptr);
          if (keeps_sums() && band_is_full(sample, bands.end(band))) empty(dgamma, dbeta, band, group, p.begin, p.size);
        }
      }
    });
  }

  // The bands in order, then the `times` elements of a channel in order.
  void reduce(const std::vector<double>& sums, std::int64_t times, const onepass_array* to) const {
    if (!present(to)) return;
    const std::int64_t width = shape.width(), channels = width / times;
    const int team =
        runtime::team_size(threads, channels, bands.count * width * static_cast<std::int64_t>(sizeof(double)));
    runtime::parallel(team, channels, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> total(static_cast<std::size_t>((end - begin) * times));
      for (std::int64_t band = 0; band < bands.count; ++band)
        for (std::size_t i = 0; i < total.size(); ++i)
          total[i] += sums[static_cast<std::size_t>(band * width + begin * times) + i];
      for (std::int64_t c = begin; c < end; ++c) {
        double sum = 0.0;
        for (std::int64_t i = 0; i < times; ++i) sum += total[static_cast<std::size_t>((c - begin) * times + i)];
        static_cast<T*>(to->data)[c] = static_cast<T>(sum);
      }
    });
  }
};

// ---- checks

struct Arguments {
  Geometry shape;
  std::int32_t dtype = ONEPASS_FLOAT32;        // of gamma and beta, and what is computed in
  std::int64_t groups = 0;                     // 0: a row is the last axes
  int first = 2;                               // the row's first axis, behind axis 1 cut into groups
  int parameter_axis = 1, parameter_axes = 1;  // of x, that gamma and beta have

  // gamma and beta element by element: each stands for `times` elements
  std::int64_t repeat_parameters() {
    const std::int64_t times = shape.inner < kShortRun ? shape.inner : 1;
    shape.segments *= times;
    shape.inner /= times;
    return times;
  }
  void without_parameters() { shape = {shape.samples, shape.groups, 1, shape.length()}; }
};

onepass_status check_last_axes(const onepass_array& x, int axes, Arguments& a) {
  if (x.ndim < 1) return fail(ONEPASS_INVALID_SHAPE, "x: expected at least 1 axis, got %s", describe(x).c_str());
  if (axes < 0 || axes > x.ndim)
    return fail(ONEPASS_INVALID_VALUE, "axes: expected 1 to %d, the number of x's axes, got %d", x.ndim, axes);
  a.first = a.parameter_axis = x.ndim - axes;
  a.parameter_axes = axes;
  for (int axis = 0; axis < x.ndim; ++axis) (axis < a.first ? a.shape.samples : a.shape.segments) *= x.shape[axis];
  return ONEPASS_OK;
}

onepass_status check_groups(const onepass_array& x, std::int64_t groups, Arguments& a) {
  if (x.ndim < 2)
    return fail(ONEPASS_INVALID_SHAPE, "x: expected (N, C) or (N, C, d1, ...), got %s", describe(x).c_str());
  const std::int64_t channels = x.shape[1];
  if (groups < 1 || channels % groups != 0)
    return fail(ONEPASS_INVALID_VALUE, "groups: expected a divisor of the %lld channels of x, got %lld",
                static_cast<long long>(channels), static_cast<long long>(groups));
  a.groups = groups;
  a.shape = {x.shape[0], groups, channels / groups, elements(x) / (x.shape[0] * channels)};
  if (a.shape.length() < 2)
    return fail(ONEPASS_INVALID_SHAPE,
                "x: expected more than one value to normalize by, got one: shape %s, %lld groups",
                shape_text(x).c_str(), static_cast<long long>(groups));
  return ONEPASS_OK;
}

onepass_status check_x(const onepass_array* x, const onepass_row_norm_options* options, Arguments& a) {
  ONEPASS_TRY(check_any_float("x", x));
  if (options == nullptr) return fail(ONEPASS_INVALID_VALUE, "options: is null");
  if (!(options->eps >= 0.0) || !std::isfinite(options->eps))
    return fail(ONEPASS_INVALID_VALUE, "eps: expected a finite number >= 0, got %g", options->eps);
  if (elements(*x) == 0) return fail(ONEPASS_INVALID_SHAPE, "x: is empty, shape %s", shape_text(*x).c_str());
  if (x->dtype == ONEPASS_FLOAT64) a.dtype = ONEPASS_FLOAT64;
  return options->axes != 0 ? check_last_axes(*x, options->axes, a) : check_groups(*x, options->groups, a);
}

onepass_status check_parameter(const char* name, const onepass_array* p, const onepass_array& x, const Arguments& a) {
  if (!present(p)) return ONEPASS_OK;
  ONEPASS_TRY(check_like(name, p, "gamma and beta beside x",
                         {nullptr, x.shape + a.parameter_axis, nullptr, a.parameter_axes, a.dtype}));
  return check_contiguous(name, *p);
}

// what is written, apart from all else
onepass_status check_all_apart(const char* const* names, const onepass_array* const* arrays, int written, int count) {
  for (int i = 0; i < written; ++i)
    for (int j = i + 1; j < count; ++j) ONEPASS_TRY(check_apart(names[i], arrays[i], names[j], arrays[j]));
  return ONEPASS_OK;
}

template <typename T>
RowArray<T> rows_of(const KernelTable& table, const onepass_array& array, const Arguments& a) {
  return RowArray<T>(table, array, a.first, a.groups);
}

double* doubles(const onepass_array* a) { return present(a) ? static_cast<double*>(a->data) : nullptr; }

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

onepass_status onepass_row_norm_backward(const onepass_array* dy, const onepass_array* x, const onepass_array* gamma,
                                         const onepass_array* mean, const onepass_array* invstd,
                                         const onepass_row_norm_options* options, const onepass_array* dx,
                                         const onepass_array* dgamma, const onepass_array* dbeta, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(check_threads(threads));
    Arguments a;
    ONEPASS_TRY(check_x(x, options, a));
    ONEPASS_TRY(check_like("dy", dy, "x", *x));
    ONEPASS_TRY(check_parameter("gamma", gamma, *x, a));
    ONEPASS_TRY(check_parameter("dgamma", dgamma, *x, a));
    ONEPASS_TRY(check_parameter("dbeta", dbeta, *x, a));
    if (present(mean)) ONEPASS_TRY(check_vector("saved.mean", mean, a.shape.rows(), ONEPASS_FLOAT64));
    ONEPASS_TRY(check_vector("saved.invstd", invstd, a.shape.rows(), ONEPASS_FLOAT64));
    ONEPASS_TRY(check_like("out", dx, "x", *x));
    if (overlaps_itself(*dx)) return fail(ONEPASS_OVERLAP, "out: several of its elements share memory; pass a copy");
    ONEPASS_TRY(check_in_place("out", *dx, "dy", *dy));
    const char* names[] = {"dgamma", "dbeta", "out", "x", "gamma", "saved.mean", "saved.invstd"};
    const onepass_array* arrays[] = {dgamma, dbeta, dx, x, gamma, mean, invstd};
    ONEPASS_TRY(check_all_apart(names, arrays, 3, 7));
    for (int i = 0; i < 2; ++i) ONEPASS_TRY(check_apart(names[i], arrays[i], "dy", dy));
    return with_float(a.dtype, [&](auto zero) {
      using T = decltype(zero);
      const bool wanted = present(dgamma) || present(dbeta);
      std::int64_t times = 1;
      if (wanted || present(gamma))
        times = a.repeat_parameters();
      else
        a.without_parameters();
      const Bands bands(a.shape);
      const auto sums = wanted ? static_cast<std::size_t>(bands.count * a.shape.width()) : 0;
      Backward<T> backward{.table = *table,
                           .shape = a.shape,
                           .dy = rows_of<T>(*table, *dy, a),
                           .x = rows_of<T>(*table, *x, a),
                           .dx = rows_of<T>(*table, *dx, a),
                           .gamma = Parameter<T>(gamma, a.shape.width() / times, times, a.shape.inner == 1),
                           .mean = doubles(mean),
                           .invstd = doubles(invstd),
                           .wanted = wanted,
                           .threads = threads,
                           .bands = bands,
                           .dgammas = std::vector<double>(sums),
                           .dbetas = std::vector<double>(sums)};
      backward.run();
      backward.reduce(backward.dgammas, times, dgamma);
      backward.reduce(backward.dbetas, times, dbeta);
      return ONEPASS_OK;
    });
  });
}
