#include "api/cross_entropy_rows.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "api/dense_row.hpp"
#include "api/integers.hpp"
#include "api/shared_rows.hpp"

namespace onepass::api {
namespace {

onepass_status read_labels(const onepass_array& targets, std::int64_t classes, std::int64_t ignore_index,
                           std::vector<std::int64_t>& labels) {
  const Rows rows(targets, -1);
  labels.resize(static_cast<std::size_t>(rows.count()));
  for (std::int64_t r = 0; r < rows.count(); ++r) {
    std::int64_t label = 0;
    const bool fits = load_integer(rows.at(r), targets.dtype, label);
    if (!fits || (label != ignore_index && (label < 0 || label >= classes)))
      return fail(ONEPASS_OUT_OF_RANGE, "targets%s is %s, expected 0 <= target < %lld or ignore_index (%lld)",
                  index_text(targets, r).c_str(), integer_text(rows.at(r), targets.dtype).c_str(),
                  static_cast<long long>(classes), static_cast<long long>(ignore_index));
    labels[static_cast<std::size_t>(r)] = label;
  }
  return ONEPASS_OK;
}

// One row by the whole team.
template <typename T, typename Load, typename Store>
double shared_cross_entropy(const KernelTable& table, int team, const CrossEntropyRow<T>& row, Load&& load,
                            Store&& store) {
  const FloatKernels<T>& k = table.kernels<T>();
  const std::int64_t n = row.classes;
  const RowPeak<T> peak = k.cross_entropy_peak(row, shared_maximum(table, team, row.logits, n, load));
  std::vector<RowSums> sums(static_cast<std::size_t>((n + kRowPiece - 1) / kRowPiece));
  share_row(team, n, [&](std::int64_t i, std::int64_t begin, std::int64_t end) {
    k.cross_entropy_sums(row, peak, begin, end, sums[static_cast<std::size_t>(i)]);
  });
  RowSums total = {};
  for (const RowSums& piece : sums) {
    total.others += piece.others;
    total.mass += piece.mass;
    total.distance += piece.distance;
  }
  const RowResult<T> result = k.cross_entropy_result(row, peak, total);
  if (row.grad != nullptr)
    share_row(team, n, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      k.cross_entropy_gradient(row, result, begin, end);
      store(begin, end);
    });
  return result.loss;
}

// The buffers of one thread, or of a team that shares each row.
template <typename T>
class Worker {
 public:
  Worker(const CrossEntropyRows<T>& all, int team, const onepass_array& logits, const std::int64_t* labels,
         const onepass_array& probabilities, const onepass_array* grad, const onepass_array* log_probabilities)
      : all_(all),
        team_(team),
        columns_(logits.shape[1]),
        labels_(labels),
        x_(all.table, logits, &logits, 1),
        t_(all.table, logits, labels == nullptr ? &probabilities : nullptr, 1),
        g_(all.table, logits, grad, 1),
        log_(all.table, logits, log_probabilities, 1) {}

  // The loss of row r; `next` will be asked for after it. An ignored row is read for its log-probabilities alone.
  double row(std::int64_t r, std::int64_t next) {
    const std::int64_t label = labels_ ? labels_[r] : -1, n = all_.classes;
    const bool ignored = labels_ && label == all_.options.ignore_index;
    if (log_.there()) log_softmax(r, next);  // before the gradient, which may overwrite the logits
    for (RowOperand<T>* operand : {&x_, &t_, &g_}) operand->seek(r);
    g_.fill(ignored ? 0 : n, columns_, T(0));
    if (ignored) return 0.0;
    const CrossEntropyRow<T> row = {
        .classes = n,
        .logits = x_.place(),
        .grad = g_.place(),
        .label = label,
        .probabilities = t_.place(),
        .weight = all_.weight,
        .label_smoothing = all_.options.label_smoothing,
        .z_loss = all_.options.z_loss,
        .scale = all_.scale,
        .ahead = {x_.ahead(next), (g_.there() ? g_ : x_).ahead(next)},
    };
    const auto load = [&](std::int64_t begin, std::int64_t end) {
      x_.load(begin, end);
      t_.load(begin, end);
    };
    const auto store = [&](std::int64_t begin, std::int64_t end) { g_.store(begin, end); };
    if (team_ > 1) return shared_cross_entropy(all_.table, team_, row, load, store);
    load(0, n);
    const double loss = all_.table.template kernels<T>().cross_entropy_row(row);
    store(0, n);
    return loss;
  }

