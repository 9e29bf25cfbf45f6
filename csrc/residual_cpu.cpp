#include "cpu.h"

namespace hatebm::HATEBM_ISA {

void residual_add(const float* gz, const float* y, float* out, int64_t numel, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static) if (parallel : numel > 16384)
    for (int64_t i = 0; i < numel; ++i) out[i] = gz[i] + y[i];
}

}  // namespace hatebm::HATEBM_ISA
