// The Metropolis-Hastings ratio on a GPU: a warp takes a run of 1024 elements, a block the runs of a sample.

#include <algorithm>

#include "cuda/launch.h"
#include "cuda/operands.h"
#include "cuda/samples.h"
#include "cuda/tree.h"

namespace hatebm::cuda {
namespace {

// Where a proposal leads from, or where it leads: a quad of the state and its gradient, 0 beyond the sample.
struct End {
    Quad x, grad;
};

template <bool vector>
__device__ __forceinline__ End load_end(const Ratio& a, const float* x, const void* grad, Place place) {
    const int64_t e = 4 * place.quad, i = place.sample * a.d + e;
    if constexpr (vector) return {load_quad(x + i), load_gradients(grad, a.grad_type, i)};
    End end{};
    for (int k = 0; k < 4; ++k)
        if (e + k < a.d) end.x.v[k] = x[i + k], end.grad.v[k] = load_gradient(grad, a.grad_type, i + k);
    return end;
}

struct Move {
    End from, to;
};

// All loads before the first use.
template <bool vector>
__device__ __forceinline__ Move load_move(const Ratio& a, Place place) {
    if (vector && a.grad_type == GradType::float32) {
        const int64_t i = place.sample * a.d + 4 * place.quad;
        const auto *grad = static_cast<const float*>(a.grad), *proposal_grad = static_cast<const float*>(a.proposal_grad);
        return {{load_quad(a.x + i), load_quad(grad + i)}, {load_quad(a.proposal + i), load_quad(proposal_grad + i)}};
    }
    return {load_end<vector>(a, a.x, a.grad, place), load_end<vector>(a, a.proposal, a.proposal_grad, place)};
}

// 1 / (2 noise_std^2) and prior_precision / 2.
struct Halves {
    double precision, prior;
};

template <bool own_laws>
__device__ __forceinline__ Halves halves_of(const Ratio& a, int64_t sample) {
    if (own_laws && a.halves) return {a.halves[sample], a.halves[a.n + sample]};
    return {a.half_precision, a.half_prior};
}

__device__ __forceinline__ double term_of(const Law& law, const Halves& halves, const Move& m, int k,
                                          const float (&factors)[2]) {
    const float x = m.from.x.v[k], proposal = m.to.x.v[k];
    const float there = drift_of(law, total_gradient(law, x, m.from.grad.v[k]), factors[0]).drift;
    const float back = drift_of(law, total_gradient(law, proposal, m.to.grad.v[k]), factors[1]).drift;
    return ratio_element<double>(halves.precision, halves.prior, x, proposal, there, back);
}

// One pass over samples, `pieces` blocks to each. `sums` holds three sets, a sample's runs in a row in each: the squared
// norms of the gradients at x and at the proposal, where they are clipped, and last the ratio's.
template <bool vector, bool own_laws>
__global__ void __launch_bounds__(threads_a_block)
    ratio_samples(const __grid_constant__ Ratio a, Pass pass, double* sums, int64_t runs, int64_t pieces) {
    constexpr int unrolled = vector ? quads_a_lane : 1;
    const bool clipped = a.law.clip == Clip::norm;
    const int64_t jobs = a.n * pieces, stride = int64_t(gridDim.x) * blockDim.z, set = a.n * runs;
    for (int64_t first = int64_t(blockIdx.x) * blockDim.z; first < jobs; first += stride) {
        const int64_t job = first + threadIdx.z, sample = pieces == 1 ? job : job / pieces;
        const int64_t run = (job - sample * pieces) * blockDim.y + threadIdx.y;
        const bool live = sample < a.n && run < runs, writes = live && threadIdx.x == 0;
        const int64_t quad = run * (fold / 4) + threadIdx.x, beyond = live ? a.d - 4 * quad : 0;
        const int left = static_cast<int>(beyond < fold ? beyond : fold);  // elements from the lane's first quad on
        const Law& law = law_of<own_laws>(a, live ? sample : 0);
        const Halves halves = halves_of<own_laws>(a, live ? sample : 0);
        auto place = [&](int p) { return Place{sample, quad + in_tree_order(p) * warp}; };
        auto exists = [&](int p) { return 4 * warp * in_tree_order(p) < left; };
        float factors[2] = {1, 1};  // of the norm clip, at x and at the proposal
#pragma unroll
        for (int end = 0; clipped && end < 2; ++end) {
            double* of_sample = sums + end * set + sample * runs;
            double squares = live && pass == Pass::move ? of_sample[0] : 0;
            if (pass != Pass::move) {
                RunSum sum;
#pragma unroll(unrolled)
                for (int p = 0; p < quads_a_lane; ++p) {
                    const float* x = end ? a.proposal : a.x;
                    const void* grad = end ? a.proposal_grad : a.grad;
                    const End quad = exists(p) ? load_end<vector>(a, x, grad, place(p)) : End{};
                    sum.add(p, [&](int k) {
                        const double g = total_gradient(law, quad.x.v[k], quad.grad.v[k]);
                        return g * g;
                    });
                }
                squares = sum.total();
            }
            if (pass == Pass::measure && writes) of_sample[run] = squares;
            if (pass == Pass::whole) squares = sum_over_warps(squares);
            factors[end] = clip_factor(law, norm_of(squares));
        }
        if (pass == Pass::measure) continue;
        RunSum sum;
#pragma unroll(unrolled)
        for (int p = 0; p < quads_a_lane; ++p) {
            const Move move = exists(p) ? load_move<vector>(a, place(p)) : Move{};
            sum.add(p, [&](int k) {
                const double term = term_of(law, halves, move, k, factors);
                const bool inside = 4 * warp * in_tree_order(p) + (vector ? 0 : k) < left;
                return inside ? term : 0;
            });
        }
        const double run_total = sum.total();
        if (pass == Pass::whole) {
            const double total = sum_over_warps(run_total);
            if (writes && run == 0) a.out[sample] = total + 0.0;  // a sum of 0 has no sign
        } else if (writes) {
            sums[(clipped ? 2 : 0) * set + sample * runs + run] = run_total;
        }
    }
}

template <bool own_laws>
auto kernel_of(bool vector) {
    return vector ? ratio_samples<true, own_laws> : ratio_samples<false, own_laws>;
}

bool is_vector(const Ratio& a) {
    const uintptr_t bytes = a.grad_type == GradType::float32 ? 16 : 8;
    const bool states = aligned(a.x, 16) && aligned(a.proposal, 16);
    return a.d % 4 == 0 && states && aligned(a.grad, bytes) && aligned(a.proposal_grad, bytes);
}

}  // namespace

void langevin_ratio(const Ratio& a, double* sums, const Launch& launch) {
    if (a.n == 0) return;
    const OnDevice device("langevin_ratio", launch.device);
    const cudaStream_t stream = stream_of(launch);
    if (a.d == 0) return check(cudaMemsetAsync(a.out, 0, a.n * sizeof(double), stream), "langevin_ratio");
    const auto kernel = a.numbers.at ? kernel_of<true>(is_vector(a)) : kernel_of<false>(is_vector(a));
    const int64_t runs = runs_of(a.d);
    if (runs <= runs_on_chip) {
        const auto samples = static_cast<unsigned>(std::max<int64_t>(1, 4 / runs));  // to a block
        const dim3 block(warp, static_cast<unsigned>(runs), samples);
        kernel<<<blocks_for(launch, a.n, samples), block, 0, stream>>>(a, Pass::whole, nullptr, runs, 1);
    } else {
        const dim3 block(warp, runs_on_chip);
        const int64_t pieces = (runs + runs_on_chip - 1) / runs_on_chip, set = a.n * runs;
        const unsigned blocks = blocks_for(launch, a.n * pieces, 1);
        double* totals = sums;
        if (a.law.clip == Clip::norm) {
            kernel<<<blocks, block, 0, stream>>>(a, Pass::measure, sums, runs, pieces);
            fold_runs(sums, 2 * a.n, runs, nullptr, nullptr, launch);
            totals = sums + 2 * set;
        }
        kernel<<<blocks, block, 0, stream>>>(a, Pass::move, sums, runs, pieces);
        fold_runs(totals, a.n, runs, nullptr, a.out, launch);
    }
    device.check_launch();
}

}  // namespace hatebm::cuda
