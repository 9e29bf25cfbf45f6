// Whole chains on a GPU, for energies with a formula: the state stays on chip for all steps, and a few lanes of a warp
// share a chain, each with quads of its own. How many lanes they are changes no bit.

#include "cuda/launch.h"
#include "cuda/run_on_chip.h"

namespace hatebm::cuda {
namespace {

// How the chains lie in blocks: `lanes` to a chain, and `room` floats of scratch.
struct Shares {
    int lanes, quads, room;
    int threads;
    __host__ __device__ int chains_a_warp() const { return warp / lanes; }
    __host__ __device__ int floats_a_warp() const { return chains_a_warp() * 4 * (quads + room); }
};

// The chain of a thread, and its place on chip.
template <class Energy>
struct Seat {
    int64_t index;
    OnChip<Energy> chain;
};

template <class Energy>
__device__ __forceinline__ Seat<Energy> seat(const Formula& formula, const Shares& shares, float* shared) {
    const int width = shares.chains_a_warp(), lane = threadIdx.x % warp, own = threadIdx.x / warp;
    const Crew crew{lane % shares.lanes, shares.lanes};
    float* at = shared + own * shares.floats_a_warp() + lane / shares.lanes;
    const Column state{at, shares.quads, width}, scratch{at + 4 * shares.quads * width, shares.room, width};
    const int64_t index = (int64_t(blockIdx.x) * (blockDim.x / warp) + own) * width + lane / shares.lanes;
    return {index, {Energy(formula), crew, static_cast<int>(formula.d), state, scratch}};
}

template <class Energy, bool own_laws, bool extras = false>
__global__ void __maxnreg__(extras ? 255 : 128) whole_chains(const __grid_constant__ Whole a, Shares shares) {
    extern __shared__ float shared[];
    const Seat<Energy> own = seat<Energy>(a.energy, shares, shared);
    const bool live = own.index < a.n;
    const int64_t index = live ? own.index : a.n - 1;
    own.chain.read(a.x + index * a.energy.d);
    const auto id = static_cast<uint64_t>(a.chain_ids ? a.chain_ids[index] : index);
    Run<Energy, own_laws, extras> run{a, own.chain, index, live, id, round_keys(a.draw.seed)};
    run();
    if (!live) return;
    if (a.first_bad && own.chain.crew.rank == 0) a.first_bad[index] = run.bad;
    for (int e = own.chain.crew.rank; e < own.chain.d; e += shares.lanes) a.x[index * a.energy.d + e] = own.chain.state[e];
}

template <class Energy>
__global__ void __maxnreg__(128) look_at(const __grid_constant__ Look a, Shares shares) {
    extern __shared__ float shared[];
    const Seat<Energy> own = seat<Energy>(a.energy, shares, shared);
    const bool live = own.index < a.n;
    const int64_t index = live ? own.index : a.n - 1;
    own.chain.read(a.x + index * a.energy.d);
    float* gradients = a.gradients + index * a.energy.d;
    const float energy = own.chain.evaluate([&](int e, const Quad& g) {
        for (int k = 0; k < 4 && e + k < own.chain.d; ++k)
            if (live) gradients[e + k] = g.v[k];
    });
    if (live && own.chain.crew.rank == 0) a.energies[index] = energy;
}

constexpr int on_chip = 12 * 1024;  // floats of shared memory that every device has without asking

// As many lanes to a chain as its tree of sums and the chip's memory need, and more where chains are too few to fill the
// device.
Shares shares_of(const Formula& formula, int64_t n, const Launch& launch) {
    int processors = 1;
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, launch.device);
    const int64_t filled = int64_t(processors) * 512, quads = (formula.d + 3) / 4;
    const int64_t room = formula.kind == Kind::full ? formula.d : formula.kind == Kind::mixture ? formula.components : 0;
    Shares shares{1, static_cast<int>(quads), static_cast<int>((room + 3) / 4), warp};
    int& lanes = shares.lanes;
    const auto too_few = [&] {
        const bool idle = n * lanes < filled && lanes < std::max(quads, formula.components);
        return idle || quads > lanes * quads_a_lane || shares.floats_a_warp() > on_chip;
    };
    while (lanes < warp && too_few()) lanes *= 2;
    if (n * lanes >= filled && 4 * shares.floats_a_warp() <= on_chip) shares.threads = 4 * warp;
    return shares;
}

template <class Arguments>
void launch_over(void (*kernel)(Arguments, Shares), const Arguments& a, const char* op, const Launch& launch) {
    if (a.n == 0) return;
    if (a.energy.d > fold) throw std::invalid_argument(std::string(op) + ": more than 1024 elements a chain");
    const OnDevice device(op, launch.device);
    const Shares shares = shares_of(a.energy, a.n, launch);
    const size_t bytes = sizeof(float) * shares.floats_a_warp() * (shares.threads / warp);
    if (shares.floats_a_warp() > on_chip) throw std::invalid_argument(std::string(op) + ": too many components");
    const int64_t warps = (a.n + shares.chains_a_warp() - 1) / shares.chains_a_warp(), a_block = shares.threads / warp;
    const auto blocks = static_cast<unsigned>((warps + a_block - 1) / a_block);
    kernel<<<blocks, shares.threads, bytes, stream_of(launch)>>>(a, shares);
    device.check_launch();
}

template <class Energy>
void launch_chains(const Whole& a, const Launch& launch) {
    const auto kernel = a.facts.every || a.mask || a.reflect ? whole_chains<Energy, true, true>
                        : a.numbers.chain ? whole_chains<Energy, true> : whole_chains<Energy, false>;
    launch_over(kernel, a, "whole_chains_", launch);
}

}  // namespace

void whole(const Whole& a, const Launch& launch) {
    switch (a.energy.kind) {
        case Kind::diagonal: return launch_chains<Diagonal>(a, launch);
        case Kind::full: return launch_chains<Full>(a, launch);
        case Kind::mixture: return launch_chains<Mixture>(a, launch);
        case Kind::double_well: return launch_chains<DoubleWell>(a, launch);
        case Kind::funnel: return launch_chains<Funnel>(a, launch);
    }
}

void look(const Look& a, const Launch& launch) {
    const char* op = "look";
    switch (a.energy.kind) {
        case Kind::diagonal: return launch_over(look_at<Diagonal>, a, op, launch);
        case Kind::full: return launch_over(look_at<Full>, a, op, launch);
        case Kind::mixture: return launch_over(look_at<Mixture>, a, op, launch);
        case Kind::double_well: return launch_over(look_at<DoubleWell>, a, op, launch);
        case Kind::funnel: return launch_over(look_at<Funnel>, a, op, launch);
    }
}

}  // namespace hatebm::cuda
