// The tensors of a step, a quad at a time: 16 bytes at once where they lie in a row, else element by element.
#pragma once

#include <type_traits>

#include "cuda/quads.h"

namespace hatebm::cuda {
namespace {

// Where an element lies in each tensor, and how many elements of its innermost dimension are left.
struct Offsets {
    int64_t x, grad, noise, gz, image, left;
};

__device__ __forceinline__ int64_t quotient(int64_t e, int64_t size) {
    return (e | size) >> 32 ? e / size : static_cast<int64_t>(static_cast<uint32_t>(e) / static_cast<uint32_t>(size));
}

__device__ __forceinline__ Offsets offsets_of(const Step& a, int64_t sample, int64_t e) {
    if (a.layout.dims == 0) {
        const int64_t at = sample * a.d + e;
        return {at, at, at, at, at, a.d - e};
    }
    const Strides& s = a.layout.strides;
    Offsets at{sample * s.x[0], sample * s.grad[0], sample * s.noise[0], sample * s.gz[0], sample * s.image[0], 0};
#pragma unroll 1
    for (int k = a.layout.dims - 1; k >= 0; --k) {
        const int64_t size = a.layout.sizes[k], outer = quotient(e, size), index = e - outer * size;
        if (at.left == 0) at.left = size - index;
        at.x += index * s.x[k + 1];
        at.grad += index * s.grad[k + 1];
        at.noise += index * s.noise[k + 1];
        at.gz += index * s.gz[k + 1];
        at.image += index * s.image[k + 1];
        e = outer;
    }
    return at;
}

// Calls visit(k, offsets) for the elements of a quad that exist.
template <class Visit>
__device__ __forceinline__ void visit_elements(const Step& a, Place place, Visit visit) {
    const Strides& s = a.layout.strides;
    const int inner = a.layout.dims;
    Offsets at{};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const int64_t e = 4 * place.quad + k;
        if (e >= a.d) return;
        if (at.left == 0) {
            at = offsets_of(a, place.sample, e);
        } else if (inner == 0) {
            at = {at.x + 1, at.grad + 1, at.noise + 1, at.gz + 1, at.image + 1, at.left};
        } else {
            at = {at.x + s.x[inner], at.grad + s.grad[inner], at.noise + s.noise[inner],
                  at.gz + s.gz[inner], at.image + s.image[inner], at.left};
        }
        --at.left;
        visit(k, at);
    }
}

__device__ __forceinline__ float float_of_bfloat16(uint32_t half) {
    return float_of_bits(static_cast<int32_t>(half << 16));
}

__device__ __forceinline__ float load_gradient(const void* grad, GradType type, int64_t i) {
    if (type == GradType::float32) return static_cast<const float*>(grad)[i];
    const uint16_t half = static_cast<const uint16_t*>(grad)[i];
    return type == GradType::float16 ? float_of_half(half) : float_of_bfloat16(half);
}

__device__ __forceinline__ Quad load_gradients(const void* grad, GradType type, int64_t i) {
    if (type == GradType::float32) return load_quad(static_cast<const float*>(grad) + i);
    const uint2 q = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(grad) + i);
    const uint16_t h[4] = {static_cast<uint16_t>(q.x), static_cast<uint16_t>(q.x >> 16), static_cast<uint16_t>(q.y),
                           static_cast<uint16_t>(q.y >> 16)};
    if (type == GradType::float16)
        return {float_of_half(h[0]), float_of_half(h[1]), float_of_half(h[2]), float_of_half(h[3])};
    return {float_of_bfloat16(h[0]), float_of_bfloat16(h[1]), float_of_bfloat16(h[2]), float_of_bfloat16(h[3])};
}

// The law of a sample: its chain's own, or the one of all where it lies.
template <bool own_laws, class Op>
__device__ __forceinline__ std::conditional_t<own_laws, Law, const Law&> law_of(const Op& a, int64_t sample) {
    if constexpr (own_laws) return law_at(a.law, a.numbers, 0, sample);
    else return a.law;
}

