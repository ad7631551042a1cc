// A BLAS from elsewhere, called single-threaded by each thread of the team on its own block.
#pragma once

#include "onepass/onepass.h"

namespace onepass::runtime {

onepass_status set_blas(const onepass_blas& blas);
bool has_blas();

// Holds the library at one thread while any scope lives (its setting is one for the whole process).
class SerialBlas {
 public:
  SerialBlas();
  ~SerialBlas();
  SerialBlas(const SerialBlas&) = delete;
  SerialBlas& operator=(const SerialBlas&) = delete;
};

// Row-major C (m, n) = A (m, k) B (k, n), where a transposed operand is stored (k, m) or (n, k). ld: row strides.
// accumulate: C += A B.
void gemm(bool transpose_a, bool transpose_b, int m, int n, int k, const float* a, int lda, const float* b, int ldb,
          float* c, int ldc, bool accumulate = false);
void gemm(bool transpose_a, bool transpose_b, int m, int n, int k, const double* a, int lda, const double* b, int ldb,
          double* c, int ldc, bool accumulate = false);

}  // namespace onepass::runtime
