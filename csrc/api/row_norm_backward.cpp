// Layer, RMS, group and instance normalization backward.
#include "api/row_norm.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

constexpr std::int64_t kBands = 64;        // at most; each has sums of its own for dgamma and dbeta
constexpr std::int64_t kBandSamples = 32;  // samples whose sums are added up in T before they meet others in double

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

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

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
