// Langevin chains in the energy of a multilayer perceptron on the CPU: every step of a few chains before the next few.
#include "mlp_cpu.h"

#include <memory>
#include <vector>

#include "cpu.h"
#include "panels_cpu.h"
#include "parallel.h"

namespace hatebm::HATEBM_ISA {
namespace {

using Floats = std::unique_ptr<float[], Free>;
Floats floats(int64_t count) { return Floats(aligned_floats(count)); }

// A layer as the products read it.
struct Packed {
    Floats forward, backward;
};

std::vector<Packed> packed(const MlpArgs& a) {
    std::vector<Packed> layers;
    for (int l = 0; l + 1 < a.depth; ++l) {
        const int64_t size = a.layers[l].inputs * a.layers[l].outputs;
        layers.push_back({floats(size), floats(size)});
    }
    for_each(2 * (a.depth - 1), a.threads, [&](int64_t half) {
        const MlpLayer& layer = a.layers[half / 2];
        Packed& to = layers[half / 2];
        if (half % 2 == 0) pack<false>(layer.weight, layer.outputs, layer.inputs, to.forward.get());
        else pack<true>(layer.weight, layer.inputs, layer.outputs, to.backward.get());
    });
    return layers;
}

// Replaces each of `count` values by what `kind` makes of it, and writes the slopes there.
template <Activation kind>
void activate(float parameter, int64_t count, float* values, float* slopes) {
    for (int64_t i = 0; i < count; i += lanes) {
        Float x;
        load(values + i, x);
        const Activated<Float> y = activated<kind>(x, parameter);
        store(values + i, y.value);
        store(slopes + i, y.slope);
    }
}

void activate(Activation kind, float parameter, int64_t count, float* values, float* slopes) {
    switch (kind) {
        case Activation::relu: return activate<Activation::relu>(parameter, count, values, slopes);
        case Activation::leaky_relu: return activate<Activation::leaky_relu>(parameter, count, values, slopes);
        case Activation::silu: return activate<Activation::silu>(parameter, count, values, slopes);
        case Activation::softplus: return activate<Activation::softplus>(parameter, count, values, slopes);
        case Activation::tanh: return activate<Activation::tanh>(parameter, count, values, slopes);
        case Activation::gelu: return activate<Activation::gelu>(parameter, count, values, slopes);
        case Activation::gelu_tanh: return activate<Activation::gelu_tanh>(parameter, count, values, slopes);
        case Activation::elu: return activate<Activation::elu>(parameter, count, values, slopes);
    }
}

// Room for the work on a few chains.
struct Desk {
    Floats in, out, rows;
    std::vector<Floats> slopes;  // of each layer; on the way back, the gradient there

