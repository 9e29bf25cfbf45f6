// The law at each step of a run of chains that lie one a lane: one of all chains, or one of each.
#pragma once

#include "cpu/lanes.h"
#include "formulas/whole.h"

namespace hatebm {
namespace {

// One of all chains.
struct Alike {
    const Chains& a;
    Law law;

    Alike(const Chains& a, int64_t, int64_t) : a(a), law(law_at(a.law, a.numbers, 0, 0)) {}
    void read(int64_t i) {
        if (a.numbers.step != 0) law = law_at(a.law, a.numbers, i, 0);
    }

    bool any_noise() const { return law.noise_std != 0; }
    bool all_noise() const { return law.noise_std != 0; }
    bool all_rest() const { return law.step_size == 0 && law.noise_std == 0; }
    bool rests(int64_t) const { return false; }  // while others move
    const Law& of_lane(int64_t) const { return law; }
    // The law of a vector of lanes, from `lane` on, and where one step takes their chains.
    template <class V>
    HATEBM_HD const Law& of(int64_t) const { return law; }
    template <class V>
    HATEBM_HD V unless_resting(int64_t, V, V moved) const { return moved; }
};

// One of each of `width` chains, from chain `first` on; the lanes beyond `count` repeat the last one.
template <int width>
struct Apart {
    const Chains& a;
    const int64_t first, count;
    bool fresh = true;
    alignas(64) float numbers[fields][width];

    Apart(const Chains& a, int64_t first, int64_t count) : a(a), first(first), count(count) {}
    void read(int64_t i) {
        if (!fresh && a.numbers.step == 0) return;
        fresh = false;
        const bool off[fields] = {false, a.law.noise_std == 0, false, a.law.prior_precision == 0, false};
        for (int f = 0; f < fields; ++f)
            for (int64_t lane = 0; lane < width; ++lane)
                numbers[f][lane] = off[f] ? 0 : a.numbers(f, i, first + (lane < count ? lane : count - 1));
    }

    bool any_noise() const {
        for (float number : numbers[1])
            if (number != 0) return true;
        return false;
    }
    bool all_noise() const {
        for (float number : numbers[1])
            if (number == 0) return false;
        return true;
    }
    bool all_rest() const {
        for (int64_t lane = 0; lane < width; ++lane)
            if (!rests(lane)) return false;
        return true;
    }
    bool rests(int64_t lane) const { return numbers[0][lane] == 0 && numbers[1][lane] == 0; }
    Law of_lane(int64_t lane) const {
        Law law = a.law;
        law.step_size = numbers[0][lane], law.noise_std = numbers[1][lane], law.inverse_temperature = numbers[2][lane];
        law.prior_precision = numbers[3][lane], law.bound = numbers[4][lane];
        return law;
    }
    template <class V>
    HATEBM_HD LawOf<V> of(int64_t lane) const {
        const auto number = [&](int f) { return get<V>(numbers[f] + lane); };
        return {number(0), number(1), number(2), number(3), a.law.add, a.law.clip, a.law.clip_on_update, number(4),
                a.law.low, a.law.high};
    }
    template <class V>
    HATEBM_HD V unless_resting(int64_t lane, V x, V moved) const {
        const V way = abs_of(get<V>(numbers[0] + lane)) + abs_of(get<V>(numbers[1] + lane));
        return where_greater(way, V(0.0f), moved, x);
    }
};

// The same law without noise.
template <class Number>
HATEBM_HD LawOf<Number> silent(LawOf<Number> law) {
    law.noise_std = Number(0.0f);
    return law;
}

// The box of the noise of a law that adds it first: open, unless it meets the walls too.
template <class Number>
HATEBM_HD LawOf<Number> kick_of(LawOf<Number> law, bool clamped) {
    if (!clamped) law.low = -__builtin_inff(), law.high = __builtin_inff();
    return law;
}

}  // namespace
}  // namespace hatebm
