// Rows: at most `fold` elements in row-major order, in place where the tensors lie so and copied where they do not.
#pragma once

#include "cpu/gradient.h"
#include "cpu/normal.h"

namespace hatebm {
namespace {

struct Row {
    float* x;
    const void* grad;
    GradType type;  // of grad
    const float* noise;
    const float* gz;
    float* image;
    int64_t first, count;  // which elements of the chain
    uint64_t chain;
};

struct Copies {
    int64_t x_at[fold], at[fold];
    float x[fold], grad[fold], noise[fold], gz[fold], image[fold];
};

// Where elements first, first + 1, ... of sample i lie in memory.
inline void offsets_of(const Layout& layout, const int64_t* strides, int64_t i, int64_t first, int64_t count, int64_t* out) {
    int64_t index[max_dims], offset = i * strides[0];
    for (int k = layout.dims - 1; k >= 0; --k) {
        index[k] = first % layout.sizes[k];
        first /= layout.sizes[k];
        offset += index[k] * strides[k + 1];
    }
    for (int64_t e = 0; e < count; ++e) {
        out[e] = offset;
        for (int k = layout.dims - 1; k >= 0; --k) {
            offset += strides[k + 1];
            if (++index[k] < layout.sizes[k]) break;
            offset -= index[k] * strides[k + 1];
            index[k] = 0;
        }
    }
}

inline const float* gather(const float* from, const int64_t* at, int64_t count, float* to) {
    for (int64_t e = 0; e < count; ++e) to[e] = from[at[e]];
    return to;
}

inline Row open_row(const StepArgs& a, int64_t i, int64_t first, int64_t count, Copies& c) {
    const uint64_t chain = chain_id(a.chain_ids, i);
    if (a.layout.dims == 0) {
        const int64_t start = i * a.d + first;
        const void* grad = a.grad ? grad_at(a.grad, a.grad_type, start) : nullptr;
        return {a.x + start, grad, a.grad_type, a.noise ? a.noise + start : nullptr, a.gz ? a.gz + start : nullptr,
                a.image ? a.image + start : nullptr, first, count, chain};
    }
    const Strides& s = a.layout.strides;
    Row row{c.x, nullptr, GradType::none, nullptr, nullptr, c.image, first, count, chain};
    if (a.grad) {
        offsets_of(a.layout, s.grad, i, first, count, c.at);
        for (int64_t e = 0; e < count; ++e) c.grad[e] = scalar_grad(a.grad, a.grad_type, c.at[e]);
        row.grad = c.grad;
        row.type = GradType::float32;
    }
    if (a.noise) {
        offsets_of(a.layout, s.noise, i, first, count, c.at);
        row.noise = gather(a.noise, c.at, count, c.noise);
    }
    if (a.gz) {
        offsets_of(a.layout, s.gz, i, first, count, c.at);
        row.gz = gather(a.gz, c.at, count, c.gz);
    }
    offsets_of(a.layout, s.x, i, first, count, c.x_at);
    gather(a.x, c.x_at, count, c.x);
    return row;
}

inline void close_row(const StepArgs& a, int64_t i, const Row& row, Copies& c) {
    if (a.layout.dims == 0) return;
    for (int64_t e = 0; e < row.count; ++e) a.x[c.x_at[e]] = row.x[e];
    if (!a.image) return;
    offsets_of(a.layout, a.layout.strides.image, i, row.first, row.count, c.at);
    for (int64_t e = 0; e < row.count; ++e) a.image[c.at[e]] = row.image[e];
}

}  // namespace
}  // namespace hatebm
