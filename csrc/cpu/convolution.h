// Convolutions of few channels: what their kernels take.
#pragma once

#include <cstdint>

namespace hatebm {

// Pulled back, x is the gradient in the results, and y that in the images.
struct ConvolutionArgs {
    const float* x;       // (n, rows, columns, inputs), or (n, across(rows), across(columns), outputs)
    const float* weight;  // (side, side, inputs, outputs); of `direct`, pulled back, (side, side, outputs, inputs)
    const float* bias;    // (outputs,), or null; of no use on the way back
    float* y;             // as x the other way
    int64_t n, rows, columns;
    int64_t inputs;   // at most most_stem_inputs; of `direct` a multiple of 16
    int64_t outputs;  // a multiple of 16
    int64_t side, stride, padding;  // a stride of 1 or 2, and less padding than the side
    int threads;

    int64_t across(int64_t length) const { return (length + 2 * padding - side) / stride + 1; }  // results on that length
};

constexpr int64_t most_stem_inputs = 4;

}  // namespace hatebm
