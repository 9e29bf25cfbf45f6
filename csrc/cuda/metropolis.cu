// The Metropolis decision on a GPU: a thread to a chain.

#include "cuda/launch.h"
#include "cuda/quads.h"

namespace hatebm::cuda {
namespace {

__global__ void __launch_bounds__(threads_a_block) decide(Decisions a, Launch launch) {
    const Draw draw = draw_of(a.draw, launch);
    const RoundKeys keys = round_keys(draw.seed);
    const int64_t threads = int64_t(gridDim.x) * threads_a_block;
    for (int64_t i = int64_t(blockIdx.x) * threads_a_block + threadIdx.x; i < a.n; i += threads) {
        const auto chain = static_cast<uint64_t>(a.chain_ids ? a.chain_ids[i] : i);
        uint32_t w0 = 0, w1 = static_cast<uint32_t>(chain), w2 = static_cast<uint32_t>(draw.step);
        uint32_t w3 = last_counter(draw, chain);
        hatebm::philox(w0, w1, w2, w3, keys);
        a.accept[i] = accepts(a.log_ratio[i], minus_2_ln<float>(to_int(w0)));
    }
}

}  // namespace

void metropolis(const Decisions& a, const Launch& launch) {
    if (a.n == 0) return;
    const OnDevice device("metropolis", launch.device);
    decide<<<blocks_for(launch, a.n, threads_a_block), threads_a_block, 0, stream_of(launch)>>>(a, launch);
    device.check_launch();
}

}  // namespace hatebm::cuda
