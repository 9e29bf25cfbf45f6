// The energy of a multilayer perceptron and chains in it: what their kernels take.
#pragma once

#include "formulas/activation.h"
#include "formulas/args.h"

namespace hatebm {

struct MlpLayer {
    const float* weight;  // (outputs, inputs)
    const float* bias;    // (outputs,), or null
    int64_t inputs, outputs;
    Activation activation;  // of what it puts out; the last layer has none
    float parameter;
};

// The law of `count` steps; step k has entry k of each array.
struct StepRun {
    const float *step_size, *noise_std, *inverse_temperature;
    int64_t count;
    bool noise_before, clamp_noise;
};

struct MlpArgs {
    float* x;  // (n, inputs of the first layer), updated in place
    int64_t n;
    const MlpLayer* layers;
    int depth;
    StepRun run;
    Law law;                   // of every step, but for what `run` holds
    Draw draw;                 // of the first step
    const int64_t* chain_ids;  // (n,), or null: 0..n-1
    int64_t* diverged;         // (n,) or null: the first step at which an energy or a gradient was not finite
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
