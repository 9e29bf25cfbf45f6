// A group of chains, one a lane: where their states lie, and how they are read, written and summed.
#pragma once

#include <type_traits>

#include "cpu/buffer.h"
#include "cpu/lanes.h"
#include "cpu/normal.h"
#include "cpu/parallel.h"
#include "formulas/energies.h"

namespace hatebm {
namespace {

// A few chains, one a lane; the lanes beyond `count` repeat the last one.
template <class V>
struct Group {
    static constexpr int width = width_of<V>;
    int64_t first, count, d;
    Buffer<float> state, gradient, scratch, terms;

    Group(const Formula& f, int64_t first, int64_t count)
        : first(first), count(count), d(f.d), state(buffer<float>(width * d)), gradient(buffer<float>(width * d)),
          scratch(buffer<float>(width * (d > f.components ? d : f.components))), terms(buffer<float>(width * d)) {}

    Column<V> elements() const { return {state.get()}; }
    Column<V> column() const { return {scratch.get()}; }
    int64_t chain(int lane) const { return first + (lane < count ? lane : count - 1); }
    void read(const float* x) {
        for (int lane = 0; lane < width; ++lane)
            for (int64_t e = 0; e < d; ++e) state[e * width + lane] = x[chain(lane) * d + e];
    }
    void write(const float* from, float* x) const {
        for (int lane = 0; lane < count; ++lane)
            for (int64_t e = 0; e < d; ++e) x[(first + lane) * d + e] = from[e * width + lane];
    }
};

// Calls body<count>(e) for each four elements, the last of which may be fewer.
template <class Body>
HATEBM_HD void for_quads(int64_t d, Body body) {
    int64_t e = 0;
    for (; e + 4 <= d; e += 4) body(std::integral_constant<int, 4>(), e);
    switch (d - e) {
        case 1: return body(std::integral_constant<int, 1>(), e);
        case 2: return body(std::integral_constant<int, 2>(), e);
        case 3: return body(std::integral_constant<int, 3>(), e);
    }
}

template <int count, class V>
HATEBM_HD void get_quad(const float* p, V* x) {
    HATEBM_UNROLL(4)
    for (int k = 0; k < count; ++k) x[k] = get<V>(p + k * width_of<V>);
}

// body(group size, first chain, chains) for all chains: groups of two registers where there are chains enough.
template <class Body>
void for_groups(int64_t n, int threads, Body body) {
    constexpr int wide = width_of<Wide>;
    const int64_t paired = n > static_cast<int64_t>(lanes) * threads ? n / wide + (n % wide > lanes) : 0;
    const int64_t left = n - paired * wide > 0 ? (n - paired * wide + lanes - 1) / lanes : 0;
    for_each(paired + left, threads, [&](int64_t g) {
        const int64_t first = g < paired ? g * wide : paired * wide + (g - paired) * lanes;
        const int64_t most = g < paired ? wide : lanes, count = first + most <= n ? most : n - first;
        if (g < paired) body(Wide(), first, count);
        else body(Float(), first, count);
    });
}

}  // namespace
}  // namespace hatebm
