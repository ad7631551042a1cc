/* onepass: fused CPU training kernels. The C ABI, and the only door to the kernels.
 *
 * Conventions of every function
 *   - returns ONEPASS_OK or a status; onepass_last_error() then holds one sentence for this thread
 *   - checks everything before it writes the first byte
 *   - threads = 0: the default (onepass_get_threads()); n > 0: at most n; small work runs serially whatever n says
 *   - results have the same bits at any number of threads and at any instruction-set level
 *   - is reentrant; never throws; never keeps a pointer, except a plan those of its tensors
 *   - subnormal numbers are flushed to zero inside; the caller's floating-point mode is restored
 */
#ifndef ONEPASS_ONEPASS_H
#define ONEPASS_ONEPASS_H

#include <stddef.h>
#include <stdint.h>

#define ONEPASS_VERSION_MAJOR 0
#define ONEPASS_VERSION_MINOR 1
#define ONEPASS_VERSION_PATCH 0
#define ONEPASS_VERSION "0.1.0"
/* Grows when a program that was compiled with an older header can no longer call the library: a struct or a signature
 * has changed. New functions leave it alone. The shared library's soname ends in it. */
#define ONEPASS_ABI_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default) /* these functions are what a shared library exports */
#endif

typedef enum onepass_status {
  ONEPASS_OK = 0,
  ONEPASS_INVALID_DTYPE = 1,  /* a type is not supported, or two differ that must agree */
  ONEPASS_INVALID_SHAPE = 2,  /* a shape is empty where it may not be, or two differ that must agree */
  ONEPASS_INVALID_LAYOUT = 3, /* strides that this function does not take, or a misaligned pointer */
  ONEPASS_INVALID_VALUE = 4,  /* a hyperparameter or an option out of its range, a null pointer */
  ONEPASS_OVERLAP = 5,        /* two arrays share memory that must not */
  ONEPASS_OUT_OF_RANGE = 6,   /* a label outside [0, classes) */
  ONEPASS_UNAVAILABLE = 7,    /* an instruction-set level or a BLAS that is not there */
  ONEPASS_NO_MEMORY = 8
} onepass_status;

typedef enum onepass_dtype {
  ONEPASS_FLOAT32 = 0,
  ONEPASS_FLOAT64 = 1,
  ONEPASS_FLOAT16 = 2,
  ONEPASS_BFLOAT16 = 3,
  ONEPASS_BLOCKS8 = 4, /* bytes of 8-bit numbers in blocks with a scale each: states alone, see below */
  ONEPASS_INT8 = 16,
  ONEPASS_UINT8 = 17,
  ONEPASS_INT16 = 18,
  ONEPASS_UINT16 = 19,
  ONEPASS_INT32 = 20,
  ONEPASS_UINT32 = 21,
  ONEPASS_INT64 = 22,
  ONEPASS_UINT64 = 23
} onepass_dtype;

enum { ONEPASS_MAX_DIMENSIONS = 32, ONEPASS_MAX_STATES = 4, ONEPASS_MAX_AVERAGES = 2 };

/* An array somewhere in memory; nothing is owned. An array that is absent has data = NULL and ndim = -1. */
typedef struct onepass_array {
  void* data;
  const int64_t* shape;   /* (ndim), elements */
  const int64_t* strides; /* (ndim), bytes; NULL: C-contiguous */
  int32_t ndim;
  int32_t dtype; /* onepass_dtype */
} onepass_array;

/* ---- library ------------------------------------------------------------------------------------------------- */

const char* onepass_version(void);
int32_t onepass_abi_version(void);
/* Whether this library serves a program that was compiled with this header: onepass_require(ONEPASS_VERSION_MAJOR,
 * ONEPASS_VERSION_MINOR, ONEPASS_ABI_VERSION) at its start. ONEPASS_UNAVAILABLE where the ABI or the major version
 * differs, or the library is older. */
