// Images with zeros around them, and their rows shared out.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/convolution.h"
#include "cpu/parallel.h"

namespace hatebm {
namespace {

// The rows of an image from `first` to before `end`, which may lie outside it.
struct Padded {
    std::vector<float> values;
    int64_t first, before, width, channels;  // `width` numbers in a row

    Padded(const float* image, int64_t rows, int64_t columns, int64_t channels, int64_t first, int64_t end, int64_t before,
           int64_t reach)  // columns from the image's first on
        : first(first), before(before), width((before + std::max(columns, reach)) * channels), channels(channels) {
        values.assign((end - first) * width, 0.0f);
        for (int64_t row = std::max<int64_t>(first, 0); row < std::min(end, rows); ++row)
            std::copy_n(image + row * columns * channels, columns * channels, values.data() + place(row, 0));
    }
    int64_t place(int64_t row, int64_t column) const { return (row - first) * width + (column + before) * channels; }
    const float* at(int64_t row, int64_t column) const { return values.data() + place(row, column); }
};

// What the results of rows `first` to before `end` read of an image, `more` results beyond the last of a row included.
inline Padded images_of(const ConvolutionArgs& a, int64_t image, int64_t first, int64_t end, int64_t more) {
    const int64_t last = a.across(a.columns) - 1 + more;
    return {a.x + image * a.rows * a.columns * a.inputs, a.rows, a.columns, a.inputs, first * a.stride - a.padding,
            (end - 1) * a.stride - a.padding + a.side, a.padding, last * a.stride - a.padding + a.side};
}

// What the rows of an image read of the gradient in its results, `more` of these beyond the last of a row included.
inline Padded gradients_of(const ConvolutionArgs& a, int64_t image, int64_t first, int64_t end, int64_t more) {
    const int64_t rows = a.across(a.rows), columns = a.across(a.columns), margin = (a.side - 1) / a.stride + 1;
    return {a.x + image * rows * columns * a.outputs, rows, columns, a.outputs, first / a.stride - margin,
            (end - 1 + a.padding) / a.stride + 1, margin, (a.columns - 1 + a.padding) / a.stride + 1 + more};
}

// make(image, first, end) for bands of the rows of all images: one band where images are enough for all threads.
template <class Make>
void for_bands(const ConvolutionArgs& a, bool pulled_back, Make make) {
    const int64_t rows = pulled_back ? a.rows : a.across(a.rows);
    const int64_t bands = std::min<int64_t>(rows, a.n < 4 * a.threads ? 4 * a.threads : 1);
    for_each(a.n * bands, a.threads, [&](int64_t job) {
        const int64_t band = job % bands;
        make(job / bands, band * rows / bands, (band + 1) * rows / bands);
    });
}

}  // namespace
}  // namespace hatebm
