// Langevin chains in the energy of a multilayer perceptron on the CPU: every step of a few chains before the next few.
#include "cpu/mlp.h"

#include <vector>

#include "cpu/activation.h"
#include "cpu/laws.h"
#include "cpu/panel_step.h"
#include "cpu/parallel.h"
#include "cpu/region.h"
#include "cpu/telling.h"

namespace hatebm::HATEBM_ISA {
namespace {

// A hidden layer as the products read it.
struct Hidden {
    int64_t inputs, outputs;
    Activate activate;
    float parameter;
    float *bias, *forward, *backward;
};

struct Network {
    std::vector<Hidden> hidden;
    MlpLayer last;
    int64_t widest = 0;  // hidden layer

    Network(const MlpLayer* layers, int depth, int threads) : last(layers[depth - 1]) {
        int64_t size = 0;
        for (int l = 0; l + 1 < depth; ++l) {
            const int64_t inputs = layers[l].inputs, outputs = layers[l].outputs;
            size += padded(outputs) * (1 + inputs) + padded(inputs) * outputs;
        }
        float* room = kept_floats<Network>(size);
        for (int l = 0; l + 1 < depth; ++l) {
            const auto& [weight, bias, inputs, outputs, kind, parameter] = layers[l];
            float *forward = room + padded(outputs), *backward = forward + padded(outputs) * inputs;
            hidden.push_back({inputs, outputs, activate_of(kind), parameter, room, forward, backward});
            for (int64_t o = 0; o < padded(outputs); ++o) room[o] = bias && o < outputs ? bias[o] : 0.0f;
            widest = widest < outputs ? outputs : widest;
            room = backward + padded(inputs) * outputs;
        }
        for_each(2 * (depth - 1), threads, [&](int64_t half) {
            const MlpLayer& layer = layers[half / 2];
            Hidden& to = hidden[half / 2];
            if (half % 2 == 0) pack<false>(layer.weight, layer.outputs, layer.inputs, to.forward);
            else pack<true>(layer.weight, layer.inputs, layer.outputs, to.backward);
        });
    }
};

// Room for the work on `width` chains.
struct Desk {
    float *x, *gradient, *before;  // the state, the gradient there, and the state before a step
    float *even, *odd;             // what the layers put out, in turns
    std::vector<float*> slopes;    // of each hidden layer; on the way back, the gradient there

