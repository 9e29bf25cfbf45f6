// A state of a group of chains and what is seen there, where a run looks at more than one.
#pragma once

#include "cpu/group.h"
#include "cpu/lane_sums.h"
#include "formulas/energies.h"

namespace hatebm {
namespace {

// As many chains as a group of these runs has, one a lane.
using V = Wide;
constexpr int width = width_of<V>;

struct alignas(64) Lanes {
    float of[width] = {};
    float& operator[](int lane) { return of[lane]; }
    float operator[](int lane) const { return of[lane]; }
    V all() const { return get<V>(of); }
    void operator=(V v) { put(of, v); }
};

// A state of a group, and what was seen there.
struct Spot {
    float *x, *gradient;
    Lanes energy;
    Lanes doubt;  // 0 where the gradient is finite
};

// Looks at x: doubt and gradient, and energies where they are asked for.
using Seeing = void (*)(const Formula&, Group<V>&, Spot&, bool energies);

template <class Energy>
void look_at(const Formula& formula, Group<V>& group, Spot& spot, bool energies) {
    const Energy energy(formula);
    const auto seen = energy.look(Column<V>{spot.x}, group.d, group.column(), Alone());
    V doubt(0.0f);
    for_quads(group.d, [&](auto quad, int64_t e) {
        constexpr int count = decltype(quad)::value;
        V x[count], g[count];
        get_quad<count>(&spot.x[e * width], x);
        energy.template gradient<count>(seen, group.column(), e, x, g);
        for (int k = 0; k < count; ++k) {
            put(&spot.gradient[(e + k) * width], g[k]);
            doubt = fma(g[k], V(0.0f), doubt);
            if (energies) put(&group.terms[(e + k) * width], energy.term(seen, e + k, x[k], g[k]));
        }
    });
    spot.doubt = doubt;
    if (!energies) return;
    double sums[width];
    sums_of_chains<width>(group.d, group.terms.get(), sums);
    for (int lane = 0; lane < width; ++lane) spot.energy[lane] = static_cast<float>(energy.total(sums[lane]));
}

inline Seeing look_of(Kind kind) {
    switch (kind) {
        case Kind::diagonal: return look_at<Diagonal>;
        case Kind::full: return look_at<Full>;
        case Kind::mixture: return look_at<Mixture>;
        case Kind::double_well: return look_at<DoubleWell>;
        default: return look_at<Funnel>;
    }
}

}  // namespace
}  // namespace hatebm
