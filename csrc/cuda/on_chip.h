// A chain in shared memory, in the hands of the lanes of a warp that share it: its energy, its gradient, its sums.
#pragma once

#include "formulas/energies.h"
#include "cuda/tree.h"

namespace hatebm::cuda {
namespace {

// Elements of one chain in shared memory. First elements of quads lie together, then second ones, ...: lanes that read
// quads side by side read neighbours.
struct Column {
    using Value = float;
    float* at;
    int quads, stride;
    __device__ __forceinline__ float& place(int64_t e) const {
        return at[(static_cast<int>(e & 3) * quads + static_cast<int>(e >> 2)) * stride];
    }
    __device__ __forceinline__ float operator[](int64_t e) const { return place(e); }
    __device__ __forceinline__ void put(int64_t e, float v) const { place(e) = v; }
};

// The lanes that share a chain. A warp's chains keep step, so that they wait for one another all at once.
struct Crew {
    int rank, size;
    __device__ __forceinline__ void wait() const { __syncwarp(); }
};

template <class Energy>
struct OnChip {
    const Energy energy;
    const Crew crew;
    const int d;
    const Column state, scratch;

    __device__ __forceinline__ void read(const float* row) const {
        for (int e = crew.rank; e < 4 * state.quads; e += crew.size) state.put(e, e < d ? row[e] : 0);
        crew.wait();
    }

    // The crew looks at the state, which no lane may move before all have looked.
    __device__ __forceinline__ auto look() const { return energy.look(state, d, scratch, crew); }

    template <class Body>
    __device__ __forceinline__ void for_own_quads(Body body) const {
        for (int e = 4 * crew.rank; e < d; e += 4 * crew.size) body(e);
    }
    __device__ __forceinline__ Quad quad(int e) const { return {state[e], state[e + 1], state[e + 2], state[e + 3]}; }

    template <class Seen>
    __device__ __forceinline__ Quad gradient(const Seen& seen, int e, const Quad& x) const {
        Quad g{};
        if (e + 4 <= d) {
            energy.template gradient<4>(seen, scratch, e, x.v, g.v);
        } else {
#pragma unroll
            for (int k = 0; k < 3; ++k)
                if (e + k < d) energy.template gradient<1>(seen, scratch, e + k, x.v + k, g.v + k);
        }
        return g;
    }

    // The sum over all elements of what of(e, terms) makes of each quad, in the order of tree.h.
    template <class Of>
    __device__ __forceinline__ double sum(Of of) const {
        double terms[4] = {};
        if (d <= 4 * crew.size) {
            if (4 * crew.rank < d) of(4 * crew.rank, terms);
        } else {
            RunSum run;
#pragma unroll 1
            for (int p = 0; p < quads_a_lane; ++p) {
                const int e = 4 * (in_tree_order(p) * crew.size + crew.rank);
                double own[4] = {};
                if (e < d) of(e, own);
                run.add(p, [&](int k) { return own[k]; });
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) terms[k] = run.of_lane(k);
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) terms[k] = over_crew(terms[k]);
        return (terms[0] + terms[2]) + (terms[1] + terms[3]);
    }
    __device__ __forceinline__ double over_crew(double v) const {
        for (int half = crew.size / 2; half > 0; half /= 2) v += __shfl_xor_sync(~0u, v, half);
        return v;
    }

    // The energy, and on_gradient(e, gradient) for the lane's quads.
    template <class Body>
    __device__ __forceinline__ float evaluate(Body on_gradient) const {
        const auto seen = look();
        return __double2float_rn(energy.total(sum([&](int e, double* terms) {
            const Quad x = quad(e), g = gradient(seen, e, x);
#pragma unroll
            for (int k = 0; k < 4; ++k)
                if (e + k < d) terms[k] = energy.term(seen, e + k, x.v[k], g.v[k]);
            on_gradient(e, g);
        })));
    }
};

}  // namespace
}  // namespace hatebm::cuda