onepass_status onepass_require(int32_t major, int32_t minor, int32_t abi);
const char* onepass_last_error(void); /* of this thread; "" if there was none */

/* Picks the kernels for this CPU, or those that the environment variable ONEPASS_ISA names. Called by itself when
 * first needed; calling it early shows an unknown or unavailable level early. */
onepass_status onepass_init(void);
const char* onepass_isa(void);           /* level in use, such as "x86-64-v3"; "" if onepass_init() failed */
size_t onepass_isa_count(void);          /* levels built into the library */
const char* onepass_isa_name(size_t i);  /* lowest first */
int32_t onepass_isa_available(size_t i); /* 1 if this CPU and operating system run it */

/* Threads of the process-wide team. The default respects OMP_NUM_THREADS, affinity and the cgroup's CPU quota. */
onepass_status onepass_set_threads(int32_t threads); /* 0: back to the default */
int32_t onepass_get_threads(void);

/* A parallel-for of the host's: calls range(context, begin, end) for every i of [0, tasks) in exactly one call with
 * begin <= i < end, on any threads and in any order, and returns when all of the calls have returned. tasks is at most
 * sixteen for each thread. range throws nothing and may be called by several threads at once. */
typedef void (*onepass_range)(void* context, int64_t begin, int64_t end);
typedef void (*onepass_parallel_for)(void* host, int64_t tasks, onepass_range range, void* context);

/* From now on what the calling thread starts runs in the host's threads, `threads` (>= 1) of them, instead of the
 * team's, to the same bits; onepass_get_threads() of this thread says `threads` then. NULL: back to the team. host is
 * passed on as it is. ONEPASS_INVALID_VALUE from a later call whose tasks the host did not run once each: what it was
 * to write is undefined. A forked child has no host until it sets one. A BLAS without set_threads has to be thread-safe
 * and serial inside the host's threads. */
onepass_status onepass_set_parallel_for(onepass_parallel_for parallel_for, void* host, int32_t threads);
/* What the calling thread has set, to set it again later; NULL, NULL and 0 where there is no host. */
void onepass_get_parallel_for(onepass_parallel_for* parallel_for, void** host, int32_t* threads);

/* The threads of an OpenMP runtime that the process has loaded (libgomp, or another that has GOMP_parallel), as such a
 * parallel-for: what a program wants whose other operators are OpenMP's, as two pools hold each other's cores. library:
 * NULL, or a handle of dlopen, in which and in whose dependencies the runtime is looked for if the process's own
 * symbols have none. ONEPASS_UNAVAILABLE if there is none. A region of OpenMP's waits for all of its threads. In a
 * forked child it runs serially. */
onepass_status onepass_find_openmp(void* library, onepass_parallel_for* parallel_for, void** host);
/* Those that a region of the calling thread has, as omp_set_num_threads says, for onepass_set_parallel_for. */
int32_t onepass_openmp_threads(const void* host);

/* ---- optimizer updates --------------------------------------------------------------------------------------- */

typedef struct onepass_update_tensor {
  onepass_array param;                      /* read and written */
  onepass_array grad;                       /* read; absent (data = NULL): the tensor is left alone */
  onepass_array states[ONEPASS_MAX_STATES]; /* read and written; as many as the update has */
  int32_t group;                            /* which hyperparameters it takes */

  /* All of these may be absent, which data = NULL says too. */
  onepass_array lower;                          /* uint16, read and written: the lower halves of float32 weights whose
                                                   upper halves a bfloat16 param is */
  onepass_array copy;                           /* float16 or bfloat16, written: the new param, rounded to nearest */
  onepass_array averages[ONEPASS_MAX_AVERAGES]; /* of the type computed in: see onepass_plan_set_average */
} onepass_update_tensor;

