// Chains in the energy of a multilayer perceptron on a GPU: a block takes a few chains through all their steps. States,
// activations and slopes stay on chip, and so do the weights where they fit; elsewhere they are read again at each step.

#include "cuda/launch.h"
#include "cuda/layers.h"
#include "cuda/tree.h"
#include "formulas/walls.h"

namespace hatebm::cuda {
namespace {

constexpr int threads = 256;
constexpr int64_t nowhere = -1;

// The chains of one block. `x`, `gradient`, the activations `even` and `odd` in turns, and the slopes of each hidden
// layer (on the way back the gradient there) are panels; of the rest each chain has one number.
struct Block {
    const Perceptron& net;
    const float* numbers;
    const Share own;
    const int d, panel;  // floats of a hidden layer's panel
    float *x, *gradient, *even, *odd, *slopes, *factors, *unclean, *energies;

    // Reads the state; `rows` are those of the block's first chain, of which there are `left`.
    __device__ __forceinline__ void read(const float* rows, int64_t left) const {
        for (int e = own.crew; e < whole_quads(d); e += own.crews)
            x[e * own.chains + own.chain] = own.chain < left && e < d ? rows[int64_t(own.chain) * d + e] : 0;
        if (own.crew == 0) unclean[own.chain] = 0, factors[own.chain] = 1;
        __syncthreads();
    }
    __device__ __forceinline__ void write(const float* panel, float* rows, int64_t left) const {
        for (int e = own.crew; own.chain < left && e < d; e += own.crews)
            rows[int64_t(own.chain) * d + e] = panel[e * own.chains + own.chain];
    }

    // The gradient at x, and where somebody wants to know energies these, and of each chain whether these and the gradient
    // of what is not held(chain, element) are finite.
    template <class Held>
    __device__ __forceinline__ void evaluate(bool watched, Held held) const {
        const float* in = x;
        for (int l = 0; l < net.depth; ++l) {
            const HiddenLayer& layer = net.hidden[l];
            float *out = l % 2 == 0 ? even : odd, *of_layer = slopes + l * panel;
            multiply(numbers + layer.forward, numbers + layer.bias, layer.outputs, layer.inputs, in, out, own);
            activate(layer, out, of_layer, l + 1 == net.depth ? numbers + net.last : nullptr, own);
            zero_rest(layer.outputs, out), zero_rest(layer.outputs, of_layer);
            in = out;
            __syncthreads();
        }
        if (watched) sum_energies(in);
        for (int l = net.depth - 1; l > 0; --l) {
            const HiddenLayer& layer = net.hidden[l];
            float *below = slopes + (l - 1) * panel, *pull = l % 2 == 0 ? odd : even;  // not the one that energies are summed from
            multiply(numbers + layer.backward, nullptr, layer.inputs, layer.outputs, slopes + l * panel, pull, own);
            for (int o = own.crew; o < layer.inputs; o += own.crews) {
                const int i = o * own.chains + own.chain;
                below[i] = pull[i] * below[i];
            }
            __syncthreads();
        }
        const HiddenLayer& first = net.hidden[0];
        multiply(numbers + first.backward, nullptr, first.inputs, first.outputs, slopes, gradient, own);
        for (int e = own.crew; watched && e < d; e += own.crews) {
            const float g = gradient[e * own.chains + own.chain];
            if (!(g - g == 0) && !held(own.chain, e)) unclean[own.chain] = 1;
        }
        __syncthreads();
    }

    // Products read rows by fours.
    __device__ __forceinline__ void zero_rest(int rows, float* of) const {
        for (int o = rows + own.crew; o < whole_quads(rows); o += own.crews) of[o * own.chains + own.chain] = 0;
    }

    // A warp takes the energy of a chain at a time.
    __device__ __forceinline__ void sum_energies(const float* values) const {
        const int inputs = net.hidden[net.depth - 1].outputs, lane = threadIdx.x % warp;
        for (int c = threadIdx.x / warp; c < own.chains; c += threads / warp) {
            float energy = lane == 0 ? numbers[net.last_bias] : 0.0f;
            for (int k = lane; k < inputs; k += warp) energy = fma(numbers[net.last + k], values[k * own.chains + c], energy);
            for (int half = warp / 2; half > 0; half /= 2) energy += static_cast<float>(__shfl_xor_sync(~0u, energy, half));
            if (lane == 0) energies[c] = energy;
            if (lane == 0 && !(energy - energy == 0)) unclean[c] = 1;
        }
    }

