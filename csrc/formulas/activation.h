// Activations and their slopes in float32, one formula for scalars and SIMD vectors: sums, products, quotients, fma
// and comparisons alone, so that every instruction set returns the same bits.
#pragma once

#include "formulas/scalar.h"

namespace hatebm {

enum class Activation : int { relu, leaky_relu, silu, softplus, tanh, gelu, gelu_tanh, elu };

namespace {

template <class Float>
struct Activated {
    Float value, slope;
};

// Minimax polynomials, the highest coefficient first.
template <class Float, int count>
HATEBM_HD Float horner(const float (&coefficients)[count], Float t) {
    Float p(coefficients[0]);
    HATEBM_UNROLL(16)
    for (int k = 1; k < count; ++k) p = fma(p, t, Float(coefficients[k]));
    return p;
}

// e^x = scale (1 + rest) for x <= 0, with |rest| < 0.42; below -87, where e^x leaves the normal numbers, that of -87.
template <class Float>
struct Decay {
    Float rest, scale;
    HATEBM_HD Float value() const { return fma(scale, rest, scale); }
    HATEBM_HD Float minus_1() const { return fma(scale, rest, scale - Float(1.0f)); }
};

template <class Float>
HATEBM_HD Decay<Float> decay(Float x) {
    constexpr float coefficients[] = {0.00019913706637453288f, 0.0013941116631031036f, 0.00833327416330576f,
                                      0.04166635498404503f, 0.16666667163372040f, 0.5f};
    const Float round(12582912.0f);  // 1.5 * 2^23: its last bits hold the integer
    x = clamp(x, Float(-87.0f), Float(0.0f));
    const Float shifted = fma(x, Float(1.4426950408889634f), round), n = shifted - round;
    const Float r = fma(n, Float(0.00021219444170128554f), fma(n, Float(-0.693359375f), x));
    const auto bits = shift_left(bits_of(shifted), 23);
    const Float scale = float_of_bits(bits - decltype(bits)(-(127 << 23)));
    return {fma(r * r, horner(coefficients, r), r), scale};
}

// e^-x, with x kept within 87 of 0: beyond, one of the two numbers below would leave the normal numbers.
template <class Float>
HATEBM_HD Float exp_of_minus(Float x) {
    constexpr float coefficients[] = {-0.008289435878396034f, 0.041898563504219055f, -0.16667652130126953f,
                                      0.49999144673347473f, -0.9999997019767761f, 1.0f};
    const Float round(12582912.0f);
    x = clamp(x, Float(-87.0f), Float(87.0f));
    const Float shifted = fma(x, Float(-1.4426950408889634f), round), n = shifted - round;
    const Float r = fma(n, Float(-0.00021219444170128554f), fma(n, Float(0.693359375f), x));
    const auto exponent = shift_left(bits_of(shifted), 23);
    return float_of_bits(bits_of(horner(coefficients, r)) + exponent);
}

// The logistic function at x and at -x.
template <class Float>
struct Logistic {
    Float here, there;
};

template <class Float>
HATEBM_HD Logistic<Float> logistic(Float x) {
    const Float one(1.0f), e = exp_of_minus(x), here = one / (one + e);
    return {here, e * here};
}

template <class Float>
HATEBM_HD Activated<Float> silu(Float x) {
    const Logistic<Float> s = logistic(x);
    const Float value = x * s.here;
    return {value, fma(value, s.there, s.here)};
}

template <class Float>
HATEBM_HD Activated<Float> softplus(Float x) {  // max(x, 0) + log(1 + e^-|x|)
    constexpr float coefficients[] = {-0.0032439809292554855f, 0.005253348965197802f, -0.006749936379492283f,
                                      0.011576151475310326f,   -0.020570291206240654f, 0.03663547337055206f,
                                      -0.06768769770860672f,   0.13260900974273682f,  -0.28852710127830505f,
                                      0.8109301924705505f};
    const Float zero(0.0f), e = decay(zero - abs_of(x)).value(), large = Float(1.0f) / (Float(1.0f) + e);
    const Float rest = e * horner(coefficients, e - Float(0.5f));
    return {clamp(x, zero, Float(__builtin_inff())) + rest, where_greater(x, zero, large, e * large)};
}

template <class Float>
HATEBM_HD Activated<Float> tanh(Float x) {  // (1 - q) / (1 + q) with q = e^(-2 |x|)
    const Float zero(0.0f), length = abs_of(x);
    const Decay<Float> q = decay(zero - (length + length));
    const Float less = q.minus_1(), r = Float(1.0f) / (Float(2.0f) + less);
    const Float value = (zero - less) * r, double_r = r + r;
    return {where_greater(zero, x, zero - value, value), q.value() * (double_r * double_r)};
}

// x Phi(x): Phi by the error function of |x| / sqrt 2, near 0 as a series, further out as 1 - e^p.
template <class Float>
HATEBM_HD Activated<Float> gelu(Float x) {
    constexpr float near[] = {-0.0005964252632111311f, 0.004988003987818956f, -0.026763124391436577f,
                              0.11281721293926239f, -0.37612485885620117f, 0.12837915122509003f};
    constexpr float far[] = {-1.1802934750448912e-05f, 0.00032847694819793105f, -0.0036653128918260336f,
                             0.023809919133782387f, -0.10629184544086456f, -0.6351184248924255f, -1.1286565065383911f};
    const Float zero(0.0f), half(0.5f);
    const Float t = clamp(abs_of(x) * Float(0.7071067811865476f), zero, Float(10.0f)), s = t * t;
    const Float small = half * decay(t * horner(far, t)).value();  // Phi(-|x|)
    const Float middle = half * fma(t, horner(near, s), t);              // Phi(|x|) - 1/2
    const Float limit(0.9277f);
    const Float below = where_greater(t, limit, small, half - middle);
    const Float above = where_greater(t, limit, Float(1.0f) - small, half + middle);
    const Float phi = where_greater(x, zero, above, below);
    const Float density = Float(0.3989422804014327f) * decay(zero - s).value();
    return {x * phi, fma(clamp(x, Float(-20.0f), Float(20.0f)), density, phi)};
}

// x logistic(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3).
template <class Float>
HATEBM_HD Activated<Float> gelu_tanh(Float x) {
    const Float a(1.5957691216057308f), b(0.07135481282787556f), s = x * x;
    const Logistic<Float> phi = logistic(x * fma(b, s, a));
    const Float value = x * phi.here;
    const Float near = clamp(s, Float(0.0f), Float(400.0f));
    return {value, fma(value * phi.there, fma(Float(3.0f) * b, near, a), phi.here)};
}

template <class Float>
HATEBM_HD Activated<Float> elu(Float x, float alpha) {
    const Float zero(0.0f);
    const Decay<Float> e = decay(x);
    return {where_greater(x, zero, x, Float(alpha) * e.minus_1()), where_greater(x, zero, Float(1.0f), Float(alpha) * e.value())};
}

// `parameter` is the slope of leaky_relu below 0 and the depth of elu.
template <Activation kind, class Float>
HATEBM_HD Activated<Float> activated(Float x, float parameter) {
    const Float zero(0.0f), one(1.0f), slope(parameter);
    if constexpr (kind == Activation::relu)
        return {clamp(x, zero, Float(__builtin_inff())), where_greater(x, zero, one, zero)};
    if constexpr (kind == Activation::leaky_relu)
        return {where_greater(x, zero, x, slope * x), where_greater(x, zero, one, slope)};
    if constexpr (kind == Activation::silu) return silu(x);
    if constexpr (kind == Activation::softplus) return softplus(x);
    if constexpr (kind == Activation::tanh) return tanh(x);
    if constexpr (kind == Activation::gelu) return gelu(x);
    if constexpr (kind == Activation::gelu_tanh) return gelu_tanh(x);
    if constexpr (kind == Activation::elu) return elu(x, parameter);
}

}  // namespace
}  // namespace hatebm
