// One Langevin step of one element, for scalars, SIMD vectors and GPUs: x <- clamp(x - s clip(g / T + p x) + n eps).
#pragma once

#include "formulas/philox.h"

namespace hatebm {

enum class Add : int { sequential, increment, fma };
enum class Clip : int { none, value, norm };
enum class GradType : int { none, float32, bfloat16, float16 };

struct Law {
    float step_size, noise_std, inverse_temperature, prior_precision;
    Add add;
    Clip clip;
    bool clip_on_update;
    float bound;      // of the clip
    float low, high;  // of the clamp
};

namespace {

// What the clip sees: grad E / T + prior_precision x.
template <class Float>
HATEBM_HD Float total_gradient(const Law& law, Float x, Float grad) {
    grad = grad * Float(law.inverse_temperature);
    return law.prior_precision != 0 ? grad + Float(law.prior_precision) * x : grad;
}

// Where a total gradient leads.
template <class Float>
struct Drift {
    Float grad, free, drift;  // the gradient after a clip of its own, s times it, and that after a clip of the update
};

// `factor` scales the gradient of a sample whose norm is clipped.
template <class Float>
HATEBM_HD Drift<Float> drift_of(const Law& law, Float grad, Float factor) {
    const Float s(law.step_size), bound(law.bound);
    if (law.clip == Clip::norm) grad = grad * factor;
    if (law.clip == Clip::value && !law.clip_on_update) grad = clamp(grad, Float(-law.bound), bound);
    Float drift = s * grad, free = drift;
    if (law.clip == Clip::value && law.clip_on_update) drift = clamp(drift, Float(-law.bound), bound);
    return {grad, free, drift};
}

// x after the step. eps is used when noise_std is not 0.
template <class Float>
HATEBM_HD Float step_element(const Law& law, Float x, Float total, Float eps, Float factor) {
    const bool noisy = law.noise_std != 0;
    const auto [grad, free, drift] = drift_of(law, total, factor);
    Float moved;
    if (law.add == Add::fma) {
        moved = fma(Float(-law.step_size), grad, x);
        if (law.clip == Clip::value && law.clip_on_update)
            moved = where_greater(abs_of(free), Float(law.bound), x - drift, moved);
        if (noisy) moved = fma(Float(law.noise_std), eps, moved);
    } else if (law.add == Add::increment) {
        moved = noisy ? x + (Float(law.noise_std) * eps - drift) : x - drift;
    } else {
        moved = x - drift;
        if (noisy) moved = moved + Float(law.noise_std) * eps;
    }
    return clamp(moved, Float(law.low), Float(law.high));
}

// A step without a gradient: the noise of the laws that add it before the gradient is taken.
template <class Float>
HATEBM_HD Float noise_element(const Law& law, Float x, Float eps) {
    if (law.noise_std != 0) x = x + Float(law.noise_std) * eps;
    return clamp(x, Float(law.low), Float(law.high));
}

// What an element adds to log q(x | x') - log q(x' | x) - prior_precision (|x'|^2 - |x|^2) / 2, given the drifts at x
// and at x': ((w + d0)^2 - (w - d1)^2) / (2 noise_std^2) with w = x' - x, factored.
HATEBM_HD double ratio_element(double half_precision, double half_prior, float x, float proposal, float there, float back) {
    const double start = x, end = proposal, d0 = there, d1 = back, way = end - start;
    return (d0 + d1) * (way + way + d0 - d1) * half_precision - half_prior * way * (end + start);
}

// Whether log u < log_ratio, given -2 ln u; a NaN is refused.
HATEBM_HD bool accepts(double log_ratio, float minus_2_ln_u) { return minus_2_ln_u > -2 * log_ratio; }

// The factor of a norm clip: exactly 1 below the cap.
HATEBM_HD float clip_factor(const Law& law, float norm) {
    const float length = law.clip_on_update ? norm * (law.step_size < 0 ? -law.step_size : law.step_size) : norm;
#ifdef __CUDA_ARCH__
    return length <= law.bound ? 1.0f : __fdiv_rn(law.bound, length);
#else
    return length <= law.bound ? 1.0f : law.bound / length;
#endif
}

constexpr int fold = 1024;  // elements that one level of the reduction tree takes together, a power of two

}  // namespace
}  // namespace hatebm