  void log_softmax(std::int64_t r, std::int64_t next) {
    const std::int64_t n = all_.classes;
    x_.seek(r);
    log_.seek(r);
    log_.fill(n, columns_, -std::numeric_limits<T>::infinity());
    const auto load = [&](std::int64_t begin, std::int64_t end) { x_.load(begin, end); };
    const auto store = [&](std::int64_t begin, std::int64_t end) { log_.store(begin, end); };
    softmax_of_row(all_.table, team_, x_.place(), log_.place(), n, true, {x_.ahead(next), log_.ahead(next)}, load,
                   store);
  }

 private:
  const CrossEntropyRows<T>& all_;
  int team_;
  std::int64_t columns_;
  const std::int64_t* labels_;
  RowOperand<T> x_, t_, g_, log_;
};

// Rows [begin, end) of few classes, sixteen at once.
template <typename T>
void few_classes(const CrossEntropyRows<T>& all, const onepass_array& logits, const std::int64_t* labels,
                 const onepass_array* grad, double* losses, std::int64_t begin, std::int64_t end) {
  const bool gradient = present(grad);
  const TurnedRows<T> x(all.table, logits, 1), g(all.table, gradient ? *grad : logits, 1);
  alignas(64) T tile[kFewClasses * kFewRows];
  std::int64_t own[kFewRows];
  double loss[kFewRows];
  const FewRows<T> rows = {.classes = all.classes,
                           .labels = own,
                           .weight = all.weight,
                           .z_loss = all.options.z_loss,
                           .scale = all.scale,
                           .gradient = gradient,
                           .tile = tile,
                           .losses = loss};
  for (std::int64_t first = begin; first < end; first += kFewRows) {
    const int count = static_cast<int>(std::min<std::int64_t>(kFewRows, end - first));
    for (int r = 0; r < kFewRows; ++r)
      own[r] = r < count && labels[first + r] != all.options.ignore_index ? labels[first + r] : -1;
    x.load(first, count, own, all.classes, tile);
    all.table.template kernels<T>().cross_entropy_few(rows);
    if (gradient) g.store(tile, first, count, all.classes, logits.shape[1]);
    std::copy(loss, loss + count, losses + first);
  }
}

}  // namespace

onepass_status check_cross_entropy_options(const onepass_cross_entropy_options* options, std::int64_t columns,
                                           std::int64_t& classes) {
  if (options == nullptr) return fail(ONEPASS_INVALID_VALUE, "options: is null");
  if (!(options->label_smoothing >= 0.0 && options->label_smoothing <= 1.0))
    return fail(ONEPASS_INVALID_VALUE, "label_smoothing: expected a number in [0, 1], got %g",
                options->label_smoothing);
  if (!(options->z_loss >= 0.0) || !std::isfinite(options->z_loss))
    return fail(ONEPASS_INVALID_VALUE, "z_loss: expected a finite number >= 0, got %g", options->z_loss);
  if (options->reduction < ONEPASS_NONE || options->reduction > ONEPASS_SUM)
    return fail(ONEPASS_INVALID_VALUE, "reduction: unknown code %d", options->reduction);
  if (options->n_classes < 0 || options->n_classes > columns)
    return fail(ONEPASS_INVALID_VALUE, "n_classes: expected 1 to the number of columns, %lld, got %lld",
                static_cast<long long>(columns), static_cast<long long>(options->n_classes));
  classes = options->n_classes == 0 ? columns : options->n_classes;
  return ONEPASS_OK;
}

onepass_status check_targets(const onepass_array* targets, const onepass_array& logits) {
  ONEPASS_TRY(check_array("targets", targets));
  if (is_any_float(targets->dtype)) {
    if (is_narrow(logits.dtype) && targets->dtype == ONEPASS_FLOAT32)
      return check_shape_like("targets", *targets, "logits", logits);
    return check_like("targets", targets, "logits", logits);
  }
  std::vector<std::int64_t> expected;
  for (int i = 0; i < logits.ndim; ++i)
    if (i != 1) expected.push_back(logits.shape[i]);
  const onepass_array model = {nullptr, expected.data(), nullptr, logits.ndim - 1, targets->dtype};
  if (!same_shape(*targets, model))
    return fail(ONEPASS_INVALID_SHAPE,
                "targets: expected class indices of shape %s or probabilities of shape %s, got %s",
                shape_text(model).c_str(), shape_text(logits).c_str(), shape_text(*targets).c_str());
  return ONEPASS_OK;
}

