// Gradients of every type on the CPU, and their squares.
#pragma once

#include "formulas/args.h"
#include "cpu/simd.h"
#include "formulas/tree.h"

namespace hatebm {
namespace {

inline const void* grad_at(const void* grad, GradType type, int64_t i) {
    return static_cast<const char*>(grad) + (type == GradType::float32 ? 4 : 2) * i;
}

inline float scalar_grad(const void* grad, GradType type, int64_t i) {
    if (type == GradType::float32) return static_cast<const float*>(grad)[i];
    const uint16_t half = static_cast<const uint16_t*>(grad)[i];
    return type == GradType::float16 ? float_of_half(half) : float_of_bits(static_cast<int32_t>(uint32_t(half) << 16));
}

template <GradType G>
HATEBM_HD Tile load_grad(const void* grad, int64_t i) {
    if constexpr (G == GradType::float32) return load_tile(static_cast<const float*>(grad) + i);
    if constexpr (G == GradType::bfloat16) return load_tile<load_bfloat16>(static_cast<const uint16_t*>(grad) + i);
    if constexpr (G == GradType::float16) return load_tile<load_float16>(static_cast<const uint16_t*>(grad) + i);
}

// The sum of the squares of `count` total gradients, at most `fold`.
inline double squared_gradient(const Law& law, const float* x, const void* grad, GradType type, int64_t count) {
    double squares[fold];
    for (int64_t e = 0; e < count; ++e) {
        const double g = total_gradient(law, x[e], scalar_grad(grad, type, e));
        squares[e] = g * g;
    }
    return fold_run(squares, count);
}

// The gradients of several small chains, total and scaled by the norm clip, in `out`; `norms` may be null.
inline void prepare_gradients(const Law& law, const float* x, const void* grad, GradType type, int64_t chains, int64_t d,
                              float* norms, float* out) {
    double squares[fold];
    for (int64_t c = 0; c < chains; ++c, out += d) {
        for (int64_t e = 0; e < d; ++e) {
            out[e] = total_gradient(law, x[c * d + e], scalar_grad(grad, type, c * d + e));
            squares[e] = static_cast<double>(out[e]) * out[e];
        }
        const float norm = static_cast<float>(__builtin_sqrt(fold_run(squares, d)));
        if (norms) norms[c] = norm;
        const float factor = law.clip == Clip::norm ? clip_factor(law, norm) : 1;
        for (int64_t e = 0; e < d; ++e) out[e] *= factor;
    }
}

// The law of what is left to do with gradients that were prepared.
inline Law prepared(Law law) {
    law.inverse_temperature = 1, law.prior_precision = 0;
    if (law.clip == Clip::norm) law.clip = Clip::none;
    return law;
}

}  // namespace
}  // namespace hatebm