/* All arrays of a tensor have one shape; each may have its own strides, negative and transposed ones included. All of
 * them are fastest when all are dense in the same order.
 *
 * Types: param float32, float64, float16 or bfloat16; grad any of them; states float64 for a float64 param, else
 * float32, bfloat16 or, all of them together, ONEPASS_BLOCKS8. Everything is computed in float64 for a float64 param,
 * else in float32; what is stored in fewer bits is rounded to nearest, or as onepass_plan_set_rounding says.
 *
 * A state of ONEPASS_BLOCKS8 is a contiguous one-dimensional array of onepass_blocks8_bytes(elements of the param)
 * bytes at a multiple of 4. It holds the elements in the order of the param's memory (the axis of its largest stride
 * outermost), in blocks of 128 with a power of two as scale; all bytes zero: all numbers zero. csrc/kernels/blocks.hpp
 * has the codes. One number that is not finite spoils its block. */

int64_t onepass_blocks8_bytes(int64_t elements);

typedef enum onepass_update {
#define ONEPASS_UPDATE(name, states, hyperparameters) ONEPASS_UPDATE_##name,
#include "updates.def"
#undef ONEPASS_UPDATE
  ONEPASS_UPDATE_COUNT
} onepass_update;

/* A plan: tensors checked once, their layouts simplified once. It keeps pointers, so it must not outlive the arrays.
 * One thread at a time may use a plan. */
typedef struct onepass_plan onepass_plan;

onepass_status onepass_plan_create(onepass_update update, const onepass_update_tensor* tensors, size_t count,
                                   onepass_plan** plan);
/* Gives tensor i another gradient (NULL or an absent array: leave the tensor alone); checks what changed. */
onepass_status onepass_plan_set_grad(onepass_plan* plan, size_t i, const onepass_array* grad);
onepass_status onepass_plan_set_group(onepass_plan* plan, size_t i, int32_t group);
/* stochastic: params and states in float16 and bfloat16 are rounded up with the probability of what is cut off, from a
 * generator keyed by seed, step, tensor and index, so that the bits depend on nothing else. The index counts a
 * tensor's elements with the axis of the param's largest stride outermost. Otherwise (the default): to nearest even. */
onepass_status onepass_plan_set_rounding(onepass_plan* plan, int32_t stochastic, uint64_t seed);
/* From now on, after each update of a tensor that has averages[i]: average += weight (param - average), in the same
 * pass; with write_back, param = average then. 0 <= weight <= 1; without weight and write_back (the default) it is left
 * alone. weight = 1 - decay: an exponential moving average; 1 / n: the mean of n; with write_back: Lookahead. */
onepass_status onepass_plan_set_average(onepass_plan* plan, int32_t i, double weight, int32_t write_back);
/* What an update that sums over tensors found in the last step on tensor i: sums (2). lamb: squares of the params and
 * of the directions; lars: squares of the params and of the gradients; swats: squares of the steps, and steps times
 * gradients. */
onepass_status onepass_plan_sums(const onepass_plan* plan, size_t i, double* sums);
void onepass_plan_destroy(onepass_plan* plan);

/* The hyperparameter struct of every update, and the function that makes one step over all tensors of a plan in one
 * parallel region (two where it needs sums over tensors first). groups: (group_count) structs. Bytes moved: see the
 * registry. */
#define ONEPASS_STATE(name)
#define ONEPASS_POSITIVE(name)
#define ONEPASS_REAL(name, value) double name;
#define ONEPASS_FLAG(name) int32_t name;
#define ONEPASS_MORE_BYTES(n)
#define ONEPASS_UPDATE(name, states, hyperparameters)                                                          \
  typedef struct onepass_##name##_hyper {                                                                      \
    int64_t step;      /* this step's number, from 1 */                                                        \
    double grad_scale; /* what the loss was multiplied by: the gradient is divided by it */                    \
    double max_value;  /* > 0: after that the gradient is clipped to [-max_value, max_value]; HUGE_VAL: not */ \
    int32_t maximize;                                                                                          \
    hyperparameters                                                                                            \
  } onepass_##name##_hyper;                                                                                    \
  onepass_status onepass_##name(onepass_plan* plan, const onepass_##name##_hyper* groups, size_t group_count,  \
                                int32_t threads);