onepass_status check_class_weight(const char* name, const onepass_array* weight, std::int64_t classes,
                                  std::int32_t logits_dtype) {
  if (!present(weight)) return ONEPASS_OK;
  const bool wide = is_narrow(logits_dtype) && weight->dtype == ONEPASS_FLOAT32;
  return check_vector(name, weight, classes, wide ? std::int32_t{ONEPASS_FLOAT32} : logits_dtype);
}

onepass_status check_losses(const onepass_array* loss, std::int64_t rows, std::int32_t dtype) {
  ONEPASS_TRY(check_array("loss", loss));
  ONEPASS_TRY(check_contiguous("loss", *loss));
  if (loss->dtype != (is_narrow(dtype) ? std::int32_t{ONEPASS_FLOAT32} : dtype) || elements(*loss) != rows)
    return fail(ONEPASS_INVALID_SHAPE,
                "loss: expected one element for each row of logits, of their type (float32 beside 16 bits), got %s",
                describe(*loss).c_str());
  return ONEPASS_OK;
}

template <typename T>
onepass_status Targets<T>::read(const KernelTable& table, const onepass_array& targets, std::int64_t rows,
                                const onepass_array* weight, std::int64_t classes, std::int64_t ignore_index) {
  if (present(weight)) {
    weight_ = static_cast<const T*>(weight->data);
    if (is_narrow(weight->dtype)) {
      decoded_.resize(static_cast<std::size_t>(classes));
      table.kernels<T>().codecs.of[weight->dtype].decode(weight->data, decoded_.data(), classes);
      weight_ = decoded_.data();
    }
  }
  probabilities_ = is_any_float(targets.dtype);
  mass_ = static_cast<double>(rows);
  if (probabilities_) return ONEPASS_OK;
  ONEPASS_TRY(read_labels(targets, classes, ignore_index, labels_));
  mass_ = 0.0;
  for (const std::int64_t label : labels_)
    if (label != ignore_index) mass_ += weight_ ? static_cast<double>(weight_[label]) : 1.0;
  return ONEPASS_OK;
}

template <typename T>
void CrossEntropyRows<T>::run(const onepass_array& logits, const std::int64_t* labels,
                              const onepass_array& probabilities, const onepass_array* grad,
                              const onepass_array* log_probabilities, double* losses) const {
  const std::int64_t rows = elements(logits) / logits.shape[1];
  const bool few = labels != nullptr && classes <= kFewClasses && options.label_smoothing == 0.0;
  const int within = threads_within_row(threads, rows, classes, sizeof(T));
  Idle<Worker<T>> idle;
  const auto work = [&](int team, std::int64_t begin, std::int64_t end) {
    auto worker = idle.take([&] {
      return std::make_unique<Worker<T>>(*this, team, logits, labels, probabilities, grad, log_probabilities);
    });
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t next = r + 1 < end ? r + 1 : r;
      if (few)
        worker->log_softmax(r, next);
      else
        losses[r] = worker->row(r, next);
    }
    idle.leave(std::move(worker));
  };
  if (within > 1) return work(within, 0, rows);
  if (!few || present(log_probabilities)) {
    const int team = runtime::team_size(threads, rows, softmax_cost(rows, classes, sizeof(T)));
    runtime::parallel(team, rows, [&](std::int64_t begin, std::int64_t end) { work(1, begin, end); });
  }
  if (!few) return;
  const std::int64_t tiles = (rows + kFewRows - 1) / kFewRows;
  const int team = runtime::team_size(threads, tiles, few_classes_cost(rows, classes, sizeof(T)));
  runtime::parallel(team, tiles, [&](std::int64_t begin, std::int64_t end) {
    few_classes(*this, logits, labels, grad, losses, begin * kFewRows, std::min(end * kFewRows, rows));
  });
}

template <typename T>
void give_losses(const std::vector<double>& losses, std::int32_t reduction, double mass, const onepass_array* loss,
                 double* total) {
  if (reduction == ONEPASS_NONE) {
    T* out = static_cast<T*>(loss->data);
    for (const double l : losses) *out++ = static_cast<T>(l);
    return;
  }
  double sum = 0.0;
  for (const double l : losses) sum += l;
  *total = reduction == ONEPASS_MEAN ? sum / mass : sum;
}

#define ONEPASS_INSTANTIATE(T)         \
  template class Targets<T>;           \
  template struct CrossEntropyRows<T>; \
  template void give_losses<T>(const std::vector<double>&, std::int32_t, double, const onepass_array*, double*);
ONEPASS_INSTANTIATE(float)
ONEPASS_INSTANTIATE(double)
#undef ONEPASS_INSTANTIATE

}  // namespace onepass::api
