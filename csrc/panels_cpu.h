// Products of matrices with panels: a panel holds a row of chains for each feature, a lane for each chain.
//
// Every output of a chain is one chain of fma in the order of the inputs, whatever shares its registers, so that it has
// the same bits in any company.
#pragma once

#include <cstdlib>

#ifdef HATEBM_X86
#include <xmmintrin.h>
#endif

#include "simd.h"

namespace hatebm {
namespace {

constexpr int most_vectors = 3;                       // of chains, side by side
constexpr int outputs_at_once = lanes == 16 ? 8 : 4;  // as many as the registers hold

// Takes numbers below the normal ones as 0 while it lives: they would cost a hundred times the time of others.
struct FlushTiny {
#ifdef HATEBM_X86
    unsigned before = _mm_getcsr();
    FlushTiny() { _mm_setcsr(before | 0x8040); }
    ~FlushTiny() { _mm_setcsr(before); }
#endif
};

struct Free {
    void operator()(void* p) const { std::free(p); }
};

// Floats on a cache line of their own.
inline float* aligned_floats(int64_t count) {
    return static_cast<float*>(std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64 + 64));
}

// A matrix (outputs, inputs) as the products read it, `outputs_at_once` rows interleaved; `transposed`: given as
// (inputs, outputs).
template <bool transposed>
inline void pack(const float* from, int64_t outputs, int64_t inputs, float* to) {
    const int64_t row = transposed ? 1 : inputs, column = transposed ? outputs : 1;
    int64_t o = 0;
    for (; o + outputs_at_once <= outputs; o += outputs_at_once)
        for (int64_t k = 0; k < inputs; ++k, to += outputs_at_once)
            for (int64_t i = 0; i < outputs_at_once; ++i) to[i] = from[(o + i) * row + k * column];
    for (int64_t k = 0; k < inputs; ++k)
        for (int64_t i = o; i < outputs; ++i) *to++ = from[i * row + k * column];
}

// out[o] = bias[o] + sum over k of weight[o][k] in[k], for `rows` packed rows and `vectors` vectors of chains.
template <int rows, int vectors>
inline void multiply_rows(const float* weight, const float* bias, int64_t inputs, const float* in, float* out) {
    Float sums[rows][vectors];
    HATEBM_UNROLL(8)
    for (int o = 0; o < rows; ++o)
        for (int v = 0; v < vectors; ++v) sums[o][v] = Float(bias ? bias[o] : 0.0f);
    for (int64_t k = 0; k < inputs; ++k, weight += rows, in += vectors * lanes) {
        Float x[vectors];
        HATEBM_UNROLL(8)
        for (int v = 0; v < vectors; ++v) load(in + v * lanes, x[v]);
        HATEBM_UNROLL(8)
        for (int o = 0; o < rows; ++o) {
            const Float w(weight[o]);
            HATEBM_UNROLL(8)
            for (int v = 0; v < vectors; ++v) sums[o][v] = fma(w, x[v], sums[o][v]);
        }
    }
    HATEBM_UNROLL(8)
    for (int o = 0; o < rows; ++o)
        for (int v = 0; v < vectors; ++v) store(out + (o * vectors + v) * lanes, sums[o][v]);
}

template <int vectors, int rows = outputs_at_once - 1>
inline void multiply_last_rows(int64_t left, const float* weight, const float* bias, int64_t inputs, const float* in,
                               float* out) {
    if constexpr (rows > 0) {
        if (left == rows) multiply_rows<rows, vectors>(weight, bias, inputs, in, out);
        else multiply_last_rows<vectors, rows - 1>(left, weight, bias, inputs, in, out);
    }
}

template <int vectors>
void multiply_panel(const float* packed, const float* bias, int64_t outputs, int64_t inputs, const float* in, float* out) {
    const auto bias_at = [&](int64_t o) { return bias ? bias + o : nullptr; };
    int64_t o = 0;
    for (; o + outputs_at_once <= outputs; o += outputs_at_once, out += outputs_at_once * vectors * lanes)
        multiply_rows<outputs_at_once, vectors>(packed + o * inputs, bias_at(o), inputs, in, out);
    multiply_last_rows<vectors>(outputs - o, packed + o * inputs, bias_at(o), inputs, in, out);
}

// Rows of `chains` samples of d elements to a panel of `width` lanes, 0 where there is no chain; and back.
inline void rows_to_panel(const float* rows, int64_t chains, int64_t d, int64_t width, float* panel) {
    for (int64_t e = 0; e < d; ++e)
        for (int64_t c = 0; c < width; ++c) panel[e * width + c] = c < chains ? rows[c * d + e] : 0.0f;
}

inline void panel_to_rows(const float* panel, int64_t chains, int64_t d, int64_t width, float* rows) {
    for (int64_t c = 0; c < chains; ++c)
        for (int64_t e = 0; e < d; ++e) rows[c * d + e] = panel[e * width + c];
}

}  // namespace
}  // namespace hatebm