// Records the step at which a sample's gradient was not finite; `unclean` is 0 where it was.
__device__ __forceinline__ void mark(const Step& a, const Draw& draw, int64_t sample, float unclean) {
    if (a.diverged && unclean != 0)
        atomicMin(reinterpret_cast<long long*>(a.diverged + sample), static_cast<long long>(draw.step));
}

__device__ __forceinline__ float moved_by(const Step& a, const Law& law, float x, float grad, float eps,
                                          float factor) {
    return a.grad ? step_element(law, x, grad, eps, factor) : noise_element(law, x, eps);
}

// A quad of the state with its gradient as the clip sees it.
struct Moving {
    Quad x, grad;
};

template <bool vector>
__device__ __forceinline__ Moving load_moving(const Step& a, const Law& law, const Draw& draw, Place place) {
    Moving m{};
    if constexpr (vector) {
        const int64_t i = place.sample * a.d + 4 * place.quad;
        m.x = load_quad(a.x + i);
        if (a.grad) m.grad = load_gradients(a.grad, a.grad_type, i);
    } else {
        visit_elements(a, place, [&](int k, const Offsets& at) {
            m.x.v[k] = a.x[at.x];
            if (a.grad) m.grad.v[k] = load_gradient(a.grad, a.grad_type, at.grad);
        });
    }
    if (!a.grad) return m;
    float unclean = 0;
    for (int k = 0; k < 4; ++k) {
        unclean += m.grad.v[k] - m.grad.v[k];
        m.grad.v[k] = total_gradient(law, m.x.v[k], m.grad.v[k]);
    }
    mark(a, draw, place.sample, unclean);
    return m;
}

// Moves a quad, writes it, and gz + x where that is wanted, and returns how far it went.
__device__ __forceinline__ Quad step_quad(const Step& a, const Law& law, const Draw& draw, const RoundKeys& keys,
                                          Place place, const Moving& m, float factor) {
    const int64_t i = place.sample * a.d + 4 * place.quad;
    Quad eps{}, moved, way;
    if (law.noise_std != 0) eps = a.noise ? load_quad(a.noise + i) : normals_of(draw, keys, a.chain_ids, place);
    for (int k = 0; k < 4; ++k) {
        moved.v[k] = moved_by(a, law, m.x.v[k], m.grad.v[k], eps.v[k], factor);
        way.v[k] = moved.v[k] - m.x.v[k];
    }
    store_quad(a.x + i, moved);
    if (a.gz) {
        Quad image = load_quad(a.gz + i);
        for (int k = 0; k < 4; ++k) image.v[k] += moved.v[k];
        store_quad(a.image + i, image);
    }
    return way;
}

// The same, element by element.
__device__ __forceinline__ Quad step_elements(const Step& a, const Law& law, const Draw& draw, const RoundKeys& keys,
                                              Place place, float factor) {
    Quad eps{}, way{};
    if (law.noise_std != 0 && !a.noise) eps = normals_of(draw, keys, a.chain_ids, place);
    float unclean = 0;
    visit_elements(a, place, [&](int k, const Offsets& at) {
        const float x = a.x[at.x];
        float grad = 0;
        if (a.grad) {
            grad = load_gradient(a.grad, a.grad_type, at.grad);
            unclean += grad - grad;
            grad = total_gradient(law, x, grad);
        }
        const bool given = law.noise_std != 0 && a.noise;
        const float moved = moved_by(a, law, x, grad, given ? a.noise[at.noise] : eps.v[k], factor);
        a.x[at.x] = moved;
        if (a.gz) a.image[at.image] = a.gz[at.gz] + moved;
        way.v[k] = moved - x;
    });
    mark(a, draw, place.sample, unclean);
    return way;
}

}  // namespace
}  // namespace hatebm::cuda
