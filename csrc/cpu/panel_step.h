// The Langevin step of the chains of a panel, to the bits of the step of their rows.
#pragma once

#include "cpu/cpu.h"
#include "cpu/lane_sums.h"
#include "cpu/laws.h"
#include "cpu/normal.h"
#include "cpu/panels.h"

namespace hatebm {
namespace {

// The normals of a quad of elements of a vector of chains: a row of `stride` floats for each element.
template <class Words, class Vectors>
[[gnu::noinline]] void quad_of_panel(const RoundKeys& keys, uint32_t quad, Words chain, uint32_t step, Words last,
                                     int64_t stride, float* out) {
    Vectors n[4];
    quad_of_normals(Words(quad), chain, Words(step), last, keys, n[0], n[1], n[2], n[3]);
    for (int k = 0; k < 4; ++k) {
        if constexpr (sizeof(Vectors) == sizeof(Float)) store(out + k * stride, n[k]);
        else store(out + k * stride, n[k].a), store(out + k * stride + lanes, n[k].b);
    }
}

template <int vectors>
struct PanelStep {
    static constexpr int64_t width = vectors * lanes;
    const int64_t d, chains;  // at most `width`
    const float* free;        // where the state may move, see Region
    const RoundKeys keys;
    uint64_t id[width] = {};
    alignas(64) uint32_t chain[width], last[width];
    alignas(64) float eps[4 * width];

    PanelStep(int64_t d, const Draw& draw, const int64_t* ids, int64_t first, int64_t chains, const float* free)
        : d(d), chains(chains), free(free), keys(round_keys(draw.seed)) {
        for (int64_t c = 0; c < width; ++c) {
            id[c] = c < chains ? chain_id(ids, first + c) : 0;
            chain[c] = static_cast<uint32_t>(id[c]);
        }
    }

    // x and the gradient are panels of padded(d) rows, the gradient's last ones 0. Adds 0 * gradient to `doubt`.
    void take(const Alike& laws, bool noise_first, const Draw& draw, const float* gradient, float* x,
              Float (&doubt)[vectors]) {
        Law law = noise_first ? silent(laws.law) : laws.law;
        const bool plain = law.noise_std != 0 && law.add == Add::sequential && law.clip == Clip::none &&
                           law.prior_precision == 0 && law.inverse_temperature == 1;
        const auto same = [&](int64_t) -> const Law& { return law; };
        if (!plain) return move(laws, same, law.noise_std != 0, draw, gradient, x, doubt);
        law.add = Add::sequential, law.clip = Clip::none, law.prior_precision = 0, law.inverse_temperature = 1;
        if (law.noise_std == 0) __builtin_unreachable();
        move(laws, same, true, draw, gradient, x, doubt);
    }

    void take(const Apart<width>& laws, bool noise_first, const Draw& draw, const float* gradient, float* x,
              Float (&doubt)[vectors]) {
        const auto own = [&](int64_t lane) {
            const LawOf<Float> law = laws.template of<Float>(lane);
            return noise_first ? silent(law) : law;
        };
        move(laws, own, laws.any_noise() && !noise_first, draw, gradient, x, doubt);
    }

    // The step without a gradient.
    template <class Laws>
    void add_noise(const Laws& laws, bool clamped, const Draw& draw, float* x) {
        prepare(draw);
        const bool noisy = laws.any_noise();
        for (int64_t e = 0; e < d; e += 4) {
            if (noisy) draw_quad(draw, e);
            for (int64_t i = 0; i < 4 * width; i += lanes) {
                const auto law = kick_of(laws.template of<Float>(i % width), clamped);
                const Float state = float_at(x + e * width + i);
                store(x + e * width + i, laws.unless_resting(i % width, state, noise_element(law, state, float_at(eps + i))));
            }
        }
    }

private:
    void prepare(const Draw& draw) {
        for (int64_t c = 0; c < width; ++c) last[c] = last_counter(draw, id[c]);
    }

    void draw_quad(const Draw& draw, int64_t e) {
        const auto quad = static_cast<uint32_t>(e / 4), step = static_cast<uint32_t>(draw.step);
        const auto pair = [](const uint32_t* p) { return both(load_words(p), load_words(p + lanes)); };
        int64_t i = 0;
        for (; i + 2 * lanes <= width; i += 2 * lanes)
            quad_of_panel<Twice<Word>, Twice<Float>>(keys, quad, pair(chain + i), step, pair(last + i), width, eps + i);
        if (i < width) quad_of_panel<Word, Float>(keys, quad, load_words(chain + i), step, load_words(last + i), width, eps + i);
    }

    template <class Laws, class LawOfLane>
    HATEBM_HD void move(const Laws& laws, LawOfLane law_of, bool noisy, const Draw& draw, const float* gradient, float* x,
                        Float (&doubt)[vectors]) {
        alignas(64) float factors[width] = {};
        if (laws.a.law.clip == Clip::norm) clip_factors(laws, gradient, x, factors);
        prepare(draw);
        for (int64_t e = 0; e < d; e += 4) {
            if (noisy) draw_quad(draw, e);
            HATEBM_UNROLL(4)
            for (int k = 0; k < 4; ++k)
                HATEBM_UNROLL(8)
                for (int v = 0; v < vectors; ++v) {
                    float* place = x + (e + k) * width + v * lanes;
                    const auto& law = law_of(v * lanes);
                    const Float g = float_at(gradient + (e + k) * width + v * lanes), state = float_at(place);
                    const Float noise = float_at(eps + k * width + v * lanes), factor = float_at(factors + v * lanes);
                    doubt[v] = fma(g, Float(0.0f), doubt[v]);
                    const Float moved = step_element(law, state, total_gradient(law, state, g), noise, factor);
                    store(place, laws.unless_resting(v * lanes, state, moved));
                }
        }
    }

    // What the norm clip multiplies each chain's gradient with.
    template <class Laws>
    void clip_factors(const Laws& laws, const float* gradient, const float* x, float* factors) const {
        gradient_norms<width>(laws, true, d, x, gradient, free, factors);
        for (int64_t c = 0; c < width; ++c) factors[c] = clip_factor(laws.of_lane(c), factors[c]);
    }
};

}  // namespace
}  // namespace hatebm
