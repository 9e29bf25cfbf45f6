// Convolutions of images with few channels, channels_last, on the CPU.
//
// An output is one chain of fma over taps and inputs; an element of a gradient is the sum of sixteen such chains over taps
// and outputs, added as a tree, on every instruction set.
#include "cpu/cpu.h"
#include "cpu/halves.h"
#include "cpu/padded.h"

namespace hatebm::HATEBM_ISA {
namespace {

constexpr int group = 16, parts = group / lanes;  // outputs that are summed apart, and their registers

// Pixels whose sums fill the registers, of `count` vectors for each.
constexpr int pixels_for(int count) {
    return lanes == 16 ? count < 4 ? 8 : 4 : count < 3 ? 4 : count < 7 ? 2 : 1;
}

// The outputs of `pixels` pixels that follow each other; `seen` is what the first tap of the first one reads.
template <int inputs, int stride, int pixels>
void forward_tile(const ConvolutionArgs& a, const float* seen, int64_t width, int64_t count, float* y) {
    for (int64_t o = 0; o < a.outputs; o += group) {
        Float sums[pixels][parts];
        HATEBM_UNROLL(8)
        for (int p = 0; p < pixels; ++p)
            HATEBM_UNROLL(2)
            for (int k = 0; k < parts; ++k) {
                if (a.bias) load(a.bias + o + k * lanes, sums[p][k]);
                else sums[p][k] = Float(0.0f);
            }
        const float* weights = a.weight + o;
        for (int64_t row = 0; row < a.side; ++row)
            for (int64_t tap = 0; tap < a.side; ++tap) {
                const float* x = seen + row * width + tap * inputs;
                HATEBM_UNROLL(4)
                for (int i = 0; i < inputs; ++i, weights += a.outputs)
                    HATEBM_UNROLL(2)
                    for (int k = 0; k < parts; ++k) {
                        Float weight;
                        load(weights + k * lanes, weight);
                        HATEBM_UNROLL(8)
                        for (int p = 0; p < pixels; ++p)
                            sums[p][k] = fma(Float(x[p * stride * inputs + i]), weight, sums[p][k]);
                    }
            }
        HATEBM_UNROLL(8)
        for (int p = 0; p < pixels; ++p)
            HATEBM_UNROLL(2)
            for (int k = 0; k < parts; ++k)
                if (p < count) store(y + p * a.outputs + o + k * lanes, sums[p][k]);
    }
}

template <int inputs, int stride>
void forward_rows(const ConvolutionArgs& a, int64_t image, int64_t first, int64_t end) {
    constexpr int pixels = pixels_for(parts);
    const Padded seen = images_of(a, image, first, end, pixels - 1);
    const int64_t columns = a.across(a.columns);
    for (int64_t row = first; row < end; ++row)
        for (int64_t c = 0; c < columns; c += pixels) {
            const bool half = columns - c <= pixels / 2;
            const auto tile = half ? forward_tile<inputs, stride, pixels / 2> : forward_tile<inputs, stride, pixels>;
            float* y = a.y + ((image * a.across(a.rows) + row) * columns + c) * a.outputs;
            tile(a, seen.at(row * stride - a.padding, c * stride - a.padding), seen.width, columns - c, y);
        }
}

float sum_of(Float (&sums)[parts]) {
    HATEBM_UNROLL(4)
    for (int half = parts / 2; half > 0; half /= 2)
        for (int k = 0; k < half; ++k) sums[k] = sums[k] + sums[k + half];
    return sum_of_halves(sums[0]);
}

// The gradients of `pixels` pixels of the image that lie a stride apart, from (row, column) on.
template <int inputs, int stride, int pixels>
void backward_tile(const ConvolutionArgs& a, const Padded& gradients, int64_t row, int64_t column, int64_t count, float* y) {
    Float sums[pixels][inputs][parts];
    HATEBM_UNROLL(8)
    for (int p = 0; p < pixels; ++p)
        HATEBM_UNROLL(4)
        for (int i = 0; i < inputs; ++i)
            HATEBM_UNROLL(2)
            for (int k = 0; k < parts; ++k) sums[p][i][k] = Float(0.0f);
    const int64_t last_row = (row + a.padding) / stride, last_column = (column + a.padding) / stride;
    const float* above = gradients.at(last_row, last_column);  // what the first tap reads, the next ones before it
    for (int64_t down = row + a.padding - last_row * stride; down < a.side; down += stride, above -= gradients.width) {
        const float* from = above;
        for (int64_t along = column + a.padding - last_column * stride; along < a.side; along += stride, from -= a.outputs) {
            const float* weights = a.weight + (down * a.side + along) * inputs * a.outputs;
            for (int64_t o = 0; o < a.outputs; o += group)
                HATEBM_UNROLL(2)
                for (int k = 0; k < parts; ++k) {
                    Float weight[inputs];
                    HATEBM_UNROLL(4)
                    for (int i = 0; i < inputs; ++i) load(weights + i * a.outputs + o + k * lanes, weight[i]);
                    HATEBM_UNROLL(8)
                    for (int p = 0; p < pixels; ++p) {
                        Float gradient;
                        load(from + p * a.outputs + o + k * lanes, gradient);
                        HATEBM_UNROLL(4)
                        for (int i = 0; i < inputs; ++i) sums[p][i][k] = fma(gradient, weight[i], sums[p][i][k]);
                    }
                }
        }
    }
    HATEBM_UNROLL(8)
    for (int p = 0; p < pixels; ++p)
        HATEBM_UNROLL(4)
        for (int i = 0; i < inputs; ++i) {
            const float sum = sum_of(sums[p][i]);
            if (p < count) y[p * stride * inputs + i] = sum;
        }
}

template <int inputs, int stride>
void backward_rows(const ConvolutionArgs& a, int64_t image, int64_t first, int64_t end) {
    constexpr int pixels = pixels_for(inputs * parts), fewer = pixels > 1 ? pixels / 2 : 1;
    const Padded gradients = gradients_of(a, image, first, end, pixels - 1);
    for (int64_t row = first; row < end; ++row)
        for (int64_t phase = 0; phase < std::min<int64_t>(stride, a.columns); ++phase)
            for (int64_t column = phase; column < a.columns; column += pixels * stride) {
                const int64_t left = (a.columns - column + stride - 1) / stride;
                const auto tile = left > fewer ? backward_tile<inputs, stride, pixels> : backward_tile<inputs, stride, fewer>;
                tile(a, gradients, row, column, left, a.y + ((image * a.rows + row) * a.columns + column) * inputs);
            }
}

template <int inputs, int stride>
void all_rows(const ConvolutionArgs& a, bool pulled_back) {
    for_bands(a, pulled_back, [&](int64_t image, int64_t first, int64_t end) {
        pulled_back ? backward_rows<inputs, stride>(a, image, first, end) : forward_rows<inputs, stride>(a, image, first, end);
    });
}

}  // namespace

void stem(const ConvolutionArgs& a, bool pulled_back) {
    const bool halves = a.stride == 2;
    switch (a.inputs) {
        case 1: return (halves ? all_rows<1, 2> : all_rows<1, 1>)(a, pulled_back);
        case 2: return (halves ? all_rows<2, 2> : all_rows<2, 1>)(a, pulled_back);
        case 3: return (halves ? all_rows<3, 2> : all_rows<3, 1>)(a, pulled_back);
        case 4: return (halves ? all_rows<4, 2> : all_rows<4, 1>)(a, pulled_back);
    }
}

}  // namespace hatebm::HATEBM_ISA