#include "updates.def"
#undef ONEPASS_UPDATE
#undef ONEPASS_MORE_BYTES
#undef ONEPASS_FLAG
#undef ONEPASS_REAL
#undef ONEPASS_POSITIVE
#undef ONEPASS_STATE

/* The registry: what updates.def says, for programs that walk it. */
typedef struct onepass_field {
  const char* name;
  double value;  /* default */
  size_t offset; /* in the hyperparameter struct */
  int32_t flag;  /* 0: double, 1: int32_t */
} onepass_field;

typedef struct onepass_update_info {
  const char* name;
  const char* const* states; /* (state_count) */
  const int32_t* positive;   /* (state_count): 1 for a state that is never negative */
  size_t state_count;
  const onepass_field* fields; /* (field_count), without step, grad_scale, max_value and maximize */
  size_t field_count;
  size_t hyper_size; /* bytes */
  int32_t bytes;     /* that a step moves for a float32 parameter, all of float32 */
  onepass_status (*run)(onepass_plan* plan, const void* groups, size_t group_count, int32_t threads);
} onepass_update_info;

const onepass_update_info* onepass_update_registry(onepass_update update); /* NULL outside the enumeration */

/* Square root of the sum of squares over all arrays (of any floating-point types and strides), accumulated in double.
 */
onepass_status onepass_global_norm(const onepass_array* arrays, size_t count, double* norm, int32_t threads);

/* Sets dense arrays of any type to zero, all threads together, after asking for huge pages: for new states, whose first
 * step would otherwise take its page faults one by one. */
onepass_status onepass_zero(const onepass_array* arrays, size_t count, int32_t threads);

/* ---- softmax and losses -------------------------------------------------------------------------------------- */

typedef enum onepass_reduction { ONEPASS_NONE = 0, ONEPASS_MEAN = 1, ONEPASS_SUM = 2 } onepass_reduction;

typedef struct onepass_cross_entropy_options {
  int64_t ignore_index;
  double label_smoothing; /* in [0, 1] */
  double z_loss;          /* >= 0; adds z_loss * logsumexp^2 to each row's loss */
  int32_t reduction;      /* onepass_reduction */
  int64_t n_classes;      /* only so many of the C columns are classes, the first ones; 0: all */
} onepass_cross_entropy_options;

/* Softmax cross-entropy: loss and gradient from one read of the logits.
 * logits   (N, C) or (N, C, d1, ...), float32, float64, float16 or bfloat16, any strides; 16 bits are computed in
 * float32 targets  (N, d1, ...) of any integer type, or probabilities of the logits' shape and type weight (n_classes)
 * of the logits' type, or absent loss     (N, d1, ...) of the logits' type (float32 for 16 bits), C-contiguous, for
 * ONEPASS_NONE; else absent total    the reduced loss for ONEPASS_MEAN and ONEPASS_SUM grad     like logits; may be the
 * logits; or absent. Bytes moved: 8 a float32 logit in place, else 12 log_probabilities  like logits, or absent: 8
 * bytes more Beside logits of 16 bits, probabilities, weight and log_probabilities may be float32. Columns behind
 * n_classes are not read; their gradient is 0, their log-probability minus infinity. A row whose label is ignore_index
 * is read for its log-probabilities alone. Few long rows are shared by all threads, others taken whole by one. */
onepass_status onepass_softmax_cross_entropy(const onepass_array* logits, const onepass_array* targets,
                                             const onepass_array* weight, const onepass_cross_entropy_options* options,
                                             const onepass_array* loss, double* total, const onepass_array* grad,
                                             const onepass_array* log_probabilities, int32_t threads);

