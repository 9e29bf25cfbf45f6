// The steps of a chain in shared memory, in the hands of the lanes that share it, and what is told of them.
#pragma once

#include "cuda/on_chip.h"
#include "formulas/walls.h"

namespace hatebm::cuda {
namespace {

constexpr float largest = 3.4028235e38f;
constexpr int64_t nowhere = -1;

// The steps of one chain. Where chains have laws of their own, one that stays as it is keeps step with its warp. Only
// with `extras` are there facts to tell, a mask or walls that reflect: what needs none keeps its registers.
template <class Energy, bool own_laws, bool extras>
struct Run {
    const Whole& a;
    const OnChip<Energy>& chain;
    const int64_t index;
    const bool live;  // whether there is such a chain
    const uint64_t id;
    const RoundKeys keys;
    const float limit = quotient(largest, a.energy.reach), first_limit = quotient(largest, a.energy.first_reach);
    float doubt = 0;  // stays 0 while no element of the lane's has left the reach of the energy
    int64_t bad = INT64_MAX;
    bool idle = false;  // where chains have laws of their own: whether this one stays as it is

    __device__ __forceinline__ void operator()() {
        chain.for_own_quads([&](int e) { doubt_quad(e, chain.quad(e)); });
        int64_t next = extras ? a.facts.next(a.draw.step) : nowhere;
        for (int64_t i = 0; i < a.n_steps; ++i) {
            Law law = law_at(a.law, a.numbers, i, own_laws ? index : 0);
            const bool still = law.step_size == 0 && law.noise_std == 0, told = extras && i == next;
            idle = own_laws && still;
            if (!told && !any(!still)) continue;
            const int64_t at = told ? i / a.facts.every * a.n + index : nowhere;
            if (told) keep(), next += a.facts.every;
            const Draw draw{a.draw.seed, a.draw.step + i, a.draw.block, a.draw.purpose};
            if (a.noise_first) {
                if (any(law.noise_std != 0) || a.clamp_noise) add_noise(law, draw);
                law.noise_std = 0;
            }
            if (told || (a.first_bad && __any_sync(~0u, !idle && !(doubt == 0)))) examine(draw.step, at);
            step(law, draw, at);
            if (told) tell(a.facts.displacement, at, way());
        }
    }

    // Keeps where a step begins: in the chain's own row of x, which nobody else needs before the end of the run.
    __device__ __forceinline__ float* row() const { return a.x + index * chain.d; }
    __device__ __forceinline__ void keep() const {
        chain.for_own_quads([&](int e) {
            for (int k = 0; k < 4 && e + k < chain.d; ++k)
                if (live) row()[e + k] = chain.state[e + k];
        });
    }
    __device__ __forceinline__ float way() const {
        return norm([&](int e, Quad& away) {
            for (int k = 0; k < 4 && e + k < chain.d; ++k) away.v[k] = chain.state[e + k] - row()[e + k];
        });
    }
    // Tells a norm, 0 of a chain that rests.
    __device__ __forceinline__ void tell(float* rows, int64_t at, float norm) const {
        if (live && chain.crew.rank == 0) rows[at] = idle ? 0 : norm;
    }
    // The norm of what of(e, v) makes of zeros v, for each quad.
    template <class Of>
    __device__ __forceinline__ float norm(Of of) const {
        return norm_of(chain.sum([&](int e, double* terms) {
            Quad v{};
            of(e, v);
#pragma unroll
            for (int k = 0; k < 4; ++k) terms[k] = double(v.v[k]) * double(v.v[k]);
        }));
    }

    // Whether there is such an element, and the state may move there.
    __device__ __forceinline__ bool free(int e) const {
        return e < chain.d && !(extras && a.mask && !a.mask[index * chain.d + e]);
    }

    // The law without the box, and the one whose box clamps: where walls reflect, none does.
    static __device__ __forceinline__ Law opened(Law law) {
        law.low = -INFINITY, law.high = INFINITY;
        return law;
    }
    __device__ __forceinline__ Law clamped(const Law& law) const { return extras && a.reflect ? opened(law) : law; }

    // Whether something is so of any chain of the warp.
    __device__ __forceinline__ bool any(bool mine) const { return own_laws ? __any_sync(~0u, mine) : mine; }

