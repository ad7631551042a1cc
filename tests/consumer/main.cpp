// A trainer loop of its own: softmax regression on three rotated clouds of points, with onepass's loss and Adam.
// Prints the first and the last loss and the accuracy; exits with 1 if it did not learn.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <random>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "onepass/onepass.hpp"

namespace {

constexpr int kSamples = 600, kFeatures = 2, kClasses = 3, kSteps = 200;

struct Data {
  std::vector<float> x;              // (N, K)
  std::vector<std::int32_t> labels;  // (N)
};

Data make_data() {
  Data data;
  std::mt19937 random(0);
  std::normal_distribution<float> noise(0.0F, 0.6F);
  const float centers[kClasses][kFeatures] = {{2.0F, 0.0F}, {-1.0F, 1.7F}, {-1.0F, -1.7F}};
  for (int i = 0; i < kSamples; ++i) {
    const int label = i % kClasses;
    for (const float center : centers[label]) data.x.push_back(center + noise(random));
    data.labels.push_back(label);
  }
  return data;
}

}  // namespace

int main() try {
  using onepass::Array;
  using onepass::check;
  onepass::require();
  const Data data = make_data();
  std::vector<float> weight(kClasses * kFeatures), dweight(weight.size()), exp_avg(weight.size()),
      exp_avg_sq(weight.size());
  std::vector<float> logits(kSamples * kClasses);

  const Array logits_array{std::span<float>(logits), {kSamples, kClasses}};
  const Array labels_array{std::span<const std::int32_t>(data.labels)};
  const Array absent;
  const onepass_cross_entropy_options options = {
      .ignore_index = -100, .label_smoothing = 0.0, .z_loss = 0.0, .reduction = ONEPASS_MEAN, .n_classes = 0};

  onepass::Plan<onepass_adam_hyper> plan(
      {onepass::tensor<float>(std::span(weight), std::span<const float>(dweight), exp_avg, exp_avg_sq)});
  auto hyper = onepass::defaults<onepass_adam_hyper>();
  hyper.lr = 0.05;

  double first = 0.0, loss = 0.0;
  int right = 0;
  for (hyper.step = 1; hyper.step <= kSteps; ++hyper.step) {
    right = 0;
    for (int i = 0; i < kSamples; ++i) {
      int best = 0;
      for (int c = 0; c < kClasses; ++c) {
        float sum = 0.0F;
        for (int k = 0; k < kFeatures; ++k) sum += data.x[i * kFeatures + k] * weight[c * kFeatures + k];
        logits[i * kClasses + c] = sum;
        if (sum > logits[i * kClasses + best]) best = c;
      }
      right += best == data.labels[i];
    }
    // loss and gradient, in place
    check(onepass_softmax_cross_entropy(logits_array.get(), labels_array.get(), absent.get(), &options, absent.get(),
                                        &loss, logits_array.get(), absent.get(), 0));
    if (hyper.step == 1) first = loss;
    for (int c = 0; c < kClasses; ++c)
      for (int k = 0; k < kFeatures; ++k) {
        float sum = 0.0F;
        for (int i = 0; i < kSamples; ++i) sum += logits[i * kClasses + c] * data.x[i * kFeatures + k];
        dweight[c * kFeatures + k] = sum;
      }
    plan.step(hyper);
  }
  const double accuracy = static_cast<double>(right) / kSamples;
  std::printf("onepass %s on %s: loss %.4f to %.4f, accuracy %.3f\n", onepass_version(), onepass_isa(), first, loss,
              accuracy);

  // in the program's own threads: the same bits
  std::vector<float> x(4096 * 256), ours(x.size()), theirs(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 97) / 7.0F;
  const auto softmax = [&](std::vector<float>& out) {
    check(onepass_softmax(Array(std::span<const float>(x), {4096, 256}).get(), 1,
                          Array(std::span<float>(out), {4096, 256}).get(), 0));
  };
  softmax(ours);
  std::atomic<int> jobs{0};
  {
    const onepass::HostThreads host(
        [&](std::int64_t tasks, auto range) {
          std::vector<std::thread> threads;
          for (std::int64_t k = 0; k < 3; ++k)
            threads.emplace_back([&, k] { range(tasks * k / 3, tasks * (k + 1) / 3), ++jobs; });
          for (std::thread& thread : threads) thread.join();
        },
        3);
    softmax(theirs);
    {
      const onepass::HostThreads inner([&](std::int64_t tasks, auto range) { range(0, tasks), jobs += 10; }, 2);
      softmax(theirs);
    }
    softmax(theirs);  // in the outer one's again
  }
  softmax(theirs);
  if (jobs != 3 + 10 + 3 || ours != theirs) throw std::runtime_error("the program's own threads gave other bits");

  // an error is a status with a sentence, and an exception in the C++ face
  try {
    hyper.step = 0;
    plan.step(hyper);
    return 1;
  } catch (const onepass::Error& error) {
    std::printf("refused as it should: %s\n", error.what());
  }
  try {
    hyper.step = 1;
    hyper.max_value = 0.0;
    plan.step(hyper);
    return 1;
  } catch (const onepass::Error& error) {
    std::printf("refused as it should: %s\n", error.what());
  }
  return first > 1.0 && loss < 0.1 && accuracy > 0.97 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