/* Softmax cross-entropy of the logits x weight^T + bias, which are made and used in chunks of rows. Memory beyond the
 * arguments: onepass_linear_cross_entropy_rows(N, C, dtype) x C logits, 16 bytes a row and 8 a class, and what BLAS
 * packs.
 * x        (N, K), weight (C, K), float32 or float64, unit stride along the last axis; bias (C) or absent
 * targets, class_weight, loss, total   as above
 * dx, dweight, dbias   the gradients, like x, weight and bias; each may be absent */
onepass_status onepass_linear_cross_entropy(const onepass_array* x, const onepass_array* weight,
                                            const onepass_array* bias, const onepass_array* targets,
                                            const onepass_array* class_weight,
                                            const onepass_cross_entropy_options* options, const onepass_array* loss,
                                            double* total, const onepass_array* dx, const onepass_array* dweight,
                                            const onepass_array* dbias, int32_t threads);
/* Rows of a chunk: as many as 8 MiB of logits hold, but at least 128, and at most N. */
int64_t onepass_linear_cross_entropy_rows(int64_t rows, int64_t classes, int32_t dtype);

/* (log-)softmax of x along axis into out, which may be x. Same shape and type (float32, float64, float16 or bfloat16),
 * any strides. */
onepass_status onepass_softmax(const onepass_array* x, int32_t axis, const onepass_array* out, int32_t threads);
onepass_status onepass_log_softmax(const onepass_array* x, int32_t axis, const onepass_array* out, int32_t threads);

/* Losses of elements. All arrays have one shape and one type, float32, float64, float16 or bfloat16 (the last two are
 * computed in float32; beside them loss is float32, and what is only read may be), and any strides, 0 in what is only
 * read included. loss is written for ONEPASS_NONE, total for the other reductions; grad (with respect to the first
 * argument, which it may be) may be absent. Sums are made in the order of the first argument's memory. 12 bytes a
 * float32 element. */

/* (prediction - target)^2 */
onepass_status onepass_mean_squared_error(const onepass_array* prediction, const onepass_array* target,
                                          int32_t reduction, const onepass_array* loss, double* total,
                                          const onepass_array* grad, int32_t threads);

/* d = prediction - target: d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), delta > 0. smooth_l1: all of it
 * divided by delta, and |d| for delta = 0. */
onepass_status onepass_huber_loss(const onepass_array* prediction, const onepass_array* target, double delta,
                                  int32_t smooth_l1, int32_t reduction, const onepass_array* loss, double* total,
                                  const onepass_array* grad, int32_t threads);

/* weight ((1 - t) log(1 + exp(x)) + pos_weight t log(1 + exp(-x))) of logits x and targets t, which are of the logits'
 * type (in [0, 1], which is not checked) or integers, 0 or 1. weight and pos_weight may be absent. */
onepass_status onepass_binary_cross_entropy(const onepass_array* logits, const onepass_array* targets,
                                            const onepass_array* weight, const onepass_array* pos_weight,
                                            int32_t reduction, const onepass_array* loss, double* total,
                                            const onepass_array* grad, int32_t threads);

/* -weight[t] x[t]: log_probabilities x (N, C) or (N, C, d1, ...), targets t (N, d1, ...) of any integer type, weight
 * (C) contiguous or absent, loss (N, d1, ...), grad like log_probabilities, which it may be. ONEPASS_MEAN divides by
 * the summed weights; targets that are ignore_index count for nothing. 4 bytes a float32 element and one line a row. */
onepass_status onepass_nll_loss(const onepass_array* log_probabilities, const onepass_array* targets,
                                const onepass_array* weight, int64_t ignore_index, int32_t reduction,
                                const onepass_array* loss, double* total, const onepass_array* grad, int32_t threads);

/* ---- batch normalization ------------------------------------------------------------------------------------- */

/* x (and every array of its shape: out, residual, dy, dx, y, dresidual) has any strides and is float32, float64,
 * float16 or bfloat16, all of one type; the channels lie along channel_axis. What there is one of a channel is (C),
 * C-contiguous: gamma, beta, running_mean, running_var, dgamma and dbeta, float64 for a float64 x, else float32, each
 * absent or given; mean, m2, invstd and sums in double. Everything is computed in the type of gamma, and results in
 * fewer bits are rounded to nearest even. */
