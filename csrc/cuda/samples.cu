// Norm clips, gradient norms and displacements: a warp takes a run of 1024 elements, a block the runs of a sample.

#include "cuda/samples.h"

#include <algorithm>

#include "cuda/launch.h"
#include "cuda/operands.h"
#include "cuda/tree.h"

namespace hatebm::cuda {
namespace {

// One pass over samples, `pieces` blocks to each. `sums` receives or holds the squared norms, a sample's runs in a row.
template <bool vector, bool own_laws>
__global__ void __maxnreg__(144)
    langevin_step_samples(const __grid_constant__ Step a, const __grid_constant__ Launch launch, Pass pass,
                          double* sums, int64_t runs, int64_t pieces) {
    constexpr int held = vector ? quads_a_lane : 1;  // quads in registers; others are loaded again
    const Draw draw = draw_of(a.draw, launch);
    const RoundKeys keys = round_keys(draw.seed);
    const bool first_lane = threadIdx.x == 0;
    const int64_t jobs = a.n * pieces, stride = int64_t(gridDim.x) * blockDim.z;
    for (int64_t first = int64_t(blockIdx.x) * blockDim.z; first < jobs; first += stride) {
        const int64_t job = first + threadIdx.z, sample = pieces == 1 ? job : job / pieces;
        const int64_t run = (job - sample * pieces) * blockDim.y + threadIdx.y;
        const bool live = sample < a.n && run < runs;
        const int64_t quad = run * (fold / 4) + threadIdx.x, beyond = live ? a.d - 4 * quad : 0;
        const int left = static_cast<int>(beyond < fold ? beyond : fold);  // elements from the lane's first quad on
        const Law& law = law_of<own_laws>(a, live ? sample : 0);
        auto place = [&](int p) { return Place{sample, quad + in_tree_order(p) * warp}; };
        auto exists = [&](int p) { return 4 * warp * in_tree_order(p) < left; };
        Moving m[held];
        auto fetch = [&](int p) { m[p % held] = exists(p) ? load_moving<vector>(a, law, draw, place(p)) : Moving{}; };
        if (vector) {
#pragma unroll
            for (int p = 0; p < quads_a_lane; ++p) fetch(p);
        }
        float factor = 1;
        if (a.grad && (a.law.clip == Clip::norm || a.grad_norm)) {
            double squares;
            if (pass == Pass::move) {
                squares = live ? sums[sample * runs] : 0;
            } else {
                RunSum sum;
#pragma unroll(held)
                for (int p = 0; p < quads_a_lane; ++p) {
                    if (!vector) fetch(p);
                    sum.add_squares(p, m[p % held].grad);
                }
                squares = sum.total();
            }
            if (pass == Pass::measure) {
                if (live && first_lane) sums[sample * runs + run] = squares;
                continue;
            }
            if (pass == Pass::whole) squares = sum_over_warps(squares);
            const float norm = norm_of(squares);
            if (live && first_lane && run == 0 && a.grad_norm) a.grad_norm[sample] = norm;
            if (a.law.clip == Clip::norm) factor = clip_factor(law, norm);
        }
        RunSum sum;
#pragma unroll(held)
        for (int p = 0; p < quads_a_lane; ++p) {
            Quad way{};
            if (exists(p))
                way = vector ? step_quad(a, law, draw, keys, place(p), m[p % held], factor)
                             : step_elements(a, law, draw, keys, place(p), factor);
            if (a.displacement) sum.add_squares(p, way);
        }
        if (a.displacement) {
            const double squares = sum.total();
            if (pass == Pass::whole) {
                const float norm = norm_of(sum_over_warps(squares));
                if (live && first_lane && run == 0) a.displacement[sample] = norm;
            } else if (live && first_lane) {
                sums[(a.n + sample) * runs + run] = squares;
            }
        }
    }
}

template <bool own_laws>
auto kernel_of(bool vector) {
    return vector ? langevin_step_samples<true, own_laws> : langevin_step_samples<false, own_laws>;
}

// 1024 run sums at a time, in place.
__global__ void __launch_bounds__(threads_a_block)
    fold_samples(double* sums, int64_t n, int64_t runs, float* norms, double* totals) {
    for (int64_t sample = blockIdx.x; sample < n; sample += gridDim.x) {
        double* of_sample = sums + sample * runs;
        for (int64_t stride = 1; stride < runs; stride *= fold) {
            __syncthreads();
            const int64_t count = (runs + stride - 1) / stride;
            for (int64_t first = threadIdx.x / warp * fold; first < count; first += threads_a_block / warp * fold) {
                double v[fold / warp];
#pragma unroll
                for (int j = 0; j < fold / warp; ++j) {
                    const int64_t k = first + j * warp + threadIdx.x % warp;
                    v[j] = k < count ? of_sample[k * stride] : 0;
                }
#pragma unroll
                for (int half = fold / warp / 2; half > 0; half /= 2)
                    for (int j = 0; j < half; ++j) v[j] += v[j + half];
                const double total = sum_over_lanes(v[0]);
                if (threadIdx.x % warp == 0) of_sample[first * stride] = total;
            }
        }
        __syncthreads();
        if (norms && threadIdx.x == 0) norms[sample] = norm_of(of_sample[0]);
        if (totals && threadIdx.x == 0) totals[sample] = of_sample[0] + 0.0;
    }
}

}  // namespace

int64_t runs_of(int64_t d) { return (d + fold - 1) / fold; }

int64_t workspace(int64_t n, int64_t d) { return runs_of(d) <= runs_on_chip ? 0 : n * runs_of(d); }

void fold_runs(double* sums, int64_t n, int64_t runs, float* norms, double* totals, const Launch& launch) {
    const unsigned blocks = blocks_for(launch, n, 1);
    fold_samples<<<blocks, threads_a_block, 0, stream_of(launch)>>>(sums, n, runs, norms, totals);
}

void step_samples(const Step& a, bool vector, double* sums, const Launch& launch) {
    const auto kernel = a.numbers.at ? kernel_of<true>(vector) : kernel_of<false>(vector);
    const cudaStream_t stream = stream_of(launch);
    const int64_t runs = runs_of(a.d);
    if (runs <= runs_on_chip) {
        const auto samples = static_cast<unsigned>(std::max<int64_t>(1, 4 / runs));  // to a block
        const dim3 block(warp, static_cast<unsigned>(runs), samples);
        kernel<<<blocks_for(launch, a.n, samples), block, 0, stream>>>(a, launch, Pass::whole, nullptr, runs, 1);
        return;
    }
    const dim3 block(warp, runs_on_chip);
    const int64_t pieces = (runs + runs_on_chip - 1) / runs_on_chip;
    const unsigned blocks = blocks_for(launch, a.n * pieces, 1);
    if (a.grad && (a.law.clip == Clip::norm || a.grad_norm)) {
        kernel<<<blocks, block, 0, stream>>>(a, launch, Pass::measure, sums, runs, pieces);
        fold_runs(sums, a.n, runs, a.grad_norm, nullptr, launch);
    }
    kernel<<<blocks, block, 0, stream>>>(a, launch, Pass::move, sums, runs, pieces);
    if (a.displacement) fold_runs(sums + a.n * runs, a.n, runs, a.displacement, nullptr, launch);
}

}  // namespace hatebm::cuda
