// Products of matrices with panels: a panel holds a row of chains for each feature, a lane for each chain.
//
// Every output of a chain is one chain of fma in the order of the inputs, whatever shares its registers, so that it has
// the same bits in any company.
#pragma once

#include <cstdlib>
#include <memory>
#include <type_traits>

#ifdef HATEBM_X86
#include <xmmintrin.h>
#endif

#include "cpu/simd.h"

namespace hatebm {
namespace {

constexpr int most_vectors = 3;                // of chains, side by side
constexpr int most_rows = lanes == 16 ? 8 : 4;  // of a matrix: as many as the registers hold
constexpr int few_rows = 4;                     // what is left is filled up to so many

template <int number>
using Constant = std::integral_constant<int, number>;

constexpr int64_t padded(int64_t rows) { return (rows + few_rows - 1) / few_rows * few_rows; }

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

// Room for `count` floats that a thread keeps for its next run, one for each Owner: fresh memory costs a page fault for
// every 1024 of them.
template <class Owner>
float* kept_floats(int64_t count) {
    thread_local std::unique_ptr<float[], Free> kept;
    thread_local int64_t size = 0;
    if (count > size) kept.reset(aligned_floats(count)), size = count;
    return kept.get();
}

// A matrix (outputs, inputs) as the products read it: padded with rows of 0, and `most_rows` of them interleaved, the
// last ones perhaps `few_rows`. `transposed`: given as (inputs, outputs).
template <bool transposed>
inline void pack(const float* from, int64_t outputs, int64_t inputs, float* to) {
    const int64_t row = transposed ? 1 : inputs, column = transposed ? outputs : 1;
    int64_t o = 0;
    const auto take = [&](auto rows) {
        for (; o + rows() <= padded(outputs); o += rows())
            for (int64_t k = 0; k < inputs; ++k, to += rows()) {
                const float* in = from + o * row + k * column;
                if (o + rows() <= outputs)
                    for (int i = 0; i < rows(); ++i) to[i] = in[i * row];
                else
                    for (int i = 0; i < rows(); ++i) to[i] = o + i < outputs ? in[i * row] : 0.0f;
            }
    };
    take(Constant<most_rows>());
    if constexpr (most_rows > few_rows) take(Constant<few_rows>());
}

// sums[o][v] = bias[o] + sum over k of weight[o][k] in[k], for `blocks` of `rows` packed rows and `vectors` vectors of
// chains.
template <int rows, int blocks, int vectors>
HATEBM_HD void multiply_rows(const float* weight, const float* bias, int64_t inputs, const float* in,
                             Float (&sums)[blocks * rows][vectors]) {
    HATEBM_UNROLL(24)
    for (int o = 0; o < blocks * rows; ++o)
        for (int v = 0; v < vectors; ++v) sums[o][v] = Float(bias ? bias[o] : 0.0f);
    for (int64_t k = 0; k < inputs; ++k, weight += rows, in += vectors * lanes) {
        Float x[vectors];
        HATEBM_UNROLL(8)
        for (int v = 0; v < vectors; ++v) load(in + v * lanes, x[v]);
        HATEBM_UNROLL(24)
        for (int o = 0; o < blocks * rows; ++o) {
            const Float w(weight[o / rows * rows * inputs + o % rows]);
            HATEBM_UNROLL(8)
            for (int v = 0; v < vectors; ++v) sums[o][v] = fma(w, x[v], sums[o][v]);
        }
    }
}

// finish(first row, sums) for all rows of a packed matrix; `bias` is padded, or null.
template <int vectors, class Finish>
HATEBM_HD void multiply_panel(const float* packed, const float* bias, int64_t outputs, int64_t inputs, const float* in,
                              Finish finish) {
    constexpr int blocks = most_vectors / vectors;  // as many sums at once with few vectors as with many
    int64_t o = 0;
    const auto take = [&](auto rows, auto times) {
        constexpr int count = rows() * times();
        for (; o + count <= padded(outputs); o += count) {
            Float sums[count][vectors];
            multiply_rows<rows(), times(), vectors>(packed + o * inputs, bias ? bias + o : nullptr, inputs, in, sums);
            finish(o, sums);
        }
    };
    if constexpr (blocks > 1) take(Constant<most_rows>(), Constant<blocks>());
    take(Constant<most_rows>(), Constant<1>());
    if constexpr (most_rows > few_rows) take(Constant<few_rows>(), Constant<1>());
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
