// Binds the CUDA launches as the submodule `cuda`.

#include "bind.h"
#include "cuda.h"

namespace hatebm {
namespace {

cuda::Launch launch(int device, uintptr_t stream, uintptr_t seed_at = 0, uintptr_t step_at = 0) {
    return {device, at<void>(stream), at<int64_t>(seed_at), at<int64_t>(step_at)};
}

void langevin_step(const Step& step, uintptr_t sums, int device, uintptr_t stream, uintptr_t seed_at,
                   uintptr_t step_at) {
    cuda::langevin_step(step, at<double>(sums), launch(device, stream, seed_at, step_at));
}

void langevin_ratio(const Ratio& ratio, uintptr_t sums, int device, uintptr_t stream) {
    cuda::langevin_ratio(ratio, at<double>(sums), launch(device, stream));
}

void whole(const Whole& chains, int device, uintptr_t stream) { cuda::whole(chains, launch(device, stream)); }

void look(const Look& states, int device, uintptr_t stream) { cuda::look(states, launch(device, stream)); }

void metropolis(uintptr_t log_ratio, uintptr_t accept, int64_t n, uint64_t seed, uint64_t step, uint32_t block,
                uint32_t purpose, uintptr_t chain_ids, int device, uintptr_t stream, uintptr_t seed_at,
                uintptr_t step_at) {
    py::gil_scoped_release release;
    const Draw draw{seed, step, block, purpose};
    cuda::metropolis({at<double>(log_ratio), at<bool>(accept), n, draw, at<int64_t>(chain_ids)},
                     launch(device, stream, seed_at, step_at));
}

void normal(uintptr_t out, int64_t n, int64_t d, uint64_t seed, uint64_t step, uint32_t block, uint32_t purpose,
            uintptr_t chain_ids, int device, uintptr_t stream, uintptr_t seed_at, uintptr_t step_at) {
    py::gil_scoped_release release;
    cuda::normal({at<float>(out), n, d, {seed, step, block, purpose}, at<int64_t>(chain_ids)},
                 launch(device, stream, seed_at, step_at));
}

void residual_add(uintptr_t gz, uintptr_t y, uintptr_t out, int64_t numel, int device, uintptr_t stream) {
    py::gil_scoped_release release;
    cuda::residual_add(at<float>(gz), at<float>(y), at<float>(out), numel, launch(device, stream));
}

void philox_words(uintptr_t counters, uintptr_t keys, uintptr_t words, int64_t m, int device, uintptr_t stream) {
    py::gil_scoped_release release;
    cuda::philox(at<int64_t>(counters), at<int64_t>(keys), at<int64_t>(words), m, launch(device, stream));
}

}  // namespace

void bind_cuda(py::module_& m) {
    py::module_ cuda = m.def_submodule("cuda");
    cuda.def("langevin_step", taking_numbers(&langevin_step));
    cuda.def("langevin_ratio", taking_numbers(&langevin_ratio));
    cuda.def("whole", taking_numbers(&whole));
    cuda.def("look", taking_numbers(&look));
    cuda.def("metropolis", &metropolis);
    cuda.def("normal", &normal);
    cuda.def("residual_add", &residual_add);
    cuda.def("philox", &philox_words);
    cuda.def("workspace", &cuda::workspace);
    cuda.def("unavailable", &cuda::unavailable);
}

}  // namespace hatebm
