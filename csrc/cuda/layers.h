// Layers of a perceptron on a GPU: what the threads of a block make of panels in shared memory, a column to each chain.
//
// Every sum of a chain is one chain of fma in the order of the inputs, so that it has the same bits in any company.
#pragma once

#include "cuda/mlp.h"
#include "cuda/quads.h"

namespace hatebm::cuda {
namespace {

__host__ __device__ constexpr int whole_quads(int64_t count) { return static_cast<int>((count + 3) / 4 * 4); }
__host__ __device__ constexpr int row_of(int columns) { return whole_quads(columns) + 4; }  // rows apart in banks

// Panels of `chains` columns: a row of chains for each feature.
struct Panels {
    int chains, widest;
    __host__ __device__ Panels(const Perceptron& net, int chains) : chains(chains), widest(0) {
        for (int l = 0; l < net.depth; ++l)
            widest = net.hidden[l].outputs > widest ? net.hidden[l].outputs : widest;
        widest = whole_quads(widest);
    }
    __host__ __device__ int size(const Perceptron& net) const {
        return chains * (2 * whole_quads(net.hidden[0].inputs) + (2 + net.depth) * widest + 3);
    }
};

// What a thread has of the block's work: one chain, and every `crews`-th row of each panel from its own on.
struct Share {
    int chain, chains, crew, crews;
};

// out[o] = bias[o] + sum over k of weight[o][k] in[k], for the thread's rows and chain, `rows` at a time.
template <int rows>
__device__ __forceinline__ void multiply_rows(const float* weight, const float* bias, int outputs, int inputs,
                                              const float* in, float* out, const Share& own) {
    const int row = row_of(inputs);
    for (int first = own.crew; first < outputs; first += rows * own.crews) {
        float sums[rows];
        int at[rows];
#pragma unroll
        for (int r = 0; r < rows; ++r) {
            const int o = first + r * own.crews;
            at[r] = (o < outputs ? o : first) * row;
            sums[r] = bias && o < outputs ? bias[o] : 0.0f;
        }
        for (int k = 0; k < inputs; k += 4) {
            float x[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) x[j] = in[(k + j) * own.chains + own.chain];
#pragma unroll
            for (int r = 0; r < rows; ++r) {
                const Quad w = load_quad(weight + at[r] + k);
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[r] = fma(w.v[j], x[j], sums[r]);
            }
        }
#pragma unroll
        for (int r = 0; r < rows; ++r)
            if (first + r * own.crews < outputs) out[(first + r * own.crews) * own.chains + own.chain] = sums[r];
    }
}

__device__ __forceinline__ void multiply(const float* weight, const float* bias, int outputs, int inputs, const float* in,
                                         float* out, const Share& own) {
    if (outputs <= own.crews) multiply_rows<1>(weight, bias, outputs, inputs, in, out, own);
    else if (outputs <= 2 * own.crews) multiply_rows<2>(weight, bias, outputs, inputs, in, out, own);
    else if (outputs <= 4 * own.crews) multiply_rows<4>(weight, bias, outputs, inputs, in, out, own);
    else multiply_rows<8>(weight, bias, outputs, inputs, in, out, own);
}

// Replaces the thread's values by what `kind` makes of them, and writes the slopes, times `weight` where there is one.
template <Activation kind>
__device__ __forceinline__ void activate_rows(float parameter, int outputs, float* values, float* slopes,
                                              const float* weight, const Share& own) {
    for (int o = own.crew; o < outputs; o += own.crews) {
        const int i = o * own.chains + own.chain;
        const Activated<float> y = activated<kind>(values[i], parameter);
        values[i] = y.value;
        slopes[i] = weight ? weight[o] * y.slope : y.slope;
    }
}

__device__ __forceinline__ void activate(const HiddenLayer& layer, float* values, float* slopes, const float* weight,
                                         const Share& own) {
#define HATEBM_ACTIVATION(kind)  \
    case Activation::kind:       \
        return activate_rows<Activation::kind>(layer.parameter, layer.outputs, values, slopes, weight, own)
    switch (layer.activation) {
        HATEBM_ACTIVATION(relu);
        HATEBM_ACTIVATION(leaky_relu);
        HATEBM_ACTIVATION(silu);
        HATEBM_ACTIVATION(softplus);
        HATEBM_ACTIVATION(tanh);
        HATEBM_ACTIVATION(gelu);
        HATEBM_ACTIVATION(gelu_tanh);
        HATEBM_ACTIVATION(elu);
    }
#undef HATEBM_ACTIVATION
}

}  // namespace
}  // namespace hatebm::cuda
