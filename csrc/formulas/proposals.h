// What a kernel takes beside a run of steps that are tested, or that velocities move.
#pragma once

#include "formulas/whole.h"

namespace hatebm {

// What a proposal takes of the law in float64; the step of a trajectory takes its share rounded to float32.
enum class Share : int {
    temperature,
    half_precision,  // 1 / (2 noise_std^2)
    half_prior,      // prior_precision / 2
    half_kick,       // step_size / noise_std, what half a leapfrog step multiplies the gradient with
    kick,            // twice that
    kept,            // of a velocity when a trajectory begins
    fresh,           // noise that it then gets
    bound,           // of the clip of a gradient that kicks
};

struct Proposals {
    bool corrected;          // whether each step is accepted or refused
    int64_t leapfrog_steps;  // of a trajectory; 0: a step is one of Langevin's
    const double* shares;    // of each Share and step
    int64_t field, step;     // how far apart those of two shares and of two steps lie
    float* velocity;         // (n, d), updated in place, or null: none outlives its trajectory
    bool* refused;           // (n,): set where a proposal was refused for a NaN
    float *accept, *nan_refused;  // what is told of each step, beside its Facts
    double operator()(Share share, int64_t i) const { return shares[static_cast<int>(share) * field + i * step]; }
};

struct Proposed : Whole {
    Proposals proposals;
};

}  // namespace hatebm
