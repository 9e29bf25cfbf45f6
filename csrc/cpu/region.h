// Where chains that lie one a lane may move: what a mask holds stays, and walls that reflect fold a move back.
#pragma once

#include "cpu/buffer.h"
#include "cpu/lane_sums.h"
#include "formulas/walls.h"

namespace hatebm {
namespace {

// The same with an open box where walls reflect: no clamp stops a move before it is folded.
template <class Args>
Args opened(Args a) {
    if (a.reflect) a.law.low = -__builtin_inff(), a.law.high = __builtin_inff();
    return a;
}

__attribute__((noinline)) inline Float each_folded(const Chains& a, Float x) {
    float of_lanes[lanes];
    store(of_lanes, x);
    for (float& v : of_lanes) v = folded(v, a.law.low, a.law.high, a.width);
    return float_at(of_lanes);
}

// `folded` of each lane, by choices between vectors where every move ends less than two widths from `low`.
HATEBM_HD Float folded_back(const Chains& a, Float x) {
    const Float low(a.law.low), high(a.law.high), width(a.width), both(2 * a.width);
    const bool low_open = __builtin_isinf(a.law.low), high_open = __builtin_isinf(a.law.high);
    Float back;
    if (low_open || high_open) {
        back = Float(2 * (low_open ? a.law.high : a.law.low)) - x;
    } else {
        const Float way = x - low, ahead = where_greater(Float(0.0f), way, way + both, way);
        if (!all_zero(where_greater(both, abs_of(way), Float(0.0f), Float(1.0f)))) return each_folded(a, x);
        back = clamp(low + where_greater(ahead, width, both - ahead, ahead), low, high);
    }
    return where_greater(low, x, back, where_greater(x, high, back, x));
}

template <int64_t width>
struct Region {
    const Chains& a;  // with the walls
    const int64_t d;
    Buffer<float> free;  // 1 where a state may move, 0 where it is held; null without a mask

    Region(const Chains& a, int64_t first, int64_t count, int64_t d) : a(a), d(d) {
        if (!a.mask) return;
        free = buffer<float>(width * d);
        for (int64_t lane = 0; lane < width; ++lane) {
            const bool* mask = a.mask + (first + (lane < count ? lane : count - 1)) * d;
            for (int64_t e = 0; e < d; ++e) free[e * width + lane] = mask[e] ? 1.0f : 0.0f;
        }
    }

    bool confines() const { return a.mask || a.reflect; }

    // A gradient with 0 where the state is held.
    void hide(float* gradient) const {
        for (int64_t i = 0; free && i < width * d; i += lanes)
            store(gradient + i, unless_held(i, float_at(gradient + i), Float(0.0f)));
    }

    // Where a move from `before` to x ends, with or without walls.
    template <class Laws>
    __attribute__((noinline)) void confine(const Laws& laws, bool walls, const float* before, float* x) const {
        for (int64_t i = 0; i < width * d; i += lanes) {
            const Float old = float_at(before + i);
            Float moved = float_at(x + i);
            if (walls && a.reflect) moved = folded_back(a, moved);
            if (free) moved = unless_held(i, moved, old);
            store(x + i, laws.unless_resting(i % width, old, moved));
        }
    }

private:
    HATEBM_HD Float unless_held(int64_t i, Float moved, Float held) const {
        return where_greater(float_at(&free[i]), Float(0.0f), moved, held);
    }
};

}  // namespace
}  // namespace hatebm
