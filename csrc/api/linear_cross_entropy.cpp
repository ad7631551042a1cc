// A linear layer and softmax cross-entropy in one: logits are made, turned into their gradient and used up a chunk of
// rows at a time, so that (N, C) never exists.
#include <algorithm>
#include <memory>
#include <vector>

#include "api/cross_entropy_rows.hpp"
#include "api/product.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {
namespace {

// A chunk reads weight twice and dweight once, and writes it: 16 bytes of float32 for 6 flops a row. With 128 rows that
// is 48 flops a byte, several times what a core computes while it moves one. Next to the weights the chunk is small:
// 128 / K of them.
constexpr std::int64_t kChunkBytes = 8 << 20, kFewestRows = 128;
constexpr std::int64_t kColumns = 4096;  // classes whose bias gradient is summed by one task

struct Problem {
  Matrix x, weight, dx, dweight;  // data null: not wanted
  const onepass_array *bias, *targets, *dbias;
  bool backward() const { return dx.data || dweight.data || present(dbias); }
};

Matrix rows_of(const Matrix& m, std::int64_t begin, std::int64_t rows, std::int64_t item) {
  return {static_cast<char*>(m.data) + begin * m.stride * item, rows, m.columns, m.stride};
}

template <typename T>
class Chunk {
 public:
  Chunk(const KernelTable& table, const Problem& problem, std::int64_t rows, std::int32_t threads)
      : table_(table),
        problem_(problem),
        classes_(problem.weight.rows),
        threads_(threads),
        logits_(std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(rows * classes_))) {
    if (present(problem.dbias)) bias_sums_.resize(static_cast<std::size_t>(classes_));
  }

  // Rows [begin, begin + rows): their losses, and what they add to the gradients.
  void run(const CrossEntropyRows<T>& cross_entropy, const std::int64_t* labels, std::int64_t begin, std::int64_t rows,
           double* losses) {
    const Matrix logits = {logits_.get(), rows, classes_, classes_};
    const Matrix x = rows_of(problem_.x, begin, rows, sizeof(T));
    make_logits(x, logits);
    const std::int64_t shape[] = {rows, classes_};
    const onepass_array dense = {logits_.get(), shape, nullptr, 2,
                                 sizeof(T) == sizeof(float) ? ONEPASS_FLOAT32 : ONEPASS_FLOAT64};
    onepass_array probabilities = *problem_.targets;
    probabilities.shape = shape;
    if (labels == nullptr)
      probabilities.data = static_cast<char*>(probabilities.data) + begin * stride(*problem_.targets, 0);
    cross_entropy.run(dense, labels ? labels + begin : nullptr, probabilities, problem_.backward() ? &dense : nullptr,
                      nullptr, losses + begin);
    if (problem_.backward()) add_gradients(x, logits, begin);
  }

  void give_bias_gradient() const {
    T* out = present(problem_.dbias) ? static_cast<T*>(problem_.dbias->data) : nullptr;
    for (const double sum : bias_sums_) *out++ = static_cast<T>(sum);
  }

 private:
  void make_logits(const Matrix& x, const Matrix& logits) const {
    const T* bias = present(problem_.bias) ? static_cast<const T*>(problem_.bias->data) : nullptr;
    const Product<T> product(x, false, problem_.weight, true, logits);
    run_tasks(product.pieces(), product.flops(), [&](std::int64_t i) {
      product.run(i, [&](std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
        table_.kernels<T>().bias_relu(logits.at<T>(row, column), bias ? bias + column : nullptr, false, rows, columns,
                                      logits.stride);
      });
    });
  }

  // dx = grad weight, dweight += grad^T x, dbias += column sums of grad: one parallel region.
  void add_gradients(const Matrix& x, const Matrix& grad, std::int64_t begin) {
    const bool first = begin == 0;
    std::vector<Product<T>> products;
    std::vector<bool> adds;
    if (problem_.dweight.data) {
      products.emplace_back(grad, true, x, false, problem_.dweight);
      adds.push_back(!first);
    }
    if (problem_.dx.data) {
      products.emplace_back(grad, false, problem_.weight, false, rows_of(problem_.dx, begin, x.rows, sizeof(T)));
      adds.push_back(false);
    }
    std::int64_t flops = 0, tasks = bias_sums_.empty() ? 0 : (classes_ + kColumns - 1) / kColumns;
    for (const Product<T>& product : products) {
      tasks += product.pieces();
      flops += product.flops();
    }
    run_tasks(tasks, flops, [&](std::int64_t i) {
      for (std::size_t k = 0; k < products.size(); ++k) {
        if (i < products[k].pieces())
          return products[k].run(
              i, [](auto...) {}, adds[k]);
        i -= products[k].pieces();
      }
      const std::int64_t column = i * kColumns;
      table_.kernels<T>().add_column_sums(grad.at<T>(0, column), bias_sums_.data() + column, grad.rows,
                                          std::min(kColumns, classes_ - column), grad.stride);
    });
  }