    explicit Desk(const MlpArgs& a, int64_t width) {
        int64_t widest = a.layers[0].inputs;
        for (int l = 0; l + 1 < a.depth; ++l) {
            widest = widest < a.layers[l].outputs ? a.layers[l].outputs : widest;
            slopes.push_back(floats(a.layers[l].outputs * width));
        }
        in = floats(widest * width), out = floats(widest * width), rows = floats(a.layers[0].inputs * width);
    }
};

// The energies of the chains of a panel, desk.in; their gradient replaces it.
template <int vectors>
[[gnu::noinline]] void evaluate(const MlpArgs& a, const std::vector<Packed>& layers, Desk& desk, float* energies) {
    constexpr int64_t width = vectors * lanes;
    const int hidden = a.depth - 1;
    for (int l = 0; l < hidden; ++l) {
        const MlpLayer& layer = a.layers[l];
        const float* weight = layers[l].forward.get();
        multiply_panel<vectors>(weight, layer.bias, layer.outputs, layer.inputs, desk.in.get(), desk.out.get());
        activate(layer.activation, layer.parameter, layer.outputs * width, desk.out.get(), desk.slopes[l].get());
        desk.in.swap(desk.out);
    }
    const MlpLayer& last = a.layers[hidden];
    multiply_rows<1, vectors>(last.weight, last.bias, last.inputs, desk.in.get(), energies);
    float* gradient = desk.slopes[hidden - 1].get();
    for (int64_t k = 0; k < last.inputs; ++k)
        for (int64_t i = k * width; i < (k + 1) * width; i += lanes) {
            Float slope;
            load(gradient + i, slope);
            store(gradient + i, Float(last.weight[k]) * slope);
        }
    for (int l = hidden - 1; l > 0; --l) {
        const MlpLayer& layer = a.layers[l];
        float *below = desk.slopes[l - 1].get(), *above = desk.slopes[l].get();
        multiply_panel<vectors>(layers[l].backward.get(), nullptr, layer.inputs, layer.outputs, above, desk.out.get());
        for (int64_t i = 0; i < layer.inputs * width; i += lanes) {
            Float slope, pull;
            load(below + i, slope), load(desk.out.get() + i, pull);
            store(below + i, pull * slope);
        }
    }
    const MlpLayer& first = a.layers[0];
    multiply_panel<vectors>(layers[0].backward.get(), nullptr, first.inputs, first.outputs, desk.slopes[0].get(), desk.in.get());
}

// All steps of `chains` chains from chain `first` on, at most `vectors` vectors.
template <int vectors>
void run_chains(const MlpArgs& a, const std::vector<Packed>& layers, Desk& desk, int64_t first, int64_t chains) {
    constexpr int64_t width = vectors * lanes;
    const int64_t d = a.layers[0].inputs;
    float* x = a.x + first * d;
    int64_t ids[width];
    for (int64_t c = 0; c < chains; ++c) ids[c] = a.chain_ids ? a.chain_ids[first + c] : first + c;
    for (int64_t k = 0; k < a.run.count; ++k) {
        StepArgs step{};
        step.x = x, step.n = chains, step.d = d, step.chain_ids = ids, step.threads = 1;
        step.draw = a.draw, step.draw.step += k;
        const float noise_std = a.run.noise_std[k];
        if (a.run.step_size[k] == 0 && noise_std == 0) continue;
        if (a.run.noise_before && (noise_std != 0 || a.run.clamp_noise)) {
            step.law.noise_std = noise_std, step.law.inverse_temperature = 1;
            step.law.low = a.run.clamp_noise ? a.law.low : -__builtin_inff();
            step.law.high = a.run.clamp_noise ? a.law.high : __builtin_inff();
            langevin_step(step);
        }
        float energies[width];
        rows_to_panel(x, chains, d, width, desk.in.get());
        {
            const FlushTiny flush;
            evaluate<vectors>(a, layers, desk, energies);
        }
        panel_to_rows(desk.in.get(), chains, d, width, desk.rows.get());
        for (int64_t c = 0; a.diverged && c < chains; ++c)
            if (!(energies[c] - energies[c] == 0) && static_cast<int64_t>(step.draw.step) < a.diverged[first + c])
                a.diverged[first + c] = static_cast<int64_t>(step.draw.step);
        step.law = a.law;
        step.law.step_size = a.run.step_size[k], step.law.noise_std = a.run.noise_before ? 0 : noise_std;
        step.law.inverse_temperature = a.run.inverse_temperature[k];
        step.grad = desk.rows.get(), step.grad_type = GradType::float32;
        step.diverged = a.diverged ? a.diverged + first : nullptr;
        langevin_step(step);
    }
}

}  // namespace

void mlp_chains(const MlpArgs& a) {
    if (a.n == 0 || a.run.count == 0) return;
    const std::vector<Packed> layers = packed(a);
    const int64_t all = (a.n + lanes - 1) / lanes;
    for_each(a.threads, a.threads, [&](int64_t thread) {
        const int64_t begin = all * thread / a.threads * lanes, end = all * (thread + 1) / a.threads * lanes;
        if (begin == end) return;
        Desk desk(a, most_vectors * lanes);
        for (int64_t first = begin; first < end;) {
            const int64_t left = (end - first) / lanes, vectors = left == 4 ? 2 : left < most_vectors ? left : most_vectors;
            const int64_t width = vectors * lanes, chains = a.n - first < width ? a.n - first : width;
            const auto run = vectors == 1 ? run_chains<1> : vectors == 2 ? run_chains<2> : run_chains<3>;
            run(a, layers, desk, first, chains);
            first += width;
        }
    });
}

void activation(Activation kind, float parameter, int64_t count, float* values, float* slopes) {
    alignas(64) float value[lanes], slope[lanes];
    for (int64_t i = 0; i < count; i += lanes) {
        const int64_t left = count - i < lanes ? count - i : lanes;
        for (int64_t k = 0; k < lanes; ++k) value[k] = k < left ? values[i + k] : 0;
        activate(kind, parameter, lanes, value, slope);
        for (int64_t k = 0; k < left; ++k) values[i + k] = value[k], slopes[i + k] = slope[k];
    }
}

}  // namespace hatebm::HATEBM_ISA
