// One Langevin step of one element, for scalars, SIMD vectors and GPUs: x <- clamp(x - s clip(g / T + p x) + n eps).
#pragma once

#include <type_traits>

#include "formulas/philox.h"

namespace hatebm {

enum class Add : int { sequential, increment, fma };
enum class Clip : int { none, value, norm };
enum class GradType : int { none, float32, bfloat16, float16 };

// Its numbers are floats, or vectors of what each lane's chain has.
template <class Number>
struct LawOf {
    Number step_size, noise_std, inverse_temperature, prior_precision;
    Add add;
    Clip clip;
    bool clip_on_update;
    Number bound;     // of the clip
    float low, high;  // of the clamp
};
using Law = LawOf<float>;

// Where the numbers of the law of each chain at each step lie.
struct Numbers {
    const float* at;  // null: the law's own stand for all
    int64_t field, step, chain;  // how far apart two of them lie, in floats
    HATEBM_HD float operator()(int f, int64_t i, int64_t c) const { return at[f * field + i * step + c * chain]; }
};
constexpr int fields = 5;  // of a law: step_size, noise_std, inverse_temperature, prior_precision, bound

namespace {

// The law of chain c at step i. Noise or a prior that `law` has not, nobody has.
HATEBM_HD Law law_at(Law law, const Numbers& numbers, int64_t i, int64_t c) {
    if (!numbers.at) return law;
    law.step_size = numbers(0, i, c);
    if (law.noise_std != 0) law.noise_std = numbers(1, i, c);
    law.inverse_temperature = numbers(2, i, c);
    if (law.prior_precision != 0) law.prior_precision = numbers(3, i, c);
    law.bound = numbers(4, i, c);
    return law;
}

// Whether a number of the law may be other than 0: of one for all chains that is known.
template <class Number>
HATEBM_HD bool counts(Number number) {
    if constexpr (std::is_same_v<Number, float>) return number != 0;
    else return true;
}

// `yes` where a number that counts is not 0, else `no`: lane by lane for numbers of each chain.
template <class Number, class Float>
HATEBM_HD Float unless_zero(Number number, Float yes, Float no) {
    if constexpr (std::is_same_v<Number, float>) return yes;
    else return where_greater(abs_of(number), Number(0.0f), yes, no);
}

template <class Number>
HATEBM_HD Number negative(Number number) {
    if constexpr (std::is_same_v<Number, float>) return -number;
    else return Number(-1.0f) * number;
}

// What the clip sees: grad E / T + prior_precision x.
template <class Number, class Float>
HATEBM_HD Float total_gradient(const LawOf<Number>& law, Float x, Float grad) {
    grad = grad * Float(law.inverse_temperature);
    if (!counts(law.prior_precision)) return grad;
    return unless_zero(law.prior_precision, grad + Float(law.prior_precision) * x, grad);
}

// Where a total gradient leads.
template <class Float>
struct Drift {
    Float grad, free, drift;  // the gradient after a clip of its own, s times it, and that after a clip of the update
};

// `factor` scales the gradient of a sample whose norm is clipped.
template <class Number, class Float>
HATEBM_HD Drift<Float> drift_of(const LawOf<Number>& law, Float grad, Float factor) {
    const Float s(law.step_size), bound(law.bound);
    if (law.clip == Clip::norm) grad = grad * factor;
    if (law.clip == Clip::value && !law.clip_on_update) grad = clamp(grad, Float(negative(law.bound)), bound);
    Float drift = s * grad, free = drift;
    if (law.clip == Clip::value && law.clip_on_update) drift = clamp(drift, Float(negative(law.bound)), bound);
    return {grad, free, drift};
}

// x after the step. eps is used where noise_std is not 0.
template <class Number, class Float>
HATEBM_HD Float step_element(const LawOf<Number>& law, Float x, Float total, Float eps, Float factor) {
    const bool noisy = counts(law.noise_std);
    const auto [grad, free, drift] = drift_of(law, total, factor);
    Float moved;
    if (law.add == Add::fma) {
        moved = fma(Float(negative(law.step_size)), grad, x);
        if (law.clip == Clip::value && law.clip_on_update)
            moved = where_greater(abs_of(free), Float(law.bound), x - drift, moved);
        if (noisy) moved = unless_zero(law.noise_std, fma(Float(law.noise_std), eps, moved), moved);
    } else if (law.add == Add::increment) {
        moved = x - drift;
        if (noisy) moved = unless_zero(law.noise_std, x + (Float(law.noise_std) * eps - drift), moved);
    } else {
        moved = x - drift;
        if (noisy) moved = unless_zero(law.noise_std, moved + Float(law.noise_std) * eps, moved);
    }
    return clamp(moved, Float(law.low), Float(law.high));
}

// A step without a gradient: the noise of the laws that add it before the gradient is taken.
template <class Number, class Float>
HATEBM_HD Float noise_element(const LawOf<Number>& law, Float x, Float eps) {
    if (counts(law.noise_std)) x = unless_zero(law.noise_std, x + Float(law.noise_std) * eps, x);
    return clamp(x, Float(law.low), Float(law.high));
}

// What an element adds to log q(x | x') - log q(x' | x) - prior_precision (|x'|^2 - |x|^2) / 2, given x, x' and the drifts
// there: ((w + d0)^2 - (w - d1)^2) / (2 noise_std^2) with w = x' - x, factored.
template <class Double>
HATEBM_HD Double ratio_element(double half_precision, double half_prior, Double start, Double end, Double d0, Double d1) {
    const Double way = end - start;
    return (d0 + d1) * (way + way + d0 - d1) * Double(half_precision) - Double(half_prior) * way * (end + start);
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
