// The hat's input G(z) + y on a GPU.

#include "cuda/launch.h"
#include "cuda/quads.h"

namespace hatebm::cuda {
namespace {

__global__ void __launch_bounds__(threads_a_block)
    residual_quads(const float* gz, const float* y, float* out, int64_t numel, bool vector) {
    const int64_t threads = int64_t(gridDim.x) * threads_a_block;
    for (int64_t e = 4 * (int64_t(blockIdx.x) * threads_a_block + threadIdx.x); e < numel; e += 4 * threads) {
        if (vector && e + 4 <= numel) {
            Quad a = load_quad(gz + e), b = load_quad(y + e);
            for (int k = 0; k < 4; ++k) a.v[k] += b.v[k];
            store_quad(out + e, a);
        } else {
            for (int k = 0; k < 4 && e + k < numel; ++k) out[e + k] = gz[e + k] + y[e + k];
        }
    }
}

}  // namespace

void residual_add(const float* gz, const float* y, float* out, int64_t numel, const Launch& launch) {
    if (numel == 0) return;
    const OnDevice device("residual_add", launch.device);
    const bool vector = aligned(gz, 16) && aligned(y, 16) && aligned(out, 16);
    const unsigned blocks = blocks_for(launch, (numel + 3) / 4, threads_a_block);
    residual_quads<<<blocks, threads_a_block, 0, stream_of(launch)>>>(gz, y, out, numel, vector);
    device.check_launch();
}

}  // namespace hatebm::cuda