  template <typename Task>
  void run_tasks(std::int64_t tasks, std::int64_t flops, Task&& task) const {
    runtime::parallel(runtime::team_size(threads_, tasks, flops / runtime::kFlopsPerByte), tasks,
                      [&](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t i = begin; i < end; ++i) task(i);
                      });
  }

  const KernelTable& table_;
  const Problem& problem_;
  std::int64_t classes_;
  std::int32_t threads_;
  std::unique_ptr<T[]> logits_;
  std::vector<double> bias_sums_;
};

onepass_status check_outputs(const onepass_array* const* outputs, const char* const* names, int count,
                             const onepass_array* const* inputs, const char* const* input_names, int input_count) {
  for (int i = 0; i < count; ++i) {
    for (int j = 0; j < input_count; ++j) ONEPASS_TRY(check_apart(names[i], outputs[i], input_names[j], inputs[j]));
    for (int j = 0; j < i; ++j) ONEPASS_TRY(check_apart(names[i], outputs[i], names[j], outputs[j]));
  }
  return ONEPASS_OK;
}

}  // namespace
}  // namespace onepass::api

using namespace onepass;
using namespace onepass::api;

int64_t onepass_linear_cross_entropy_rows(int64_t rows, int64_t classes, int32_t dtype) {
  const std::int64_t row = std::max<std::int64_t>(classes, 1) * std::max<std::int64_t>(itemsize(dtype), 1);
  return std::min(rows, std::max(kChunkBytes / row, kFewestRows));
}

onepass_status onepass_linear_cross_entropy(const onepass_array* x, const onepass_array* weight,
                                            const onepass_array* bias, const onepass_array* targets,
                                            const onepass_array* class_weight,
                                            const onepass_cross_entropy_options* options, const onepass_array* loss,
                                            double* total, const onepass_array* dx, const onepass_array* dweight,
                                            const onepass_array* dbias, int32_t threads) {
  return guarded([&]() -> onepass_status {
    const KernelTable* table = runtime::kernels();
    if (table == nullptr) return ONEPASS_UNAVAILABLE;
    ONEPASS_TRY(need_blas());
    ONEPASS_TRY(check_threads(threads));
    Problem problem = {};
    problem.bias = bias;
    problem.targets = targets;
    problem.dbias = dbias;
    ONEPASS_TRY(check_matrix("weight", weight, -1, -1, -1, problem.weight));
    ONEPASS_TRY(check_matrix("x", x, -1, problem.weight.columns, weight->dtype, problem.x));
    const std::int64_t rows = problem.x.rows, columns = problem.weight.rows;
    if (present(bias)) ONEPASS_TRY(check_vector("bias", bias, columns, x->dtype));
    const std::int64_t shape[] = {rows, columns};
    const onepass_array logits = {nullptr, shape, nullptr, 2, x->dtype};  // that never exist
    std::int64_t classes = 0;
    ONEPASS_TRY(check_targets(targets, logits));
    ONEPASS_TRY(check_cross_entropy_options(options, columns, classes));
    ONEPASS_TRY(check_class_weight("class_weight", class_weight, classes, x->dtype));
    const bool each = options->reduction == ONEPASS_NONE;
    if (each) ONEPASS_TRY(check_losses(loss, rows, x->dtype));
    if (!each && total == nullptr) return fail(ONEPASS_INVALID_VALUE, "total: is null");
    if (present(dx)) ONEPASS_TRY(check_matrix("dx", dx, rows, problem.x.columns, x->dtype, problem.dx));
    if (present(dweight))
      ONEPASS_TRY(check_matrix("dweight", dweight, columns, problem.x.columns, x->dtype, problem.dweight));
    if (present(dbias)) ONEPASS_TRY(check_vector("dbias", dbias, columns, x->dtype));
    const onepass_array* outputs[] = {dx, dweight, dbias, each ? loss : nullptr};
    const char* names[] = {"dx", "dweight", "dbias", "loss"};
    const onepass_array* inputs[] = {x, weight, bias, targets, class_weight};
    const char* input_names[] = {"x", "weight", "bias", "targets", "class_weight"};
    ONEPASS_TRY(check_outputs(outputs, names, 4, inputs, input_names, 5));
    return with_float(x->dtype, [&](auto zero) -> onepass_status {
      using T = decltype(zero);
      Targets<T> read;
      ONEPASS_TRY(read.read(*table, *targets, rows, class_weight, classes, options->ignore_index));
      const double scale = options->reduction == ONEPASS_MEAN ? 1.0 / read.mass() : 1.0;
      const CrossEntropyRows<T> cross_entropy = {*table, *options, classes, read.weight(), scale, threads};
      std::vector<double> losses(static_cast<std::size_t>(rows));
      const std::int64_t most = onepass_linear_cross_entropy_rows(rows, columns, x->dtype);
      Chunk<T> chunk(*table, problem, most, threads);
      const runtime::SerialBlas serial;
      for (std::int64_t begin = 0; begin < rows; begin += most)
        chunk.run(cross_entropy, read.labels(), begin, std::min(most, rows - begin), losses.data());
      chunk.give_bias_gradient();
      give_losses<T>(losses, options->reduction, read.mass(), loss, total);
      return ONEPASS_OK;
    });
  });
}
