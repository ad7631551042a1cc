#include "runtime/serial_blas.hpp"

#include <mutex>

#include "runtime/error.hpp"

namespace onepass::runtime {
namespace {

onepass_blas blas = {};
std::mutex guard;  // of the three below and of the library's thread setting
int scopes = 0;
int threads_outside = 1;

// Column-major BLAS sees every row-major matrix transposed: C' = B' A'.
template <typename T, typename Gemm>
void row_major(Gemm* function, bool transpose_a, bool transpose_b, int m, int n, int k, const T* a, int lda, const T* b,
               int ldb, T* c, int ldc, bool accumulate) {
  const char ta = transpose_a ? 'T' : 'N', tb = transpose_b ? 'T' : 'N';
  const T one = 1, beta = accumulate ? one : T(0);
  function(&tb, &ta, &n, &m, &k, &one, b, &ldb, a, &lda, &beta, c, &ldc);
}

}  // namespace

onepass_status set_blas(const onepass_blas& given) {
  if (given.sgemm == nullptr || given.dgemm == nullptr)
    return fail(ONEPASS_INVALID_VALUE, "blas: sgemm and dgemm may not be null");
  if ((given.set_threads == nullptr) != (given.get_threads == nullptr))
    return fail(ONEPASS_INVALID_VALUE, "blas: set_threads and get_threads come together or not at all");
  const std::lock_guard lock(guard);
  if (scopes != 0) return fail(ONEPASS_INVALID_VALUE, "blas: in use by another thread");
  blas = given;
  return ONEPASS_OK;
}

bool has_blas() { return blas.sgemm != nullptr; }

SerialBlas::SerialBlas() {
  if (blas.set_threads == nullptr) return;
  const std::lock_guard lock(guard);
  if (scopes++ == 0) {
    threads_outside = blas.get_threads();
    if (threads_outside != 1) blas.set_threads(1);
  }
}

SerialBlas::~SerialBlas() {
  if (blas.set_threads == nullptr) return;
  const std::lock_guard lock(guard);
  if (--scopes == 0 && threads_outside != 1) blas.set_threads(threads_outside);
}

void gemm(bool transpose_a, bool transpose_b, int m, int n, int k, const float* a, int lda, const float* b, int ldb,
          float* c, int ldc, bool accumulate) {
  row_major(blas.sgemm, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

void gemm(bool transpose_a, bool transpose_b, int m, int n, int k, const double* a, int lda, const double* b, int ldb,
          double* c, int ldc, bool accumulate) {
  row_major(blas.dgemm, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

}  // namespace onepass::runtime
