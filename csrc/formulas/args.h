// What an op takes, on the CPU and on GPUs alike.
#pragma once

#include "formulas/langevin.h"

namespace hatebm {

constexpr int max_dims = 8;  // of one sample, after adjacent dimensions have been merged

// Strides in elements; [0] is the chain's, the rest belong to the sample's dimensions.
struct Strides {
    int64_t x[max_dims + 1], grad[max_dims + 1], noise[max_dims + 1], gz[max_dims + 1], image[max_dims + 1];
};

struct Layout {
    int dims = 0;  // 0: every tensor is row-major
    int64_t sizes[max_dims];
    Strides strides;
};

struct Step {
    float* x;                  // (n, d), updated in place
    const void* grad;          // (n, d), of grad_type
    GradType grad_type;
    const float* noise;        // (n, d) standard normals, or null: drawn
    const float* gz;           // (n, d) or null
    float* image;              // (n, d): receives gz + x
    int64_t n, d;
    Law law;
    Numbers numbers;           // of each chain, in place of the law's
    Draw draw;
    const int64_t* chain_ids;  // (n,), or null: 0..n-1
    float* grad_norm;          // (n,) or null
    float* displacement;       // (n,) or null
    int64_t* diverged;         // (n,) or null: the first step at which a gradient was not finite
    Layout layout;
};

struct Normals {
    float* out;  // (n, d)
    int64_t n, d;
    Draw draw;
    const int64_t* chain_ids;
};

// A proposal x' of Langevin steps from x, to be accepted or not.
struct Ratio {
    const float* x;              // (n, d), like the next three in row-major order
    const void* grad;            // (n, d), of grad_type
    const float* proposal;       // (n, d)
    const void* proposal_grad;   // (n, d), of grad_type
    GradType grad_type;
    int64_t n, d;
    Law law;                     // of the drift
    Numbers numbers;             // of each chain, in place of the law's
    double half_precision, half_prior;  // 1 / (2 noise_std^2) and prior_precision / 2
    const double* halves;        // (2, n): the same of each chain, or null
    double* out;                 // (n,)
};

struct Decisions {
    const double* log_ratio;  // (n,)
    bool* accept;             // (n,)
    int64_t n;
    Draw draw;
    const int64_t* chain_ids;
};

}  // namespace hatebm
