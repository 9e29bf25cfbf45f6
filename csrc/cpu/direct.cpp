// Convolutions of sixteen channels and some more, channels_last, on the CPU.
//
// An output is one chain of fma over taps and inputs, an element of a gradient one over taps and outputs, on every
// instruction set.
#include "cpu/cpu.h"
#include "cpu/padded.h"
#include "cpu/simd.h"

namespace hatebm::HATEBM_ISA {
namespace {

constexpr int most_sums = lanes == 16 ? 16 : 8;  // registers that hold sums

// What a tap reads of the copy for the first pixel of a row, and its weights.
struct Tap {
    int64_t from;
    const float* weight;  // (sources, results)
};

// How pixels are made of a copy whose pixels have `sources` numbers: the next pixel reads `step` pixels further on, and is
// written `stride` pixels further on.
struct Line {
    int64_t sources, results, step, stride;
};

// `results` of `pixels` pixels, vectors of them at once.
template <int pixels, int vectors>
void make_tile(const Line& line, const std::vector<Tap>& taps, const float* from, const float* bias, int64_t count, float* y) {
    for (int64_t r = 0; r < line.results; r += vectors * lanes) {
        Float sums[pixels][vectors];
        HATEBM_UNROLL(8)
        for (int p = 0; p < pixels; ++p)
            HATEBM_UNROLL(4)
            for (int k = 0; k < vectors; ++k) {
                if (bias) load(bias + r + k * lanes, sums[p][k]);
                else sums[p][k] = Float(0.0f);
            }
        for (const Tap& tap : taps) {
            const float *x = from + tap.from, *weights = tap.weight + r;
            for (int64_t s = 0; s < line.sources; ++s, weights += line.results) {
                Float weight[vectors];
                HATEBM_UNROLL(4)
                for (int k = 0; k < vectors; ++k) load(weights + k * lanes, weight[k]);
                HATEBM_UNROLL(8)
                for (int p = 0; p < pixels; ++p) {
                    const Float value(x[p * line.step * line.sources + s]);
                    HATEBM_UNROLL(4)
                    for (int k = 0; k < vectors; ++k) sums[p][k] = fma(value, weight[k], sums[p][k]);
                }
            }
        }
        HATEBM_UNROLL(8)
        for (int p = 0; p < pixels; ++p)
            HATEBM_UNROLL(4)
            for (int k = 0; k < vectors; ++k)
                if (p < count) store(y + p * line.stride * line.results + r + k * lanes, sums[p][k]);
    }
}

using MakeTile = void (*)(const Line&, const std::vector<Tap>&, const float*, const float*, int64_t, float*);

// As many vectors as fit beside so many pixels.
template <int pixels>
MakeTile tile_of(int64_t results) {
    constexpr int most = most_sums / pixels < 4 ? most_sums / pixels : 4;
    if constexpr (most >= 4)
        if (results % (4 * lanes) == 0) return make_tile<pixels, 4>;
    if constexpr (most >= 2)
        if (results % (2 * lanes) == 0) return make_tile<pixels, 2>;
    return make_tile<pixels, 1>;
}

// `columns` pixels of a line.
void make_line(const Line& line, const std::vector<Tap>& taps, const float* from, const float* bias, int64_t columns, float* y) {
    for (int64_t c = 0; c < columns;) {
        const int64_t left = columns - c, pixels = left > 4 ? 8 : left > 2 ? 4 : 2;
        const auto choose = pixels == 8 ? tile_of<8> : pixels == 4 ? tile_of<4> : tile_of<2>;
        const MakeTile tile = choose(line.results);
        tile(line, taps, from + c * line.step * line.sources, bias, std::min(left, pixels), y + c * line.stride * line.results);
        c += pixels;
    }
}

// The same of `count` images, a pixel of each: they are its line, and none is made beyond the last.
void make_of_images(const Line& line, const std::vector<Tap>& taps, const float* from, const float* bias, int64_t count,
                    float* y) {
    for (int64_t i = 0; i < count;) {
        const int64_t left = count - i, images = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const auto choose = images == 8 ? tile_of<8> : images == 4 ? tile_of<4> : images == 2 ? tile_of<2> : tile_of<1>;
        const MakeTile tile = choose(line.results);
        tile(line, taps, from + i * line.step * line.sources, bias, images, y + i * line.stride * line.results);
        i += images;
    }
}

constexpr int64_t slack = 7;  // pixels that a tile may make beyond the last

void forward_rows(const ConvolutionArgs& a, int64_t image, int64_t first, int64_t end) {
    const Padded x = images_of(a, image, first, end, slack);
    const int64_t rows = a.across(a.rows), columns = a.across(a.columns);
    std::vector<Tap> taps;
    for (int64_t down = 0; down < a.side; ++down)
        for (int64_t along = 0; along < a.side; ++along)
            taps.push_back({down * x.width + along * a.inputs, a.weight + (down * a.side + along) * a.inputs * a.outputs});
    const Line line{a.inputs, a.outputs, a.stride, 1};
    for (int64_t r = first; r < end; ++r) {
        float* y = a.y + (image * rows + r) * columns * a.outputs;
        make_line(line, taps, x.at(r * a.stride - a.padding, -a.padding), a.bias, columns, y);
    }
}

// The pixels of an image fall into phases, each with taps of its own.
void backward_rows(const ConvolutionArgs& a, int64_t image, int64_t first, int64_t end) {
    const Padded gradients = gradients_of(a, image, first, end, slack);
    const Line line{a.outputs, a.inputs, 1, a.stride};
    std::vector<Tap> taps;
    for (int64_t r = first; r < end; ++r)
        for (int64_t before = 0; before < std::min(a.stride, a.columns); ++before) {
            const int64_t last_row = (r + a.padding) / a.stride, last = (before + a.padding) / a.stride;
            taps.clear();
            for (int64_t down = (r + a.padding) % a.stride; down < a.side; down += a.stride)
                for (int64_t along = (before + a.padding) % a.stride; along < a.side; along += a.stride) {
                    const int64_t back = down / a.stride * gradients.width + along / a.stride * a.outputs;
                    taps.push_back({-back, a.weight + (down * a.side + along) * a.inputs * a.outputs});
                }
            const int64_t count = (a.columns - before + a.stride - 1) / a.stride;
            float* y = a.y + ((image * a.rows + r) * a.columns + before) * a.inputs;
            make_line(line, taps, gradients.at(last_row, last), nullptr, count, y);
        }
}

// Images so small that a row of results fills no tile are made together, pixel by pixel: so a weight that is read serves
// all of them, and no tap is made that meets zeros alone.
constexpr int64_t together = 8;

bool is_small(const ConvolutionArgs& a) { return a.across(a.columns) <= 2 && a.n >= together; }

void forward_images(const ConvolutionArgs& a, int64_t image, int64_t count) {
    const int64_t rows = a.across(a.rows), columns = a.across(a.columns), pixels = a.rows * a.columns;
    const Line line{a.inputs, a.outputs, pixels, rows * columns};
    std::vector<Tap> taps;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) {
            taps.clear();
            for (int64_t down = 0; down < a.side; ++down)
                for (int64_t along = 0; along < a.side; ++along) {
                    const int64_t row = r * a.stride - a.padding + down, column = c * a.stride - a.padding + along;
                    if (row >= 0 && row < a.rows && column >= 0 && column < a.columns)
                        taps.push_back({(row * a.columns + column) * a.inputs,
                                        a.weight + (down * a.side + along) * a.inputs * a.outputs});
                }
            float* y = a.y + ((image * rows + r) * columns + c) * a.outputs;
            make_of_images(line, taps, a.x + image * pixels * a.inputs, a.bias, count, y);
        }
}

void backward_images(const ConvolutionArgs& a, int64_t image, int64_t count) {
    const int64_t rows = a.across(a.rows), columns = a.across(a.columns), pixels = a.rows * a.columns;
    const Line line{a.outputs, a.inputs, rows * columns, pixels};
    std::vector<Tap> taps;
    for (int64_t r = 0; r < a.rows; ++r)
        for (int64_t c = 0; c < a.columns; ++c) {
            taps.clear();
            for (int64_t down = (r + a.padding) % a.stride; down < a.side; down += a.stride)
                for (int64_t along = (c + a.padding) % a.stride; along < a.side; along += a.stride) {
                    const int64_t row = (r + a.padding - down) / a.stride, column = (c + a.padding - along) / a.stride;
                    if (r + a.padding >= down && row < rows && c + a.padding >= along && column < columns)
                        taps.push_back({(row * columns + column) * a.outputs,
                                        a.weight + (down * a.side + along) * a.inputs * a.outputs});
                }
            float* y = a.y + ((image * a.rows + r) * a.columns + c) * a.inputs;
            make_of_images(line, taps, a.x + image * rows * columns * a.outputs, nullptr, count, y);
        }
}

}  // namespace

void direct(const ConvolutionArgs& a, bool pulled_back) {
    if (is_small(a)) {
        for_each((a.n + together - 1) / together, a.threads, [&](int64_t job) {
            const int64_t image = job * together, count = std::min(together, a.n - image);
            pulled_back ? backward_images(a, image, count) : forward_images(a, image, count);
        });
        return;
    }
    for_bands(a, pulled_back, [&](int64_t image, int64_t first, int64_t end) {
        pulled_back ? backward_rows(a, image, first, end) : forward_rows(a, image, first, end);
    });
}

}  // namespace hatebm::HATEBM_ISA