    // give(c, norm) for the norm of what of(c)(e, i) makes of each element e of chain c, which lies at i, summed in the
    // order of tree.h.
    template <class Of, class Give>
    __device__ __forceinline__ void norms(Of of, Give give) const {
        const int lane = threadIdx.x % warp, runs = (d + fold - 1) / fold;
        for (int c = threadIdx.x / warp; c < own.chains; c += threads / warp) {
            const auto element = of(c);
            double mine = 0;
            for (int r = 0; r < runs; ++r) {
                RunSum sum;
#pragma unroll 1
                for (int p = 0; p < quads_a_lane; ++p) {
                    const int e = r * fold + 4 * (in_tree_order(p) * warp + lane);
                    Quad v{};
#pragma unroll
                    for (int k = 0; k < 4; ++k)
                        if (e + k < d) v.v[k] = element(e + k, (e + k) * own.chains + c);
                    sum.add_squares(p, v);
                }
                const double total = sum.total();
                if (lane == r) mine = total;
            }
            const double squares = sum_over_lanes(mine);
            if (lane == 0) give(c, norm_of(squares));
        }
        __syncthreads();
    }

    // body(place, normal) for what is not held(chain, element) of the thread's quads.
    template <class Held, class Body>
    __device__ __forceinline__ void for_quads(const Law& law, const Draw& draw, const RoundKeys& keys, uint64_t id,
                                              Held held, Body body) const {
        for (int e = 4 * own.crew; e < d; e += 4 * own.crews) {
            Quad eps{};
            if (law.noise_std != 0)
                quad_of_normals(static_cast<uint32_t>(e / 4), static_cast<uint32_t>(id), static_cast<uint32_t>(draw.step),
                                last_counter(draw, id), keys, eps.v[0], eps.v[1], eps.v[2], eps.v[3]);
#pragma unroll
            for (int k = 0; k < 4; ++k)
                if (e + k < d && !held(own.chain, e + k)) body((e + k) * own.chains + own.chain, eps.v[k]);
        }
    }
};

// The law without the box.
__device__ __forceinline__ Law opened(Law law) {
    law.low = -INFINITY, law.high = INFINITY;
    return law;
}

template <bool kept>
__device__ __forceinline__ Block block_of(const Perceptron& net, int chains, float* shared) {
    const int d = net.hidden[0].inputs, panel = Panels(net, chains).widest * chains, state = whole_quads(d) * chains;
    float* x = shared + (kept ? whole_quads(net.count) : 0);
    float *gradient = x + state, *even = gradient + state, *odd = even + panel, *slopes = odd + panel;
    float* factors = slopes + net.depth * panel;
    for (int64_t i = threadIdx.x; kept && i < net.count; i += threads) shared[i] = net.numbers[i];
    const int thread = static_cast<int>(threadIdx.x);
    return {net, kept ? shared : net.numbers, {thread % chains, chains, thread / chains, threads / chains}, d, panel,
            x, gradient, even, odd, slopes, factors, factors + chains, factors + 2 * chains};
}

template <bool kept>
__global__ void __maxnreg__(168) mlp_look_at(const __grid_constant__ MlpLook a, int chains) {
    extern __shared__ float shared[];
    const Block block = block_of<kept>(a.net, chains, shared);
    const int64_t first = int64_t(blockIdx.x) * chains, left = a.n - first;
    block.read(a.x + first * block.d, left);
    block.evaluate(true, [](int, int) { return false; });
    block.write(block.gradient, a.gradients + first * block.d, left);
    if (block.own.crew == 0 && block.own.chain < left) a.energies[first + block.own.chain] = block.energies[block.own.chain];
}

template <bool kept, bool own_laws>
__global__ void __maxnreg__(own_laws ? 200 : 168) mlp_steps(const __grid_constant__ MlpChains a, int chains) {
    extern __shared__ float shared[];
    const Block block = block_of<kept>(a.net, chains, shared);
    const Share& own = block.own;
    const int64_t first = int64_t(blockIdx.x) * chains, left = a.n - first, index = first + own.chain;
    const auto id = static_cast<uint64_t>(own.chain < left ? a.chain_ids ? a.chain_ids[index] : index : 0);
    const RoundKeys keys = round_keys(a.draw.seed);
    float *x = block.x, *gradient = block.gradient, *rows = a.x + first * block.d;
    block.read(rows, left);
    const auto rests = [](const Law& law) { return law.step_size == 0 && law.noise_std == 0; };
    const auto held = [&](int chain, int e) {
        return own_laws && a.mask && chain < left && !a.mask[(first + chain) * block.d + e];
    };
    int64_t bad = INT64_MAX, next = own_laws ? a.facts.next(a.draw.step) : nowhere;
    for (int64_t i = 0; i < a.n_steps; ++i) {
        const auto law_of = [&](int chain) {
            return law_at(a.law, a.numbers, i, !own_laws ? 0 : chain < left ? first + chain : a.n - 1);
        };
        Law open = law_of(own.chain);
        const bool told = own_laws && i == next, reflect = own_laws && a.reflect;
        const bool still = rests(open), idle = own_laws && still;
        const auto fold_back = [&] {  // what has moved, where walls reflect
            for (int e = own.crew; !idle && e < block.d; e += own.crews) {
                float& place = x[e * own.chains + own.chain];
                if (!held(own.chain, e)) place = folded(place, a.law.low, a.law.high, a.width);
            }
            __syncthreads();
        };
        if (!told && (own_laws ? __syncthreads_and(still) : still)) continue;
        const int64_t at = told ? i / a.facts.every * a.n + first : nowhere;
        const auto tell = [&](float* facts, int chain, float norm) {
            if (chain < left) facts[at + chain] = rests(law_of(chain)) ? 0 : norm;
        };
        if (told) {
            next += a.facts.every;
            block.write(x, rows, left);  // where it begins: nobody needs these rows before the end
            __syncthreads();
        }
        const Draw draw{a.draw.seed, a.draw.step + i, a.draw.block, a.draw.purpose};
        if (a.noise_first) {
            if (!a.clamp_noise || reflect) open = opened(open);
            if (!idle)
                block.for_quads(open, draw, keys, id, held, [&](int at, float eps) {
                    x[at] = noise_element(open, x[at], eps);
                });
            __syncthreads();
            if (reflect && a.clamp_noise) fold_back();
        }
        block.evaluate(told || a.first_bad != nullptr, held);
        if (told && own.crew == 0 && own.chain < left) a.facts.energy[at + own.chain] = block.energies[own.chain];
        if (own.crew == 0 && block.unclean[own.chain] != 0) {
            if (!idle && bad == INT64_MAX) bad = static_cast<int64_t>(draw.step);
            block.unclean[own.chain] = 0;
        }
        const auto totals = [&](bool prior) {
            return [&, prior](int c) {
                Law law = law_of(c);
                if (!prior) law.prior_precision = 0;
                return [=](int e, int i) { return held(c, e) ? 0 : total_gradient(law, x[i], gradient[i]); };
            };
        };
        if (told || a.law.clip == Clip::norm)
            block.norms(totals(true), [&](int c, float norm) {
                block.factors[c] = clip_factor(law_of(c), norm);
                if (told) tell(a.facts.grad_norm, c, norm);
            });
        if (told) block.norms(totals(false), [&](int c, float norm) { tell(a.facts.grad_norm_energy, c, norm); });
        const float factor = block.factors[own.chain];
        Law law = law_of(own.chain);  // again: not kept in registers while the layers are evaluated
        if (a.noise_first) law.noise_std = 0;
        if (reflect) law = opened(law);
        if (!idle)
            block.for_quads(law, draw, keys, id, held, [&](int at, float eps) {
                x[at] = step_element(law, x[at], total_gradient(law, x[at], gradient[at]), eps, factor);
            });
        __syncthreads();
        if (reflect) fold_back();
        const auto way = [&](int c) {
            const float* before = c < left ? rows + int64_t(c) * block.d : rows;
            return [=](int e, int i) { return x[i] - before[e]; };
        };
        if (told) block.norms(way, [&](int c, float norm) { tell(a.facts.displacement, c, norm); });
    }
    block.write(x, rows, left);
    if (a.first_bad && own.crew == 0 && own.chain < left) a.first_bad[index] = bad;
}

int shared_of(int device) {
    int bytes = 0;
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return bytes / static_cast<int>(sizeof(float));
}

// The kernel that keeps the weights on chip, or the one that does not.
template <class Arguments>
void launch_over(void (*keeping)(Arguments, int), void (*reading)(Arguments, int), const Arguments& a, const char* op,
                 const Launch& launch) {
    if (a.n == 0) return;
    if (!mlp_fits(a.net, launch.device)) throw std::invalid_argument(std::string(op) + ": the layers are too wide");
    const OnDevice device(op, launch.device);
    int processors = 1;
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, launch.device);
    const int room = shared_of(launch.device);
    int chains = 32;
    while (chains > 1 && (Panels(a.net, chains).size(a.net) > room || (chains > 4 && a.n < int64_t(processors) * chains)))
        chains /= 2;
    const int panels = Panels(a.net, chains).size(a.net);
    const bool kept = whole_quads(a.net.count) + panels <= room;
    const size_t bytes = sizeof(float) * (panels + (kept ? whole_quads(a.net.count) : 0));
    const auto kernel = kept ? keeping : reading;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), op);
    const auto blocks = static_cast<unsigned>((a.n + chains - 1) / chains);
    kernel<<<blocks, threads, bytes, stream_of(launch)>>>(a, chains);
    device.check_launch();
}

}  // namespace

bool mlp_fits(const Perceptron& net, int device) { return Panels(net, 1).size(net) <= shared_of(device); }

void mlp_chains(const MlpChains& a, const Launch& launch) {
    const char* op = "perceptron_chains_";
    if (a.numbers.chain || a.facts.every || a.mask || a.reflect) launch_over(mlp_steps<true, true>, mlp_steps<false, true>, a, op, launch);
    else launch_over(mlp_steps<true, false>, mlp_steps<false, false>, a, op, launch);
}

void mlp_look(const MlpLook& a, const Launch& launch) {
    launch_over(mlp_look_at<true>, mlp_look_at<false>, a, "perceptron_look", launch);
}

}  // namespace hatebm::cuda