    Desk(const Network& net, int64_t width) {
        const int64_t d = padded(net.hidden[0].inputs) * width, most = padded(net.widest) * width;
        float* room = kept_floats<Desk>(3 * d + (2 + net.hidden.size()) * most);
        x = room, gradient = x + d, before = gradient + d, even = before + d, odd = even + most;
        for (size_t l = 0; l < net.hidden.size(); ++l) slopes.push_back(odd + (1 + l) * most);
    }
};

template <int rows, int vectors>
HATEBM_HD void put(const Float (&sums)[rows][vectors], float* out) {
    HATEBM_UNROLL(24)
    for (int o = 0; o < rows; ++o)
        HATEBM_UNROLL(8)
        for (int v = 0; v < vectors; ++v) store(out + (o * vectors + v) * lanes, sums[o][v]);
}

template <int rows, int vectors>
HATEBM_HD void times(const Float (&sums)[rows][vectors], float* out) {
    HATEBM_UNROLL(24)
    for (int o = 0; o < rows; ++o)
        HATEBM_UNROLL(8)
        for (int v = 0; v < vectors; ++v) {
            Float given;
            load(out + (o * vectors + v) * lanes, given);
            store(out + (o * vectors + v) * lanes, sums[o][v] * given);
        }
}

// The energies and the gradient at the state on the desk.
template <int vectors>
[[gnu::noinline]] void evaluate(const Network& net, Desk& desk, Float (&energies)[vectors]) {
    constexpr int64_t width = vectors * lanes;
    const FlushTiny flush;
    const float* in = desk.x;
    for (size_t l = 0; l < net.hidden.size(); ++l) {
        const Hidden& layer = net.hidden[l];
        float *out = l % 2 == 0 ? desk.even : desk.odd, *slopes = desk.slopes[l];
        multiply_panel<vectors>(layer.forward, layer.bias, layer.outputs, layer.inputs, in,
                                [&](int64_t o, auto& sums) {
                                    put(sums, out + o * width);
                                    layer.activate(layer.parameter, sizeof(sums) / sizeof(float), out + o * width,
                                                   slopes + o * width);
                                });
        in = out;
    }
    float* above = desk.slopes.back();
    for (int v = 0; v < vectors; ++v) energies[v] = Float(net.last.bias ? *net.last.bias : 0.0f);
    for (int64_t k = 0; k < net.last.inputs; ++k) {
        const Float weight(net.last.weight[k]);
        for (int v = 0; v < vectors; ++v) {
            const int64_t i = k * width + v * lanes;
            Float value, slope;
            load(in + i, value), load(above + i, slope);
            energies[v] = fma(weight, value, energies[v]);
            store(above + i, weight * slope);
        }
    }
    for (size_t l = net.hidden.size() - 1; l > 0; --l) {
        const Hidden& layer = net.hidden[l];
        float* below = desk.slopes[l - 1];
        multiply_panel<vectors>(layer.backward, nullptr, layer.inputs, layer.outputs, above,
                                [&](int64_t o, auto& sums) { times(sums, below + o * width); });
        above = below;
    }
    const Hidden& first = net.hidden[0];
    multiply_panel<vectors>(first.backward, nullptr, first.inputs, first.outputs, above,
                            [&](int64_t o, auto& sums) { put(sums, desk.gradient + o * width); });
}

// All steps of the chains of a panel, from chain `first` on.
template <int vectors, class Laws>
void run_panel(const MlpArgs& given, const Network& net, Desk& desk, int64_t first, int64_t chains) {
    constexpr int64_t width = vectors * lanes;
    const int64_t d = net.hidden[0].inputs;
    const MlpArgs a = opened(given);
    const Region<width> region(given, first, chains, d);
    rows_to_panel(a.x + first * d, chains, d, width, desk.x);
    for (int64_t i = d * width; i < padded(d) * width; ++i) desk.x[i] = 0;
    PanelStep<vectors> step(d, a.draw, a.chain_ids, first, chains, region.free.get());
    Laws laws(a, first, chains);
    Telling<width> telling(a, first, chains, d);
    for (int64_t k = 0; k < a.n_steps; ++k) {
        laws.read(k);
        const bool told = k == telling.next, moves = !laws.all_rest();
        if (!told && !moves) continue;
        if (told || region.confines()) __builtin_memcpy(desk.before, desk.x, d * width * sizeof(float));
        Draw draw = a.draw;
        draw.step += k;
        if (moves && a.noise_first && (laws.any_noise() || a.clamp_noise)) {
            step.add_noise(laws, a.clamp_noise, draw, desk.x);
            if (region.confines()) region.confine(laws, a.clamp_noise, desk.before, desk.x);
        }
        Float doubt[vectors];  // stays 0 while all is finite
        evaluate(net, desk, doubt);
        region.hide(desk.gradient);
        if (told) {
            alignas(64) float energies[width];
            for (int v = 0; v < vectors; ++v) store(energies + v * lanes, doubt[v]);
            telling.of_gradient(laws, energies, desk.x, desk.gradient, region.free.get());
        }
        for (Float& v : doubt) v = v * Float(0.0f);
        if (moves) step.take(laws, a.noise_first, draw, desk.gradient, desk.x, doubt);
        if (moves && region.confines()) region.confine(laws, true, desk.before, desk.x);
        if (told) telling.of_move(laws, desk.before, desk.x);
        for (int v = 0; moves && a.first_bad && v < vectors; ++v) {
            if (all_zero(doubt[v])) continue;
            float doubts[lanes];
            store(doubts, doubt[v]);
            for (int64_t c = 0; c < lanes && v * lanes + c < chains; ++c) {
                int64_t& bad = a.first_bad[first + v * lanes + c];
                const bool seen = doubts[c] != 0 && !laws.rests(v * lanes + c);
                if (seen && static_cast<int64_t>(draw.step) < bad) bad = static_cast<int64_t>(draw.step);
            }
        }
    }
    panel_to_rows(desk.x, chains, d, width, a.x + first * d);
}

template <int vectors>
void look_at_panel(const MlpLookArgs& a, const Network& net, Desk& desk, int64_t first, int64_t chains) {
    constexpr int64_t width = vectors * lanes;
    const int64_t d = net.hidden[0].inputs;
    rows_to_panel(a.x + first * d, chains, d, width, desk.x);
    Float energies[vectors];
    evaluate(net, desk, energies);
    alignas(64) float by_lane[width];
    for (int v = 0; v < vectors; ++v) store(by_lane + v * lanes, energies[v]);
    __builtin_memcpy(a.energies + first, by_lane, chains * sizeof(float));
    panel_to_rows(desk.gradient, chains, d, width, a.gradients + first * d);
}

// No more threads than vectors of chains: the others would only be waited for.
int threads_for(int64_t n, int threads) {
    const int64_t all = (n + lanes - 1) / lanes;
    return all < threads ? static_cast<int>(all) : threads;
}

// body(vectors, desk, first chain, chains) for panels of all chains.
template <class Body>
void for_panels(const Network& net, int64_t n, int threads, Body body) {
    const int64_t all = (n + lanes - 1) / lanes;
    for_each(threads, threads, [&](int64_t thread) {
        const int64_t begin = all * thread / threads * lanes, end = all * (thread + 1) / threads * lanes;
        Desk desk(net, most_vectors * lanes);
        for (int64_t first = begin; first < end;) {
            const int64_t left = (end - first) / lanes, vectors = left == 4 ? 2 : left < most_vectors ? left : most_vectors;
            const int64_t width = vectors * lanes, chains = n - first < width ? n - first : width;
            if (vectors == 1) body(Constant<1>(), desk, first, chains);
            if (vectors == 2) body(Constant<2>(), desk, first, chains);
            if (vectors == 3) body(Constant<3>(), desk, first, chains);
            first += width;
        }
    });
}

}  // namespace

void mlp_chains(const MlpArgs& a) {
    if (a.n == 0 || a.n_steps == 0) return;
    const int threads = threads_for(a.n, a.threads);
    const Network net(a.layers, a.depth, threads);
    for_panels(net, a.n, threads, [&](auto vectors, Desk& desk, int64_t first, int64_t chains) {
        if (a.numbers.chain == 0) run_panel<vectors(), Alike>(a, net, desk, first, chains);
        else run_panel<vectors(), Apart<vectors() * lanes>>(a, net, desk, first, chains);
    });
}

void mlp_look(const MlpLookArgs& a) {
    const int threads = threads_for(a.n, a.threads);
    const Network net(a.layers, a.depth, threads);
    for_panels(net, a.n, threads, [&](auto vectors, Desk& desk, int64_t first, int64_t chains) {
        look_at_panel<vectors()>(a, net, desk, first, chains);
    });
}

}  // namespace hatebm::HATEBM_ISA
