// Vectors that hold one chain a lane: one register, or two side by side.
#pragma once

#include "cpu/simd.h"

namespace hatebm {
namespace {

template <class V>
constexpr int width_of = sizeof(V) / sizeof(float);

template <class V>
HATEBM_HD V get(const float* p) {
    V v;
    if constexpr (width_of<V> == lanes)
        load(p, v);
    else
        load(p, v.a), load(p + lanes, v.b);
    return v;
}
HATEBM_HD void put(float* p, Float v) { store(p, v); }
HATEBM_HD void put(float* p, Twice<Float> v) { store(p, v.a), store(p + lanes, v.b); }

// The elements of the states of a vector of chains, a lane each.
template <class V>
struct Column {
    using Value = V;
    float* at;
    HATEBM_HD V operator[](int64_t e) const { return get<V>(at + e * width_of<V>); }
    HATEBM_HD void put(int64_t e, V v) const { hatebm::put(at + e * width_of<V>, v); }
};

HATEBM_HD bool none_set(Float v) { return all_zero(v); }
HATEBM_HD bool none_set(Twice<Float> v) { return all_zero(v.a + v.b); }

}  // namespace
}  // namespace hatebm
