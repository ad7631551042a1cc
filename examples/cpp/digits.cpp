// Trains a classifier of handwritten digits with onepass alone: 64-128-128-10 with batch normalization and ReLU,
// softmax cross-entropy, Adam, a cosine schedule. The same network as `onepass train digits`, without Python.
//
//   digits TRAIN.csv TEST.csv      rows of 64 features and a label, without a header
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <list>
#include <numbers>
#include <numeric>
#include <random>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "onepass/onepass.hpp"

extern "C" {  // any Fortran BLAS
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
            const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
            const double*, const int*, const double*, double*, const int*);
}

namespace {

using onepass::Array, onepass::check;
using Floats = std::vector<float>;

constexpr int kFeatures = 64, kHidden = 128, kClasses = 10, kBatch = 64, kEpochs = 25;

struct Data {
  Floats x;                          // (N, 64), standardized
  std::vector<std::int32_t> labels;  // (N)
  int rows() const { return static_cast<int>(labels.size()); }
};

Data read(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  Data data;
  for (std::string line, cell; std::getline(file, line);) {
    std::istringstream cells(line);
    Floats row;
    while (std::getline(cells, cell, ',')) row.push_back(std::stof(cell));
    if (row.size() != kFeatures + 1 || !(row.back() >= 0 && row.back() < kClasses))
      throw std::runtime_error(path + ": expected 64 features and a label from 0 to 9 in each row");
    data.x.insert(data.x.end(), row.begin(), row.end() - 1);
    data.labels.push_back(static_cast<std::int32_t>(row.back()));
  }
  return data;
}

// Zero mean and unit variance by the training rows' statistics; a constant feature becomes zero.
void standardize(Data& train, Data& test) {
  for (int k = 0; k < kFeatures; ++k) {
    double sum = 0.0, squares = 0.0;
    for (int i = 0; i < train.rows(); ++i) sum += train.x[i * kFeatures + k];
    const double mean = sum / train.rows();
    for (int i = 0; i < train.rows(); ++i) squares += std::pow(train.x[i * kFeatures + k] - mean, 2);
    const double scale = squares > 0.0 ? 1.0 / std::sqrt(squares / train.rows()) : 0.0;
    for (Data* data : {&train, &test})
      for (int i = 0; i < data->rows(); ++i) {
        float& value = data->x[i * kFeatures + k];
        value = static_cast<float>((value - mean) * scale);
      }
  }
}

Array matrix(std::span<float> data, int rows, int columns) {
  return {data.first(static_cast<std::size_t>(rows * columns)), {rows, columns}};
}
Array vector(Floats& data) { return Array(std::span(data)); }

// Linear without bias, batch normalization and ReLU in one pass; the last layer has a bias, its beta, and no more.
struct Layer {
  int inputs, outputs;
  bool last;
  Floats weight = Floats(inputs * outputs), dweight = weight, gamma = Floats(outputs, 1.0F), dgamma = gamma;
  Floats beta = Floats(outputs), dbeta = beta, running_mean = beta, running_var = gamma;
  Floats x = {}, z = {}, y = {};  // the input, and what became of it: (rows, inputs), (rows, outputs)
  std::vector<double> mean = std::vector<double>(outputs), invstd = mean;
  onepass_batch_norm_options options = {
      .channel_axis = 1, .training = 1, .relu = 1, .population = 0, .momentum = 0.1, .eps = 1e-5};

  void initialize(std::mt19937& random) {
    const float bound = 1.0F / std::sqrt(static_cast<float>(inputs));
    for (float& w : weight) w = std::uniform_real_distribution(-bound, bound)(random);
  }
  Array weights() { return matrix(weight, outputs, inputs); }

  Floats& forward(const Floats& input, int n, bool training) {
    x.assign(input.begin(), input.begin() + n * inputs);
    z.resize(static_cast<std::size_t>(n * outputs));
    y.resize(z.size());
    const Array in = matrix(x, n, inputs), linear = matrix(z, n, outputs), bias = last ? vector(beta) : Array();
    check(onepass_linear(in.get(), weights().get(), bias.get(), 0, linear.get(), 0));
    if (last) return z;
    options.training = training;
    check(onepass_batch_norm(linear.get(), vector(gamma).get(), vector(beta).get(), vector(running_mean).get(),
                             vector(running_var).get(), Array().get(), &options, matrix(y, n, outputs).get(),
                             mean.data(), invstd.data(), 0));
    return y;
  }