typedef struct onepass_batch_norm_options {
  int32_t channel_axis;
  int32_t training;
  int32_t relu;
  int32_t population; /* running_var takes the biased variance, of `count` values; else the unbiased one */
  double momentum;    /* weight of the new batch in the running statistics */
  double eps;         /* inside the square root, beside the variance */
} onepass_batch_norm_options;

/* y = relu?((x - mean) * invstd * gamma + beta + residual?). Training: mean and biased variance of the batch; the
 * running statistics are updated. Inference: the running statistics are used.
 * mean, invstd: (C) double, written. out may be x in inference and must not overlap it in training; it may be the
 * residual. */
onepass_status onepass_batch_norm(const onepass_array* x, const onepass_array* gamma, const onepass_array* beta,
                                  const onepass_array* running_mean, const onepass_array* running_var,
                                  const onepass_array* residual, const onepass_batch_norm_options* options,
                                  const onepass_array* out, double* mean, double* invstd, int32_t threads);

/* dy, x -> dx, dgamma, dbeta (and dresidual, the gradient behind the ReLU). y: the forward's output, needed only where
 * it had both relu and a residual; beta: needed with relu. dx may be dy. */
onepass_status onepass_batch_norm_backward(const onepass_array* dy, const onepass_array* x, const onepass_array* gamma,
                                           const onepass_array* beta, const double* mean, const double* invstd,
                                           const onepass_array* y, const onepass_batch_norm_options* options,
                                           const onepass_array* dx, const onepass_array* dgamma,
                                           const onepass_array* dbeta, const onepass_array* dresidual, int32_t threads);

/* The halves of the two, for a batch that lies in several places. Statistics of its parts, (count, mean, m2: the sum of
 * squared deviations from the mean), are merged by the caller (Chan, Golub and LeVeque 1983); sums are added up.
 * One after the other on the whole batch they give the bits of the functions above. */
onepass_status onepass_batch_norm_statistics(const onepass_array* x, int32_t channel_axis, double* mean, double* m2,
                                             int32_t threads);
/* With statistics of `count` values; options->training is not looked at. out may be x. */
onepass_status onepass_batch_norm_apply(const onepass_array* x, const onepass_array* gamma, const onepass_array* beta,
                                        const onepass_array* running_mean, const onepass_array* running_var,
                                        const onepass_array* residual, const onepass_batch_norm_options* options,
                                        int64_t count, const double* mean, const double* m2, const onepass_array* out,
                                        double* invstd, int32_t threads);
/* sum_dy, sum_dyx: (C), written: sums of dy and of dy (x - mean), dy as the ReLU let it through. */
onepass_status onepass_batch_norm_backward_sums(const onepass_array* dy, const onepass_array* x,
                                                const onepass_array* gamma, const onepass_array* beta,
                                                const double* mean, const double* invstd, const onepass_array* y,
                                                const onepass_batch_norm_options* options, double* sum_dy,
                                                double* sum_dyx, int32_t threads);
/* With sums over `count` values of each channel; dgamma and dbeta follow from them. */
onepass_status onepass_batch_norm_backward_apply(const onepass_array* dy, const onepass_array* x,
                                                 const onepass_array* gamma, const onepass_array* beta,
                                                 const double* mean, const double* invstd, const onepass_array* y,
                                                 const onepass_batch_norm_options* options, int64_t count,
                                                 const double* sum_dy, const double* sum_dyx, const onepass_array* dx,
                                                 const onepass_array* dgamma, const onepass_array* dbeta,
                                                 const onepass_array* dresidual, int32_t threads);

/* ---- normalization of rows: layer, RMS, group and instance normalization --------------------------------------- */

