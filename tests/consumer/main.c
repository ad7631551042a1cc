/* The C ABI from C: ten steps of Adam and a softmax cross-entropy, in the team's threads and in the program's own; both
 * have to give the same bits. Prints the result; exits with 1 if something is wrong. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onepass/onepass.h"

enum { SIZE = 300000, ROWS = 512, CLASSES = 300 };

static int calls = 0;

/* A host without threads: its tasks one by one, the last one first. */
static void backwards(void* host, int64_t tasks, onepass_range range, void* context) {
  ++*(int*)host;
  while (tasks > 0) {
    --tasks;
    range(context, tasks, tasks + 1);
  }
}

/* A host that forgets its last task. */
static void forgetful(void* host, int64_t tasks, onepass_range range, void* context) {
  (void)host;
  range(context, 0, tasks - 1);
}

static onepass_array matrix(float* data, const int64_t* shape, int32_t ndim) {
  onepass_array a = {data, shape, NULL, ndim, ONEPASS_FLOAT32};
  return a;
}

static onepass_status train(float* param, double* loss, int32_t threads) {
  const int64_t shape[] = {SIZE}, logits_shape[] = {ROWS, CLASSES}, rows[] = {ROWS};
  float* grad = malloc(SIZE * sizeof(float));
  float* moments = calloc(2 * SIZE, sizeof(float));
  float* logits = malloc(ROWS * CLASSES * sizeof(float));
  int32_t labels[ROWS];
  onepass_update_tensor tensor;
  onepass_adam_hyper hyper;
  onepass_plan* plan = NULL;
  onepass_status status;
  int64_t i;
  for (i = 0; i < SIZE; ++i) param[i] = (float)sin((double)i), grad[i] = (float)cos((double)i);
  memset(&tensor, 0, sizeof(tensor));
  tensor.param = matrix(param, shape, 1);
  tensor.grad = matrix(grad, shape, 1);
  tensor.states[0] = matrix(moments, shape, 1);
  tensor.states[1] = matrix(moments + SIZE, shape, 1);
  memset(&hyper, 0, sizeof(hyper));
  hyper.grad_scale = 1.0, hyper.max_value = HUGE_VAL;
  hyper.lr = 0.01, hyper.beta1 = 0.9, hyper.beta2 = 0.999, hyper.eps = 1e-8;
  status = onepass_plan_create(ONEPASS_UPDATE_adam, &tensor, 1, &plan);
  for (hyper.step = 1; status == ONEPASS_OK && hyper.step <= 10; ++hyper.step)
    status = onepass_adam(plan, &hyper, 1, threads);
  onepass_plan_destroy(plan);

  if (status == ONEPASS_OK) {
    const onepass_array x = matrix(logits, logits_shape, 2);
    const onepass_array targets = {labels, rows, NULL, 1, ONEPASS_INT32};
    onepass_cross_entropy_options options;
    memset(&options, 0, sizeof(options));
    options.ignore_index = -100, options.reduction = ONEPASS_MEAN;
    for (i = 0; i < ROWS * CLASSES; ++i) logits[i] = param[i];
    for (i = 0; i < ROWS; ++i) labels[i] = (int32_t)(i % CLASSES);
    status = onepass_softmax_cross_entropy(&x, &targets, NULL, &options, NULL, loss, &x, NULL, threads);
    memcpy(param, logits, ROWS * CLASSES * sizeof(float)); /* the gradients take part in the comparison */
  }
  free(grad), free(moments), free(logits);
  return status;
}

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, onepass_last_error());
  return 1;
}

int main(void) {
  float *own = malloc(SIZE * sizeof(float)), *hosted = malloc(SIZE * sizeof(float));
  double loss = 0.0, hosted_loss = 0.0;
  onepass_parallel_for known;
  void* known_host;
  int32_t known_threads;
  if (onepass_require(ONEPASS_VERSION_MAJOR, ONEPASS_VERSION_MINOR, ONEPASS_ABI_VERSION) != ONEPASS_OK)
    return fail("require");
  if (onepass_require(ONEPASS_VERSION_MAJOR, ONEPASS_VERSION_MINOR, ONEPASS_ABI_VERSION + 1) == ONEPASS_OK)
    return fail("another ABI was accepted");
  if (train(own, &loss, 0) != ONEPASS_OK) return fail("train");

  if (onepass_set_parallel_for(backwards, &calls, 0) == ONEPASS_OK) return fail("no threads were accepted");
  if (onepass_set_parallel_for(backwards, &calls, 3) != ONEPASS_OK) return fail("set_parallel_for");
  if (onepass_get_threads() != 3) return fail("get_threads");
  onepass_get_parallel_for(&known, &known_host, &known_threads);
  if (known != backwards || known_host != &calls || known_threads != 3) return fail("get_parallel_for");
  if (train(hosted, &hosted_loss, 0) != ONEPASS_OK) return fail("train in the host's threads");
  if (calls != 11) return fail("the host's parallel-for was not used");
  if (memcmp(own, hosted, SIZE * sizeof(float)) != 0 || loss != hosted_loss) return fail("other bits");

  onepass_set_parallel_for(forgetful, NULL, 2);
  if (train(hosted, &hosted_loss, 0) != ONEPASS_INVALID_VALUE || strstr(onepass_last_error(), "parallel_for") == NULL)
    return fail("a host that forgets a task went unnoticed");
  onepass_set_parallel_for(NULL, NULL, 0);
  if (train(hosted, &hosted_loss, 0) != ONEPASS_OK || memcmp(own, hosted, SIZE * sizeof(float)) != 0)
    return fail("back to the team");
  printf("onepass %s, ABI %d, %s: loss %.6f\n", onepass_version(), (int)onepass_abi_version(), onepass_isa(), loss);
  free(own), free(hosted);
  return 0;
}
