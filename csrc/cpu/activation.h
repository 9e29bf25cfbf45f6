// Activations of many numbers on the CPU.
#pragma once

#include "formulas/activation.h"
#include "cpu/simd.h"

namespace hatebm {
namespace {

// Replaces each of `count` values by what `kind` makes of it, and writes the slopes there.
template <Activation kind>
void activate(float parameter, int64_t count, float* values, float* slopes) {
    for (int64_t i = 0; i < count; i += lanes) {
        Float x;
        load(values + i, x);
        const Activated<Float> y = activated<kind>(x, parameter);
        store(values + i, y.value);
        store(slopes + i, y.slope);
    }
}

using Activate = void (*)(float parameter, int64_t count, float* values, float* slopes);

inline Activate activate_of(Activation kind) {
    switch (kind) {
        case Activation::relu: return activate<Activation::relu>;
        case Activation::leaky_relu: return activate<Activation::leaky_relu>;
        case Activation::silu: return activate<Activation::silu>;
        case Activation::softplus: return activate<Activation::softplus>;
        case Activation::tanh: return activate<Activation::tanh>;
        case Activation::gelu: return activate<Activation::gelu>;
        case Activation::gelu_tanh: return activate<Activation::gelu_tanh>;
        case Activation::elu: return activate<Activation::elu>;
    }
    return nullptr;
}

}  // namespace
}  // namespace hatebm
