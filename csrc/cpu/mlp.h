// The energy of a multilayer perceptron and chains in it: what their kernels take.
#pragma once

#include "formulas/activation.h"
#include "formulas/whole.h"

namespace hatebm {

struct MlpLayer {
    const float* weight;  // (outputs, inputs)
    const float* bias;    // (outputs,), or null
    int64_t inputs, outputs;
    Activation activation;  // of what it puts out; the last layer has none
    float parameter;
};

struct MlpArgs : Chains {  // of as many elements as the first layer has inputs
    const MlpLayer* layers;
    int depth;
    int threads;
};

struct MlpLookArgs {
    const float* x;  // (n, inputs of the first layer)
    int64_t n;
    const MlpLayer* layers;
    int depth;
    float* energies;   // (n,)
    float* gradients;  // like x
    int threads;
};

}  // namespace hatebm
