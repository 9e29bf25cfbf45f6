// Quads on a GPU: four consecutive elements of one sample belong to one thread, as one Philox call gives four normals.
#pragma once

#include "cuda/cuda.h"

namespace hatebm::cuda {
namespace {

constexpr int threads_a_block = 256;

struct Quad {
    float v[4];
};

// Which quad of which sample, for threads that take the quads of all samples in turn.
struct Place {
    int64_t sample, quad;
};

struct Walk {
    int64_t quads;              // of one sample
    int64_t on_sample, on_quad;  // how far the whole grid leads on
};

inline Walk walk_of(int64_t d, unsigned blocks) {
    const int64_t quads = (d + 3) / 4, threads = int64_t(blocks) * threads_a_block;
    return {quads, threads / quads, threads % quads};
}

__device__ __forceinline__ Place first_place(const Walk& walk) {
    const uint32_t thread = blockIdx.x * threads_a_block + threadIdx.x;
    if (thread < walk.quads) return {0, thread};
    const auto quads = static_cast<uint32_t>(walk.quads);
    return {thread / quads, thread % quads};
}

__device__ __forceinline__ void go_on(Place& at, const Walk& walk) {
    at.sample += walk.on_sample;
    at.quad += walk.on_quad;
    if (at.quad >= walk.quads) {
        at.quad -= walk.quads;
        ++at.sample;
    }
}

__device__ __forceinline__ Draw draw_of(const Draw& draw, const Launch& launch) {
    Draw here = draw;
    if (launch.seed_at) here.seed = static_cast<uint64_t>(*launch.seed_at);
    if (launch.step_at) here.step = static_cast<uint64_t>(*launch.step_at);
    return here;
}

__device__ __forceinline__ Quad normals_of(const Draw& draw, const RoundKeys& keys, const int64_t* chain_ids,
                                           Place at) {
    const auto chain = static_cast<uint64_t>(chain_ids ? chain_ids[at.sample] : at.sample);
    Quad n;
    quad_of_normals(static_cast<uint32_t>(at.quad), static_cast<uint32_t>(chain), static_cast<uint32_t>(draw.step),
                    last_counter(draw, chain), keys, n.v[0], n.v[1], n.v[2], n.v[3]);
    return n;
}

__device__ __forceinline__ Quad load_quad(const float* from) {
    const float4 q = *reinterpret_cast<const float4*>(from);
    return {q.x, q.y, q.z, q.w};
}

__device__ __forceinline__ void store_quad(float* to, const Quad& q) {
    *reinterpret_cast<float4*>(to) = {q.v[0], q.v[1], q.v[2], q.v[3]};
}

}  // namespace
}  // namespace hatebm::cuda