/* x: float32, float64, float16 or bfloat16, any strides. gamma and beta: C-contiguous, of x's type, float32 beside
 * float16 and bfloat16; either may be absent. */
typedef struct onepass_row_norm_options {
  int32_t axes;   /* > 0: a row is x's last `axes` axes, and gamma and beta have their shape (layer, RMS).
                     0: x is (N, C, ...), a row is C / groups channels of a sample, gamma and beta are (C) */
  int64_t groups; /* with axes = 0; C: instance normalization */
  double eps;     /* inside the square root */
} onepass_row_norm_options;

/* out = (x - mean) * invstd * gamma + beta, mean and biased variance of each row; out may be x.
 * mean, invstd: (rows) float64, written, rows in C order. mean absent: RMS normalization, invstd = 1 / sqrt(mean square
 * + eps). Bytes moved: 8 for each float32 element. */
onepass_status onepass_row_norm(const onepass_array* x, const onepass_array* gamma, const onepass_array* beta,
                                const onepass_row_norm_options* options, const onepass_array* out,
                                const onepass_array* mean, const onepass_array* invstd, int32_t threads);

/* dy, x -> dx, dgamma, dbeta (shape and type of gamma and beta), the last two each or both absent. mean and invstd: as
 * the forward pass wrote them; dx may be dy. Bytes moved: 12 for each float32 element. */
onepass_status onepass_row_norm_backward(const onepass_array* dy, const onepass_array* x, const onepass_array* gamma,
                                         const onepass_array* mean, const onepass_array* invstd,
                                         const onepass_row_norm_options* options, const onepass_array* dx,
                                         const onepass_array* dgamma, const onepass_array* dbeta, int32_t threads);

/* ---- layers -------------------------------------------------------------------------------------------------- */

/* Fortran BLAS, as in SciPy's cython_blas. set_threads and get_threads steer that library's own threads (it is held at
 * one while the team runs) and may be NULL for a BLAS without threads. */
typedef struct onepass_blas {
  void (*sgemm)(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
                const float*, const int*, const float*, float*, const int*);
  void (*dgemm)(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
                const double*, const int*, const double*, double*, const int*);
  void (*set_threads)(int);
  int (*get_threads)(void);
} onepass_blas;

onepass_status onepass_set_blas(const onepass_blas* blas); /* once, before the first linear */

/* y = relu?(x weight^T + bias): x (N, K), weight (O, K), bias (O) or absent, y (N, O); unit stride along the last axis.
 */
onepass_status onepass_linear(const onepass_array* x, const onepass_array* weight, const onepass_array* bias,
                              int32_t relu, const onepass_array* y, int32_t threads);
/* dx = dy weight, dweight = dy^T x, dbias = sum of dy over rows; each of the three may be absent. */
onepass_status onepass_linear_backward(const onepass_array* dy, const onepass_array* x, const onepass_array* weight,
                                       const onepass_array* dx, const onepass_array* dweight,
                                       const onepass_array* dbias, int32_t threads);

/* ---- convolution and pooling ------------------------------------------------------------------------------------ */

/* Of images (N, C, H, W), float32 or float64, in C order. outputs = (inputs + 2 padding - kernel) / stride + 1, rounded
 * down, along each axis. */
typedef struct onepass_window {
  int64_t kernel[2], stride[2], padding[2]; /* of H, of W; padding with zeros on both sides */
} onepass_window;

/* y = relu?(x * weight + bias) (cross-correlation): weight (O, C, kernel), bias (O) or absent, y (N, O, outputs). */
onepass_status onepass_conv2d(const onepass_array* x, const onepass_array* weight, const onepass_array* bias,
                              const onepass_window* window, int32_t relu, const onepass_array* y, int32_t threads);
/* The gradients; each of the three may be absent. */
onepass_status onepass_conv2d_backward(const onepass_array* dy, const onepass_array* x, const onepass_array* weight,
                                       const onepass_window* window, const onepass_array* dx,
                                       const onepass_array* dweight, const onepass_array* dbias, int32_t threads);
