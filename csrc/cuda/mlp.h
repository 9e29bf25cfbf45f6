// Chains in the energy of a multilayer perceptron: what their GPU kernel takes.
#pragma once

#include "formulas/activation.h"
#include "formulas/whole.h"

namespace hatebm::cuda {

constexpr int most_hidden = 16;  // layers

// A hidden layer, and where its numbers lie in the network: rows of weights begin at multiples of row_of(columns).
struct HiddenLayer {
    int inputs, outputs;
    Activation activation;
    float parameter;
    int forward, backward, bias;  // (outputs, inputs), (inputs, outputs) and (outputs,)
};

struct Perceptron {
    const float* numbers;  // of all layers; rows end in zeros
    int64_t count;         // of the numbers
    int depth;             // hidden layers
    int last, last_bias;   // where the weights of the energy lie, (inputs,), and its bias
    HiddenLayer hidden[most_hidden];
};

struct MlpChains : Chains {
    Perceptron net;
};

struct MlpLook {
    const float* x;  // (n, inputs of the first layer)
    int64_t n;
    float* energies;   // (n,)
    float* gradients;  // like x
    Perceptron net;
};

}  // namespace hatebm::cuda
