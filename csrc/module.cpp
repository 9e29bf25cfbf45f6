// Binds the kernels to Python: pointers, sizes and numbers. The checks stand in hatebm/ops/__init__.py.

#include <stdexcept>
#include <string>
#include <tuple>

#include "bind.h"
#include "cpu/cpu.h"

namespace hatebm {
namespace {

#define HATEBM_KERNELS(isa) \
    {#isa, isa::langevin_step, isa::langevin_ratio, isa::metropolis, isa::normal, isa::residual_add, \
     isa::whole, isa::corrected, isa::look, isa::mlp_chains, isa::mlp_look, isa::activation, isa::modulated, \
     isa::filter_weight, isa::filter, isa::stem, isa::direct}

std::vector<CpuKernels> available_kernels() {  // the fastest first
    std::vector<CpuKernels> kernels;
#ifdef HATEBM_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        kernels.push_back(HATEBM_KERNELS(avx512));
    if (avx2) kernels.push_back(HATEBM_KERNELS(avx2));
#endif
    kernels.push_back(HATEBM_KERNELS(baseline));
    return kernels;
}

const std::vector<CpuKernels> kernels = available_kernels();
const CpuKernels* chosen = &kernels.front();

void use_instruction_set(const std::string& name) {
    for (const CpuKernels& candidate : kernels)
        if (name == candidate.name) {
            chosen = &candidate;
            return;
        }
    throw std::invalid_argument("use_instruction_set: this machine has no " + name);
}

void langevin_step(const Step& step, int threads) { chosen->langevin_step({step, threads}); }

void langevin_ratio(const Ratio& ratio, int threads) { chosen->langevin_ratio({ratio, threads}); }

void metropolis(uintptr_t log_ratio, uintptr_t accept, int64_t n, uint64_t seed, uint64_t step, uint32_t block,
                uint32_t purpose, uintptr_t chain_ids, int threads) {
    py::gil_scoped_release release;
    const Draw draw{seed, step, block, purpose};
    const Decisions decisions{held<double>(log_ratio, n, "log_ratio"), held<bool>(accept, n, "accept"), n, draw, at<int64_t>(chain_ids)};
    chosen->metropolis({decisions, threads});
}

void normal(uintptr_t out, int64_t n, int64_t d, uint64_t seed, uint64_t step, uint32_t block, uint32_t purpose,
            uintptr_t chain_ids, int threads) {
    py::gil_scoped_release release;
    chosen->normal({{held<float>(out, n * d, "out"), n, d, {seed, step, block, purpose}, at<int64_t>(chain_ids)}, threads});
}

void residual_add(uintptr_t gz, uintptr_t y, uintptr_t out, int64_t numel, int threads) {
    py::gil_scoped_release release;
    chosen->residual_add(held<float>(gz, numel, "gz"), held<float>(y, numel, "y"), held<float>(out, numel, "out"), numel,
                         threads);
}

void whole(const Whole& chains, int threads) { chosen->whole({chains, threads}); }

void corrected(const Proposed& chains, int threads) { chosen->corrected({chains, threads}); }

void look(const Look& states, int threads) { chosen->look({states, threads}); }

// weight, bias (or 0), inputs, outputs, activation and its parameter
using Layer = std::tuple<uintptr_t, uintptr_t, int64_t, int64_t, int, float>;

std::vector<MlpLayer> given_layers(const std::vector<Layer>& layers) {
    std::vector<MlpLayer> given;
    for (const auto& [weight, bias, inputs, outputs, activation, parameter] : layers)
        given.push_back({held<float>(weight, inputs * outputs, "weight"), at<float>(bias), inputs, outputs,
                         static_cast<Activation>(activation), parameter});
    return given;
}

void mlp_chains(uintptr_t x, int64_t n, const std::vector<Layer>& layers, const Run& run, int threads) {
    const std::vector<MlpLayer> given = given_layers(layers);
    const Chains chains = chains_of(run, held<float>(x, n * given.at(0).inputs, "x"), n);
    py::gil_scoped_release release;
    chosen->mlp_chains({chains, given.data(), static_cast<int>(given.size()), threads});
}

void mlp_look(uintptr_t x, int64_t n, const std::vector<Layer>& layers, uintptr_t energies, uintptr_t gradients, int threads) {
    const std::vector<MlpLayer> given = given_layers(layers);
    py::gil_scoped_release release;
    const int64_t size = n * given.at(0).inputs;
    chosen->mlp_look({held<float>(x, size, "x"), n, given.data(), static_cast<int>(given.size()),
                      held<float>(energies, n, "energies"), held<float>(gradients, size, "gradients"), threads});
}

void activation(int kind, float parameter, int64_t count, uintptr_t x, uintptr_t values, uintptr_t slopes, int threads) {
    py::gil_scoped_release release;
    chosen->activation({static_cast<Activation>(kind), parameter, count, held<float>(x, count, "x"),
                        held<float>(values, count, "values"), held<float>(slopes, count, "slopes"), threads});
}

// images, pixels of one, channels
using Images = std::tuple<int64_t, int64_t, int64_t>;
// numbers of each channel (or 0), and how far those of the next image are
using Numbers = std::tuple<uintptr_t, int64_t>;

void modulated(int kind, float parameter, const Images& sizes, uintptr_t x, const Numbers& gain, const Numbers& shift,
               uintptr_t values, uintptr_t slopes, int threads) {
    py::gil_scoped_release release;
    const auto [images, pixels, channels] = sizes;
    const int64_t count = images * pixels * channels;
    const auto of_channels = [](const Numbers& n) { return OfChannels{at<float>(std::get<0>(n)), std::get<1>(n)}; };
    chosen->modulated({{static_cast<Activation>(kind), parameter, count, held<float>(x, count, "x"),
                        held<float>(values, count, "values"), held<float>(slopes, count, "slopes"), threads},
                       images, channels, of_channels(gain), of_channels(shift)});
}

void filter_weight(int filter, bool adjoint, uintptr_t weight, int64_t outputs, int64_t inputs, uintptr_t prepared, int threads) {
    py::gil_scoped_release release;
    const int64_t size = inputs * outputs;
    const FilterWeight args{static_cast<Filter>(filter), adjoint, held<float>(weight, size, "weight"), outputs, inputs,
                            held<float>(prepared, size, "prepared")};
    chosen->filter_weight(args, threads);
}

using ImageSize = std::tuple<int64_t, int64_t, int64_t>;  // rows, columns, channels

void filter(int kind, uintptr_t x, uintptr_t prepared, uintptr_t bias, uintptr_t y, int64_t n, const ImageSize& from,
            const ImageSize& to, bool rectified, uintptr_t gate, uintptr_t slopes, int threads) {
    const auto [rows, columns, inputs] = from;
    const auto [out_rows, out_columns, outputs] = to;
    py::gil_scoped_release release;
    chosen->filter({static_cast<Filter>(kind), held<float>(x, n * rows * columns * inputs, "x"),
                    held<float>(prepared, inputs * outputs, "prepared"), at<float>(bias),
                    held<float>(y, n * out_rows * out_columns * outputs, "y"), n,
                    rows, columns, inputs, out_rows, out_columns, outputs, rectified, at<float>(gate),
                    at<float>(slopes), threads});
}

template <void (*CpuKernels::*kernel)(const ConvolutionArgs&, bool)>
void convolution(bool pulled_back, uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t y, int64_t n, int64_t rows,
                 int64_t columns, int64_t inputs, int64_t outputs, int64_t side, int64_t stride, int64_t padding, int threads) {
    py::gil_scoped_release release;
    const int64_t pixels = n * rows * columns;
    const ConvolutionArgs args{held<float>(x, pixels, "x"), held<float>(weight, inputs * outputs, "weight"), at<float>(bias),
                               held<float>(y, pixels, "y"), n, rows, columns, inputs, outputs, side, stride, padding, threads};
    (chosen->*kernel)(args, pulled_back);
}

// (m, 4) counters and (m, 2) keys to (m, 4) words, each word in an int64
void philox_words(uintptr_t counters, uintptr_t keys, uintptr_t words, int64_t m) {
    const int64_t *counter = held<int64_t>(counters, m, "counter"), *key = held<int64_t>(keys, m, "key");
    int64_t* word = held<int64_t>(words, m, "words");
    for (int64_t i = 0; i < m; ++i) {
        const int64_t *c = counter + 4 * i, *k = key + 2 * i;
        uint32_t w[4];
        for (int j = 0; j < 4; ++j) w[j] = static_cast<uint32_t>(c[j]);
        philox(w[0], w[1], w[2], w[3], round_keys(static_cast<uint64_t>(k[1]) << 32 | static_cast<uint32_t>(k[0])));
        for (int j = 0; j < 4; ++j) word[4 * i + j] = w[j];
    }
}

}  // namespace
}  // namespace hatebm

PYBIND11_MODULE(_C, m) {
    using namespace hatebm;
    m.def("langevin_step", taking_numbers(&langevin_step));
    m.def("langevin_ratio", taking_numbers(&langevin_ratio));
    m.def("metropolis", &metropolis);
    m.def("normal", &normal);
    m.def("residual_add", &residual_add);
    m.def("mlp_chains", &mlp_chains);
    m.def("mlp_look", &mlp_look);
    m.def("activation", &activation);
    m.def("modulated", &modulated);
    m.def("filter_weight", &filter_weight);
    m.def("filter", &filter);
    m.def("stem", &convolution<&CpuKernels::stem>);
    m.def("direct", &convolution<&CpuKernels::direct>);
    m.def("philox", &philox_words);
    m.def("whole", taking_numbers(&whole));
    m.def("corrected", taking_numbers(&corrected));
    m.def("look", taking_numbers(&look));
    m.def("instruction_set", [] { return chosen->name; });
    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const CpuKernels& candidate : kernels) names.push_back(candidate.name);
        return names;
    });
    m.def("use_instruction_set", &use_instruction_set);
#ifdef HATEBM_CUDA
    bind_cuda(m);
#else
    m.attr("cuda") = py::none();
#endif
}
