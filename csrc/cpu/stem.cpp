// 3x3 convolutions of images with few channels, channels_last, on the CPU.
//
// An output is one chain of fma over taps and inputs; an element of a gradient is the sum of sixteen such chains over taps
// and outputs, added as a tree, on every instruction set.
#include "cpu/stem.h"

#include <algorithm>
#include <vector>

#include "cpu/cpu.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace hatebm::HATEBM_ISA {
namespace {

constexpr int group = 16, parts = group / lanes;  // outputs that are summed apart, and their registers
constexpr int pixels_at_once = 4;

template <int inputs>
void forward_row(const StemArgs& a, int64_t row) {
    const int64_t r = row % a.rows, width = (a.columns + 2) * inputs;
    std::vector<float> seen(3 * (width + pixels_at_once * inputs), 0.0f);  // three rows with zeros around them
    for (int k = 0; k < 3; ++k)
        if (r + k - 1 >= 0 && r + k - 1 < a.rows)
            std::copy_n(a.x + (row + k - 1) * a.columns * inputs, a.columns * inputs, &seen[k * width + inputs]);
    for (int64_t c = 0; c < a.columns; c += pixels_at_once) {
        const int64_t pixels = std::min<int64_t>(pixels_at_once, a.columns - c);
        for (int64_t o = 0; o < a.outputs; o += group) {
            Float sums[pixels_at_once][parts];
            HATEBM_UNROLL(4)
            for (int p = 0; p < pixels_at_once; ++p)
                HATEBM_UNROLL(2)
                for (int k = 0; k < parts; ++k) {
                    if (a.bias) load(a.bias + o + k * lanes, sums[p][k]);
                    else sums[p][k] = Float(0.0f);
                }
            for (int tap = 0; tap < 9; ++tap) {
                const float* x = &seen[tap / 3 * width + (c + tap % 3) * inputs];
                HATEBM_UNROLL(4)
                for (int i = 0; i < inputs; ++i)
                    HATEBM_UNROLL(2)
                    for (int k = 0; k < parts; ++k) {
                        Float weight;
                        load(a.weight + (tap * inputs + i) * a.outputs + o + k * lanes, weight);
                        HATEBM_UNROLL(4)
                        for (int p = 0; p < pixels_at_once; ++p)
                            sums[p][k] = fma(Float(x[p * inputs + i]), weight, sums[p][k]);
                    }
            }
            float* y = a.y + (row * a.columns + c) * a.outputs + o;
            for (int64_t p = 0; p < pixels; ++p)
                for (int k = 0; k < parts; ++k) store(y + p * a.outputs + k * lanes, sums[p][k]);
        }
    }
}

float sum_of(Float (&sums)[parts]) {
    alignas(64) float v[group];
    for (int k = 0; k < parts; ++k) store(v + k * lanes, sums[k]);
    for (int half = group / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) v[i] += v[i + half];
    return v[0];
}

template <int inputs>
void backward_row(const StemArgs& a, const float* zeros, int64_t row) {
    const int64_t r = row % a.rows;
    for (int64_t c = 0; c < a.columns; c += pixels_at_once) {
        const int64_t pixels = std::min<int64_t>(pixels_at_once, a.columns - c);
        Float sums[pixels_at_once][inputs][parts];
        for (auto& of_pixel : sums)
            for (auto& of_input : of_pixel)
                for (Float& sum : of_input) sum = Float(0.0f);
        for (int tap = 0; tap < 9; ++tap) {
            const int64_t above = r + 1 - tap / 3;
            if (above < 0 || above >= a.rows) continue;
            const float* from[pixels_at_once];
            for (int64_t p = 0; p < pixels_at_once; ++p) {
                const int64_t column = c + p + 1 - tap % 3;
                const bool inside = column >= 0 && column < a.columns;
                from[p] = inside ? a.x + ((row + 1 - tap / 3) * a.columns + column) * a.outputs : zeros;
            }
            for (int64_t o = 0; o < a.outputs; o += group)
                HATEBM_UNROLL(2)
                for (int k = 0; k < parts; ++k) {
                    Float weight[inputs];
                    HATEBM_UNROLL(4)
                    for (int i = 0; i < inputs; ++i) load(a.weight + (tap * inputs + i) * a.outputs + o + k * lanes, weight[i]);
                    HATEBM_UNROLL(4)
                    for (int p = 0; p < pixels_at_once; ++p) {
                        Float gradient;
                        load(from[p] + o + k * lanes, gradient);
                        HATEBM_UNROLL(4)
                        for (int i = 0; i < inputs; ++i) sums[p][i][k] = fma(gradient, weight[i], sums[p][i][k]);
                    }
                }
        }
        float* y = a.y + (row * a.columns + c) * inputs;
        for (int64_t p = 0; p < pixels; ++p)
            for (int i = 0; i < inputs; ++i) y[p * inputs + i] = sum_of(sums[p][i]);
    }
}

template <int inputs>
void all_rows(const StemArgs& a, bool pulled_back) {
    const std::vector<float> zeros(pulled_back ? a.outputs : 0, 0.0f);
    for_each(a.n * a.rows, a.threads, [&](int64_t row) {
        if (pulled_back) backward_row<inputs>(a, zeros.data(), row);
        else forward_row<inputs>(a, row);
    });
}

}  // namespace

void stem(const StemArgs& a, bool pulled_back) {
    switch (a.inputs) {
        case 1: return all_rows<1>(a, pulled_back);
        case 2: return all_rows<2>(a, pulled_back);
        case 3: return all_rows<3>(a, pulled_back);
        case 4: return all_rows<4>(a, pulled_back);
    }
}

}  // namespace hatebm::HATEBM_ISA
