// The Langevin step on a GPU: laws that act on each element alone in this file, sums over samples in samples.cu.

#include "cuda/launch.h"
#include "cuda/operands.h"
#include "cuda/samples.h"

namespace hatebm::cuda {
namespace {

template <bool vector, bool own_laws>
__global__ void __launch_bounds__(threads_a_block)
    langevin_step_quads(const __grid_constant__ Step a, const __grid_constant__ Launch launch, Walk walk) {
    const Draw draw = draw_of(a.draw, launch);
    const RoundKeys keys = round_keys(draw.seed);
    for (Place at = first_place(walk); at.sample < a.n; go_on(at, walk)) {
        const Law& law = law_of<own_laws>(a, at.sample);
        if constexpr (vector) {
            step_quad(a, law, draw, keys, at, load_moving<vector>(a, law, draw, at), 1);
        } else {
            step_elements(a, law, draw, keys, at, 1);
        }
    }
}

template <bool own_laws>
auto kernel_of(bool vector) {
    return vector ? langevin_step_quads<true, own_laws> : langevin_step_quads<false, own_laws>;
}

bool is_vector(const Step& a) {
    const bool floats = aligned(a.x, 16) && aligned(a.noise, 16) && aligned(a.gz, 16) && aligned(a.image, 16);
    return a.layout.dims == 0 && a.d % 4 == 0 && floats && aligned(a.grad, a.grad_type == GradType::float32 ? 16 : 8);
}

}  // namespace

void langevin_step(const Step& a, double* sums, const Launch& launch) {
    const OnDevice device("langevin_step_", launch.device);
    if (a.n == 0 || a.d == 0) {
        for (float* norms : {a.grad_norm, a.displacement})
            if (norms) check(cudaMemsetAsync(norms, 0, a.n * sizeof(float), stream_of(launch)), "langevin_step_");
        return;
    }
    if ((a.grad && (a.law.clip == Clip::norm || a.grad_norm)) || a.displacement) {
        step_samples(a, is_vector(a), sums, launch);
    } else {
        const unsigned blocks = blocks_for(launch, a.n * ((a.d + 3) / 4), threads_a_block);
        const Walk walk = walk_of(a.d, blocks);
        const auto kernel = a.numbers.at ? kernel_of<true>(is_vector(a)) : kernel_of<false>(is_vector(a));
        kernel<<<blocks, threads_a_block, 0, stream_of(launch)>>>(a, launch, walk);
    }
    device.check_launch();
}

}  // namespace hatebm::cuda
