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

// The gradients of several small chains, total and scaled by the norm clip, in `out`; `norms` may be null. law_of(c) is
// the law of the c-th of them.
template <class LawOfChain>
void prepare_gradients(LawOfChain law_of, const float* x, const void* grad, GradType type, int64_t chains, int64_t d,
                       float* norms, float* out) {
    double squares[fold];
    for (int64_t c = 0; c < chains; ++c, out += d) {
        const Law law = law_of(c);
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

// The law of every element of a row.
struct OneLaw {
    Law law;
    HATEBM_HD Law at(int64_t) const { return law; }
};

// The laws of the elements of several small chains in a row, each its chain's.
struct OwnLaws {
    Law law;  // what is one for all
    alignas(64) float numbers[fields][fold + tile];

    template <class LawOfChain>
    OwnLaws(const Law& common, LawOfChain law_of, int64_t chains, int64_t d) : law(common) {
        for (int64_t c = 0; c < chains; ++c) {
            const Law own = law_of(c);
            const float values[fields] = {own.step_size, own.noise_std, own.inverse_temperature, own.prior_precision, own.bound};
            for (int f = 0; f < fields; ++f)
                for (int64_t e = 0; e < d; ++e) numbers[f][c * d + e] = values[f];
        }
        for (auto& of_field : numbers)  // what a tile reads beyond the last chain
            for (int64_t e = chains * d; e < chains * d + tile; ++e) of_field[e] = 1;
    }
    HATEBM_HD LawOf<Tile> at(int64_t e) const {
        return {load_tile(numbers[0] + e), load_tile(numbers[1] + e), load_tile(numbers[2] + e), load_tile(numbers[3] + e),
                law.add, law.clip, law.clip_on_update, load_tile(numbers[4] + e), law.low, law.high};
    }
};

}  // namespace
}  // namespace hatebm
