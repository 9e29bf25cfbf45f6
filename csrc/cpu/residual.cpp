#include "cpu/cpu.h"
#include "cpu/parallel.h"

namespace hatebm::HATEBM_ISA {

void residual_add(const float* gz, const float* y, float* out, int64_t numel, int threads) {
    constexpr int64_t piece = 4096;
    for_each((numel + piece - 1) / piece, numel > worth_sharing ? threads : 1, [=](int64_t p) {
        const int64_t end = (p + 1) * piece < numel ? (p + 1) * piece : numel;
        for (int64_t i = p * piece; i < end; ++i) out[i] = gz[i] + y[i];
    });
}

}  // namespace hatebm::HATEBM_ISA
