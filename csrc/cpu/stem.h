// Convolutions of images with few channels, as networks begin with them: what their kernels take.
#pragma once

#include <cstdint>

namespace hatebm {

struct StemArgs {
    const float* x;       // (n, rows, columns, inputs), or, pulled back, the gradient (n, rows, columns, outputs)
    const float* weight;  // (9 taps, inputs, outputs) of a 3x3 convolution with padding 1
    const float* bias;    // (outputs,), or null; of no use on the way back
    float* y;             // (n, rows, columns, outputs), or, pulled back, (n, rows, columns, inputs)
    int64_t n, rows, columns;
    int inputs;       // at most most_stem_inputs
    int64_t outputs;  // a multiple of 16
    int threads;
};

constexpr int most_stem_inputs = 4;

}  // namespace hatebm