/* The largest of each window (NaN if it holds one; padding <= kernel / 2), or their mean, padding included as zeros. */
onepass_status onepass_max_pool2d(const onepass_array* x, const onepass_window* window, const onepass_array* y,
                                  int32_t threads);
onepass_status onepass_max_pool2d_backward(const onepass_array* dy, const onepass_array* x,
                                           const onepass_window* window, const onepass_array* dx, int32_t threads);
onepass_status onepass_avg_pool2d(const onepass_array* x, const onepass_window* window, const onepass_array* y,
                                  int32_t threads);
onepass_status onepass_avg_pool2d_backward(const onepass_array* dy, const onepass_window* window,
                                           const onepass_array* dx, int32_t threads);

/* ---- activations and dropout ---------------------------------------------------------------------------------- */

typedef enum onepass_activation {
  ONEPASS_RELU = 0,
  ONEPASS_LEAKY_RELU = 1,
  ONEPASS_GELU = 2,      /* x P(X < x) of the normal distribution */
  ONEPASS_GELU_TANH = 3, /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
  ONEPASS_SILU = 4,      /* x sigmoid(x) */
  ONEPASS_SIGMOID = 5,
  ONEPASS_TANH = 6,
  ONEPASS_ACTIVATION_COUNT
} onepass_activation;

/* y = f(x), and dx = dy f'. All arrays of a call have one shape and one type, float32, float64, float16 or bfloat16
 * (the last two are computed in float32), and any strides; y may be x and dx may be dy. saved is y for ONEPASS_RELU,
 * ONEPASS_SIGMOID and ONEPASS_TANH, whose derivative it gives without another exponential, and x for the others.
 * negative_slope is ONEPASS_LEAKY_RELU's. */
onepass_status onepass_activate(int32_t activation, double negative_slope, const onepass_array* x,
                                const onepass_array* y, int32_t threads);
onepass_status onepass_activate_backward(int32_t activation, double negative_slope, const onepass_array* dy,
                                         const onepass_array* saved, const onepass_array* dx, int32_t threads);

/* y = f(x + bias): bias (C) along channel_axis of x; dx = dy f'(x + bias), dbias (C) = the sum of dx over all other
 * axes. Types, strides and what may be written in place as above; bias and dbias are C-contiguous, of x's type, or
 * float32 beside 16 bits. */
onepass_status onepass_bias_activate(int32_t activation, double negative_slope, const onepass_array* x,
                                     const onepass_array* bias, int32_t channel_axis, const onepass_array* y,
                                     int32_t threads);
onepass_status onepass_bias_activate_backward(int32_t activation, double negative_slope, const onepass_array* dy,
                                              const onepass_array* x, const onepass_array* bias, int32_t channel_axis,
                                              const onepass_array* dx, const onepass_array* dbias, int32_t threads);

/* y = x / (1 - p) where an element is kept, else 0, and dx from dy by the same mask. The mask is stored nowhere: an
 * element is kept if 32 random bits of a generator keyed by seed, step (>= 0) and its index are at least 2^32 p. The
 * index counts in C order whatever the strides. 0 <= p <= 1. Types and strides as above; y may be x and dx may be dy.
 */
onepass_status onepass_dropout(const onepass_array* x, double p, uint64_t seed, int64_t step, const onepass_array* y,
                               int32_t threads);
onepass_status onepass_dropout_backward(const onepass_array* dy, double p, uint64_t seed, int64_t step,
                                        const onepass_array* dx, int32_t threads);

/* ---- measuring ----------------------------------------------------------------------------------------------- */

/* Touches memory as a kernel does and computes next to nothing: the limit to hold a kernel against. All arrays are
 * C-contiguous float32 of one size; the first `reads` are read, the next `updates` read and written, the rest written.
 */
onepass_status onepass_stream_limit(const onepass_array* arrays, size_t reads, size_t updates, size_t writes,
                                    int32_t threads);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