  // dy (n, outputs) is written over; dx (n, inputs) may be absent.
  void backward(const Array& dy, int n, const Array& dx) {
    if (!last)
      check(onepass_batch_norm_backward(dy.get(), matrix(z, n, outputs).get(), vector(gamma).get(), vector(beta).get(),
                                        mean.data(), invstd.data(), Array().get(), &options, dy.get(),
                                        vector(dgamma).get(), vector(dbeta).get(), Array().get(), 0));
    const Array dbias = last ? vector(dbeta) : Array();
    check(onepass_linear_backward(dy.get(), matrix(x, n, inputs).get(), weights().get(), dx.get(),
                                  matrix(dweight, outputs, inputs).get(), dbias.get(), 0));
  }
};

}  // namespace

int main(int count, char** arguments) try {
  if (count != 3) throw std::runtime_error("usage: digits TRAIN.csv TEST.csv");
  onepass::require();
  const onepass_blas blas = {sgemm_, dgemm_, nullptr, nullptr};
  check(onepass_set_blas(&blas));
  Data train = read(arguments[1]), test = read(arguments[2]);
  standardize(train, test);

  std::mt19937 random(0);
  Layer layers[] = {{kFeatures, kHidden, false}, {kHidden, kHidden, false}, {kHidden, kClasses, true}};
  std::list<Floats> moments;  // two for each parameter
  std::vector<onepass::Tensor> tensors;
  const auto train_it = [&](Floats& param, const Floats& grad) {
    Floats &first = moments.emplace_back(param.size()), &second = moments.emplace_back(param.size());
    tensors.push_back(onepass::tensor<float>(std::span(param), std::span(grad), first, second));
  };
  for (Layer& layer : layers) {
    layer.initialize(random);
    train_it(layer.weight, layer.dweight);
    if (!layer.last) train_it(layer.gamma, layer.dgamma);
    train_it(layer.beta, layer.dbeta);
  }
  onepass::Plan<onepass_adam_hyper> adam(tensors);
  auto hyper = onepass::defaults<onepass_adam_hyper>();
  const auto forward = [&](const Floats& x, int n, bool training) -> Floats& {
    return layers[2].forward(layers[1].forward(layers[0].forward(x, n, training), n, training), n, training);
  };

  const onepass_cross_entropy_options smoothed = {
      .ignore_index = -100, .label_smoothing = 0.1, .z_loss = 0.0, .reduction = ONEPASS_MEAN, .n_classes = 0};
  const int steps = kEpochs * ((train.rows() + kBatch - 1) / kBatch);
  std::vector<int> order(train.labels.size());
  std::iota(order.begin(), order.end(), 0);
  Floats x(kBatch * kFeatures), d1(kBatch * kHidden), d2(kBatch * kHidden);
  std::vector<std::int32_t> labels(kBatch);
  for (int epoch = 1; epoch <= kEpochs; ++epoch) {
    std::shuffle(order.begin(), order.end(), random);
    double sum = 0.0;
    for (int start = 0; start < train.rows(); start += kBatch, ++hyper.step) {
      const int n = std::min(kBatch, train.rows() - start);
      if (n == 1) break;  // one row has no variance to normalize by
      for (int i = 0; i < n; ++i) {
        const int row = order[static_cast<std::size_t>(start + i)];
        std::copy_n(&train.x[row * kFeatures], kFeatures, &x[i * kFeatures]);
        labels[i] = train.labels[row];
      }
      const Array logits = matrix(forward(x, n, true), n, kClasses);
      const Array targets(std::span<const std::int32_t>(labels).first(static_cast<std::size_t>(n)));
      const Array absent, dx2 = matrix(d2, n, kHidden), dx1 = matrix(d1, n, kHidden);
      double loss = 0.0;
      check(onepass_softmax_cross_entropy(logits.get(), targets.get(), absent.get(), &smoothed, absent.get(), &loss,
                                          logits.get(), absent.get(), 0));
      layers[2].backward(logits, n, dx2);  // the gradient stands where the logits were
      layers[1].backward(dx2, n, dx1);
      layers[0].backward(dx1, n, absent);
      hyper.lr = 0.0015 * (1.0 + std::cos(std::numbers::pi * static_cast<double>(hyper.step - 1) / steps));
      adam.step(hyper);
      sum += loss * n;
    }
    if (epoch % 5 == 0) std::printf("epoch %2d  loss %.4f\n", epoch, sum / train.rows());
  }

  const float* logits = forward(test.x, test.rows(), false).data();
  int right = 0;
  for (int i = 0; i < test.rows(); ++i, logits += kClasses)
    right += std::max_element(logits, logits + kClasses) - logits == test.labels[i];
  std::printf("test accuracy %.2f %% (%d of %d)\n", 100.0 * right / test.rows(), right, test.rows());
} catch (const std::exception& error) {
  std::fprintf(stderr, "digits: %s\n", error.what());
  return 1;
}