    __device__ __forceinline__ void doubt_quad(int e, const Quad& x) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if (e + k < chain.d) doubt = fma(x.v[k] * (e + k == 0 ? first_limit : limit), 0.0f, doubt);
        }
    }

    __device__ __forceinline__ Quad normals(const Draw& draw, int e) const {
        Quad n;
        quad_of_normals(static_cast<uint32_t>(e / 4), static_cast<uint32_t>(id), static_cast<uint32_t>(draw.step),
                        last_counter(draw, id), keys, n.v[0], n.v[1], n.v[2], n.v[3]);
        return n;
    }

    // What of(e, x) makes of the lane's quads x, folded back where there are `walls` that reflect.
    template <class Of>
    __device__ __forceinline__ void move(bool walls, Of of) {
        if (!idle) {
            doubt = 0;
            chain.for_own_quads([&](int e) {
                Quad x = chain.quad(e);
                of(e, x);
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    if (free(e + k)) chain.state.put(e + k, x.v[k]);
#pragma unroll 1
                for (int k = 0; extras && walls && a.reflect && k < 4; ++k)
                    if (free(e + k)) chain.state.put(e + k, folded(chain.state[e + k], a.law.low, a.law.high, a.width));
                doubt_quad(e, extras ? chain.quad(e) : x);
            });
        }
        chain.crew.wait();
    }

    __device__ __forceinline__ void add_noise(const Law& law, const Draw& draw) {
        const Law open = a.clamp_noise ? clamped(law) : opened(law);
        move(a.clamp_noise, [&](int e, Quad& x) {
            Quad eps{};
            if (law.noise_std != 0) eps = normals(draw, e);
#pragma unroll
            for (int k = 0; k < 4; ++k) x.v[k] = noise_element(open, x.v[k], eps.v[k]);
        });
    }

    // Where the state may be beyond reach, or is told of: is the energy or the gradient not finite?
    __device__ __forceinline__ void examine(uint64_t step, int64_t at) {
        double unclean = 0;
        const float energy = chain.evaluate([&](int e, const Quad& g) {
#pragma unroll
            for (int k = 0; k < 4; ++k)
                if (!extras || free(e + k)) unclean += g.v[k] - g.v[k];
        });
        if (at != nowhere && live && chain.crew.rank == 0) a.facts.energy[at] = energy;
        unclean = chain.over_crew(unclean) + (energy - energy);
        if (!idle && !(unclean == 0) && static_cast<int64_t>(step) < bad) bad = static_cast<int64_t>(step);
        chain.crew.wait();
    }

    // The norm of what the clip sees.
    template <class Seen>
    __device__ __forceinline__ float total_norm(const Law& law, const Seen& seen) const {
        return norm([&](int e, Quad& total) {
            const Quad x = chain.quad(e), g = chain.gradient(seen, e, x);
#pragma unroll
            for (int k = 0; k < 4; ++k)
                if (!extras || free(e + k)) total.v[k] = total_gradient(law, x.v[k], g.v[k]);
        });
    }

    __device__ __forceinline__ void step(const Law& law, const Draw& draw, int64_t at) {
        const auto seen = chain.look();
        float factor = 1;
        if (law.clip == Clip::norm || at != nowhere) {
            const float norm = total_norm(law, seen);
            factor = clip_factor(law, norm);
            if (at != nowhere) {
                Law bare = law;
                bare.prior_precision = 0;
                tell(a.facts.grad_norm, at, norm);
                tell(a.facts.grad_norm_energy, at, a.law.prior_precision == 0 ? norm : total_norm(bare, seen));
            }
        }
        chain.crew.wait();
        move(true, [&](int e, Quad& x) {
            Quad eps{};
            if (law.noise_std != 0) eps = normals(draw, e);
            const Quad g = chain.gradient(seen, e, x);
#pragma unroll
            for (int k = 0; k < 4; ++k)
                x.v[k] = step_element(clamped(law), x.v[k], total_gradient(law, x.v[k], g.v[k]), eps.v[k], factor);
        });
    }
};

}  // namespace
}  // namespace hatebm::cuda
