// What softmax cross-entropy and the linear layer fused with it share: checks of targets and options, and the rows.
#pragma once

#include <cstdint>
#include <vector>

#include "api/arrays.hpp"
#include "kernels/table.hpp"

namespace onepass::api {

// columns: of the logits. classes: how many of them count.
onepass_status check_cross_entropy_options(const onepass_cross_entropy_options* options, std::int64_t columns,
                                           std::int64_t& classes);
// Class indices of the logits' shape without axis 1, or probabilities of their shape.
onepass_status check_targets(const onepass_array* targets, const onepass_array& logits);
// (classes) of the logits' type, or float32 beside one of 16 bits.
onepass_status check_class_weight(const char* name, const onepass_array* weight, std::int64_t classes,
                                  std::int32_t logits_dtype);
// One loss for each row: (rows) elements of the type that is computed in.
onepass_status check_losses(const onepass_array* loss, std::int64_t rows, std::int32_t dtype);

// Targets as they are used: read and checked before anything is written.
template <typename T>
class Targets {
 public:
  // rows: how many. weight may be absent.
  onepass_status read(const KernelTable& table, const onepass_array& targets, std::int64_t rows,
                      const onepass_array* weight, std::int64_t classes, std::int64_t ignore_index);
  bool probabilities() const { return probabilities_; }
  const std::int64_t* labels() const { return probabilities_ ? nullptr : labels_.data(); }
  const T* weight() const { return weight_; }
  double mass() const { return mass_; }  // what the mean divides by

 private:
  bool probabilities_ = false;
  std::vector<std::int64_t> labels_;
  std::vector<T> decoded_;
  const T* weight_ = nullptr;
  double mass_ = 0.0;
};

template <typename T>
struct CrossEntropyRows {
  const KernelTable& table;
  const onepass_cross_entropy_options& options;
  std::int64_t classes;
  const T* weight;  // (classes) or null
  double scale;     // of the gradient
  std::int32_t threads;

  // labels: one a row of the logits, or null: probabilities. grad and log_probabilities may be absent, and grad may be
  // the logits. losses: one a row.
  void run(const onepass_array& logits, const std::int64_t* labels, const onepass_array& probabilities,
           const onepass_array* grad, const onepass_array* log_probabilities, double* losses) const;
};

// What a caller gets of the rows' losses: their sum or mean, or each in loss (present for ONEPASS_NONE).
template <typename T>
void give_losses(const std::vector<double>& losses, std::int32_t reduction, double mass, const onepass_array* loss,
                 double* total);

}  // namespace onepass::api
