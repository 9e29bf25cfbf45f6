// Binds the CUDA launches as the submodule `cuda`.

#include "bind.h"
#include "cuda/cuda.h"

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

// inputs, outputs, activation and its parameter, and where forward, backward and bias lie
using Hidden = std::tuple<int, int, int, float, int, int, int>;

cuda::Perceptron perceptron(uintptr_t numbers, int64_t count, const std::vector<Hidden>& layers, int last, int last_bias) {
    const int depth = static_cast<int>(layers.size());
    cuda::Perceptron net{held<float>(numbers, count, "numbers"), count, depth, last, last_bias, {}};
    if (layers.size() > cuda::most_hidden) throw std::invalid_argument("perceptron_chains_: more than 16 hidden layers");
    for (size_t l = 0; l < layers.size(); ++l) {
        const auto [inputs, outputs, activation, parameter, forward, backward, bias] = layers[l];
        net.hidden[l] = {inputs, outputs, static_cast<Activation>(activation), parameter, forward, backward, bias};
    }
    return net;
}

void mlp_chains(uintptr_t x, int64_t n, uintptr_t numbers, int64_t count, const std::vector<Hidden>& layers, int last,
                int last_bias, const Run& run, int device, uintptr_t stream) {
    const Chains chains = chains_of(run, held<float>(x, n, "x"), n);
    const cuda::MlpChains args{chains, perceptron(numbers, count, layers, last, last_bias)};
    py::gil_scoped_release release;
    cuda::mlp_chains(args, launch(device, stream));
}

void mlp_look(uintptr_t x, int64_t n, uintptr_t numbers, int64_t count, const std::vector<Hidden>& layers, int last,
              int last_bias, uintptr_t energies, uintptr_t gradients, int device, uintptr_t stream) {
    const cuda::Perceptron net = perceptron(numbers, count, layers, last, last_bias);
    py::gil_scoped_release release;
    cuda::mlp_look({held<float>(x, n, "x"), n, held<float>(energies, n, "energies"), held<float>(gradients, n, "gradients"), net},
                   launch(device, stream));
}

bool mlp_fits(const std::vector<Hidden>& layers, int device) {
    return layers.size() <= cuda::most_hidden && cuda::mlp_fits(perceptron(0, 0, layers, 0, 0), device);
}

void metropolis(uintptr_t log_ratio, uintptr_t accept, int64_t n, uint64_t seed, uint64_t step, uint32_t block,
                uint32_t purpose, uintptr_t chain_ids, int device, uintptr_t stream, uintptr_t seed_at,
                uintptr_t step_at) {
    py::gil_scoped_release release;
    const Draw draw{seed, step, block, purpose};
    cuda::metropolis({held<double>(log_ratio, n, "log_ratio"), held<bool>(accept, n, "accept"), n, draw, at<int64_t>(chain_ids)},
                     launch(device, stream, seed_at, step_at));
}

void normal(uintptr_t out, int64_t n, int64_t d, uint64_t seed, uint64_t step, uint32_t block, uint32_t purpose,
            uintptr_t chain_ids, int device, uintptr_t stream, uintptr_t seed_at, uintptr_t step_at) {
    py::gil_scoped_release release;
    cuda::normal({held<float>(out, n * d, "out"), n, d, {seed, step, block, purpose}, at<int64_t>(chain_ids)},
                 launch(device, stream, seed_at, step_at));
}

void residual_add(uintptr_t gz, uintptr_t y, uintptr_t out, int64_t numel, int device, uintptr_t stream) {
    py::gil_scoped_release release;
    cuda::residual_add(held<float>(gz, numel, "gz"), held<float>(y, numel, "y"), held<float>(out, numel, "out"), numel,
                       launch(device, stream));
}

void philox_words(uintptr_t counters, uintptr_t keys, uintptr_t words, int64_t m, int device, uintptr_t stream) {
    py::gil_scoped_release release;
    cuda::philox(held<int64_t>(counters, m, "counter"), held<int64_t>(keys, m, "key"), held<int64_t>(words, m, "words"), m,
                 launch(device, stream));
}

}  // namespace

void bind_cuda(py::module_& m) {
    py::module_ cuda = m.def_submodule("cuda");
    cuda.def("langevin_step", taking_numbers(&langevin_step));
    cuda.def("langevin_ratio", taking_numbers(&langevin_ratio));
    cuda.def("whole", taking_numbers(&whole));
    cuda.def("look", taking_numbers(&look));
    cuda.def("mlp_chains", &mlp_chains);
    cuda.def("mlp_look", &mlp_look);
    cuda.def("mlp_fits", &mlp_fits);
    cuda.def("metropolis", &metropolis);
    cuda.def("normal", &normal);
    cuda.def("residual_add", &residual_add);
    cuda.def("philox", &philox_words);
    cuda.def("workspace", &cuda::workspace);
    cuda.def("unavailable", &cuda::unavailable);
}

}  // namespace hatebm
