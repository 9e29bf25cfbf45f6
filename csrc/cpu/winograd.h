// Convolutions by Winograd's minimal filtering: what their kernels take.
//
// A tile of 4x4 outputs of an r x r filter costs (r + 3)^2 multiplications a channel instead of 16 r^2. A 3x3 filter is one
// such; a 4x4 filter of stride 2 is the sum of four 2x2 filters, one on each phase of the image, and what pulls a gradient
// back through it puts out four phases by such filters.
#pragma once

#include <cstdint>

namespace hatebm {

enum class Filter : int { same, down, up };  // 3x3, padding 1; 4x4, stride 2, padding 1; the adjoint of `down`

// How a filter's weight crosses: (outputs, inputs, side, side) as the convolution has it, which `adjoint` pulls back through.
struct FilterWeight {
    Filter filter;
    bool adjoint;  // of `same`; `up` is one always
    const float* weight;
    int64_t outputs, inputs;  // of the filter that is prepared
    float* prepared;          // (phases, panels of outputs, taps, inputs, outputs of a panel)
};

struct FilterArgs {
    Filter filter;
    const float *x, *prepared, *bias;   // (n, rows, columns, inputs); of a FilterWeight; (outputs,) or null
    float* y;                           // (n, out_rows, out_columns, outputs)
    int64_t n, rows, columns, inputs;   // both channel counts multiples of `filter_channels`
    int64_t out_rows, out_columns, outputs;
    bool rectified;              // max(x, 0) in place of x
    const float *gate, *slopes;  // like y, or null: y is 0 where the one is not above 0, and multiplied with the other
    int threads;
};

constexpr int filter_channels = 16;

}  // namespace hatebm
