// The noise of the chains on a GPU, and Philox's words alone.

#include "cuda/launch.h"
#include "cuda/quads.h"

namespace hatebm::cuda {
namespace {

__global__ void __launch_bounds__(threads_a_block) normal_quads(Normals a, Launch launch, Walk walk, bool vector) {
    const Draw draw = draw_of(a.draw, launch);
    const RoundKeys keys = round_keys(draw.seed);
    for (Place at = first_place(walk); at.sample < a.n; go_on(at, walk)) {
        const Quad n = normals_of(draw, keys, a.chain_ids, at);
        float* out = a.out + at.sample * a.d + 4 * at.quad;
        if (vector) {
            store_quad(out, n);
        } else {
            for (int k = 0; k < 4; ++k)
                if (4 * at.quad + k < a.d) out[k] = n.v[k];
        }
    }
}

__global__ void __launch_bounds__(threads_a_block)
    philox_words(const int64_t* counters, const int64_t* keys, int64_t* words, int64_t m) {
    const int64_t threads = int64_t(gridDim.x) * threads_a_block;
    for (int64_t i = int64_t(blockIdx.x) * threads_a_block + threadIdx.x; i < m; i += threads) {
        uint32_t w[4];
        for (int j = 0; j < 4; ++j) w[j] = static_cast<uint32_t>(counters[4 * i + j]);
        const auto seed = static_cast<uint64_t>(keys[2 * i + 1]) << 32 | static_cast<uint32_t>(keys[2 * i]);
        hatebm::philox(w[0], w[1], w[2], w[3], round_keys(seed));
        for (int j = 0; j < 4; ++j) words[4 * i + j] = w[j];
    }
}

}  // namespace

void normal(const Normals& a, const Launch& launch) {
    if (a.n == 0 || a.d == 0) return;
    const OnDevice device("normal", launch.device);
    const unsigned blocks = blocks_for(launch, a.n * ((a.d + 3) / 4), threads_a_block);
    const bool vector = a.d % 4 == 0 && aligned(a.out, 16);
    normal_quads<<<blocks, threads_a_block, 0, stream_of(launch)>>>(a, launch, walk_of(a.d, blocks), vector);
    device.check_launch();
}

void philox(const int64_t* counters, const int64_t* keys, int64_t* words, int64_t m, const Launch& launch) {
    if (m == 0) return;
    const OnDevice device("philox", launch.device);
    const unsigned blocks = blocks_for(launch, m, threads_a_block);
    philox_words<<<blocks, threads_a_block, 0, stream_of(launch)>>>(counters, keys, words, m);
    device.check_launch();
}

std::string unavailable() {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    return devices > 0 ? "" : "no CUDA device";
}

}  // namespace hatebm::cuda
