// What a run tells of the steps that are kept, of chains that lie one a lane.
#pragma once

#include "cpu/lane_sums.h"
#include "formulas/whole.h"

namespace hatebm {
namespace {

// The facts of a group of chains, from chain `first` on.
template <int64_t width>
struct Telling {
    const Chains& a;
    const int64_t first, count, d;
    int64_t next, row = 0;  // the step of the run that is told of next, and where

    Telling(const Chains& a, int64_t first, int64_t count, int64_t d)
        : a(a), first(first), count(count), d(d), next(a.n_steps) {
        const uint64_t every = a.facts.every;
        if (every) next = static_cast<int64_t>((every - a.draw.step % every) % every);
    }

    // The step that ends the run or, if that comes first, the stretch of steps that nobody is told of.
    int64_t end() const { return next < a.n_steps ? next : a.n_steps; }

    // What is known where a step takes its gradient; of what is not `free`, where that is known, no pull counts.
    template <class Laws>
    void of_gradient(const Laws& laws, const float* energies, const float* x, const float* gradient,
                     const float* free) const {
        alignas(64) float norms[width];
        write(a.facts.energy, energies);
        gradient_norms<width>(laws, false, d, x, gradient, free, norms);
        write_moving(laws, a.facts.grad_norm_energy, norms);
        if (a.law.prior_precision != 0) gradient_norms<width>(laws, true, d, x, gradient, free, norms);
        write_moving(laws, a.facts.grad_norm, norms);
    }

    // What is known once the step is done.
    template <class Laws>
    void of_move(const Laws& laws, const float* before, const float* x) {
        alignas(64) float norms[width];
        for (int64_t v = 0; v < width; v += lanes) {
            const auto moved = [&](int64_t e) {
                const int64_t i = e * width + v;
                return float_at(x + i) - float_at(before + i);
            };
            store(norms + v, norm_over(d, moved));
        }
        write_moving(laws, a.facts.displacement, norms);
        next += a.facts.every, ++row;
    }

private:
    void write(float* facts, const float* of_lanes) const {
        float* to = facts + row * a.n + first;
        if (count == width) __builtin_memcpy(to, of_lanes, width * sizeof(float));  // which costs no call
        else __builtin_memcpy(to, of_lanes, count * sizeof(float));
    }

    // The same with 0 for chains that rest.
    template <class Laws>
    void write_moving(const Laws& laws, float* facts, float* of_lanes) const {
        const bool all_rest = laws.all_rest();
        for (int64_t lane = 0; lane < width; ++lane)
            if (all_rest || laws.rests(lane)) of_lanes[lane] = 0;
        write(facts, of_lanes);
    }
};

}  // namespace
}  // namespace hatebm
