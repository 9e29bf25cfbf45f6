// The sums of tree.h on a GPU: a warp folds a run of 1024, lane l holding quads l, l + 32, ..., l + 224.
#pragma once

#include "cuda/quads.h"

namespace hatebm::cuda {
namespace {

constexpr int warp = 32;
constexpr int quads_a_lane = fold / 4 / warp;
static_assert(quads_a_lane == 8);

// Quads that meet in the tree come one after the other: 0, 4, 2, 6, 1, 5, 3, 7.
__device__ __forceinline__ int in_tree_order(int p) { return (p & 1) << 2 | (p & 2) | p >> 2; }

// The sum of all lanes' values, lane l first meeting lane l + 16, then l + 8, ...
__device__ __forceinline__ double sum_over_lanes(double v) {
#pragma unroll
    for (int half = warp / 2; half > 0; half /= 2) v += __shfl_xor_sync(~0u, v, half);
    return v;
}

// The sum of a run.
class RunSum {
public:
    // What `of` makes of elements k = 0, ..., 3 of a quad. The quads come in tree order, p counting them.
    template <class Of>
    __device__ __forceinline__ void add(int p, Of of) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            double v = of(k);
            if ((p & 1) == 0) {
                one[k] = v;
                continue;
            }
            v = one[k] + v;
            if ((p & 2) == 0) {
                two[k] = v;
                continue;
            }
            v = two[k] + v;
            four[k] = (p & 4) == 0 ? v : four[k] + v;
        }
    }
    __device__ __forceinline__ void add_squares(int p, const Quad& q) {
        add(p, [&](int k) { return double(q.v[k]) * double(q.v[k]); });
    }
    // What the lane's own quads come to, element k of each.
    __device__ __forceinline__ double of_lane(int k) const { return four[k]; }
    __device__ __forceinline__ double total() const {
        double v[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = sum_over_lanes(four[k]);
        return (v[0] + v[2]) + (v[1] + v[3]);
    }

private:
    double one[4], two[4], four[4];  // sums of as many quads, waiting for their other half
};

// The sum over the runs of a sample, one to each warp (threadIdx.y) of the block; every warp of the block calls it.
__device__ __forceinline__ double sum_over_warps(double run) {
    if (blockDim.y == 1) return run;
    __shared__ double runs[warp];
    double* own = runs + threadIdx.z * blockDim.y;
    if (threadIdx.x == 0) own[threadIdx.y] = run;
    __syncthreads();
    const double total = sum_over_lanes(threadIdx.x < blockDim.y ? own[threadIdx.x] : 0);
    __syncthreads();
    return total;
}

__device__ __forceinline__ float norm_of(double squares) { return __double2float_rn(__dsqrt_rn(squares)); }

}  // namespace
}  // namespace hatebm::cuda
