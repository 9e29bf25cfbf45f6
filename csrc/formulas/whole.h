// What a kernel takes that runs the steps of whole chains, or looks at an energy alone.
#pragma once

#include "formulas/langevin.h"

namespace hatebm {

enum class Kind : int { diagonal, full, mixture, double_well, funnel };

// An energy as numbers, see energies.h.
struct Formula {
    Kind kind;
    int64_t d, components;
    const float* where;        // the mean, the means of all components, or the numbers of an energy that has but few
    const float* weight;       // the precision, its rows, or -1 / (2 std^2), 1 / std^2 and log weights of all components
    float reach, first_reach;  // up to which |x| energy and gradient are known to be finite; the same for element 0
};

// Where a run puts what is told of each step that `every` divides: rows of n numbers; 0 of them: nothing is told.
struct Facts {
    int64_t every;
    float *energy, *grad_norm, *grad_norm_energy, *displacement;
};

// Step i of the run is step draw.step + i of the chains. Where a chain's step_size and noise_std are both 0, it stays as
// it is: no clamp, and nobody looks at its energy.
struct Chains {
    float* x;  // (n, d), updated in place
    int64_t n, n_steps;
    Numbers numbers;  // never null
    Law law;          // what is one for all; noise_std and prior_precision are 0 where they are so at every step
    bool noise_first, clamp_noise;  // noise before the gradient is taken, and the box after it too
    Draw draw;
    const int64_t* chain_ids;  // (n,), or null: 0..n-1
    int64_t* first_bad;        // (n,) or null: receives the first step whose energy or gradient was not finite
    const bool* mask;          // (n, d), or null: where the state may move
    bool reflect;              // whether the box's sides fold a move back, in place of a clamp
    float width;               // of the box, rounded once: of sides that float32 may round
    Facts facts;
};

struct Whole : Chains {
    Formula energy;
};

struct Look {
    Formula energy;
    const float* x;  // (n, d)
    int64_t n;
    float* energies;   // (n,)
    float* gradients;  // (n, d)
};

}  // namespace hatebm
