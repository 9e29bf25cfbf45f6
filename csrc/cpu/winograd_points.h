// Minimal filtering along one side: what a tile of images and a filter are at the points, and a tile of outputs again.
#pragma once

#include "cpu/simd.h"
#include "cpu/winograd.h"

namespace hatebm {
namespace {

constexpr int panel = 2 * filter_channels;  // outputs whose weights lie side by side
constexpr int side = 4;                     // of a tile of outputs
constexpr int64_t inputs_at_once = 64;
constexpr int64_t apart = 16;  // floats that keep rows off the lines of a cache that powers of two share
constexpr int64_t v_row = inputs_at_once + apart, u_row = inputs_at_once * panel + apart;

// A tile is evaluated at the points 0, near, -near, far, -far where the filter has three taps a side, and infinity.
// With 1 and 2 in place of these two the error would be twice as large.
constexpr float near = 0.75f, far = 1.5f, near2 = near * near, far2 = far * far;
template <int taps>
constexpr int points = taps + side - 1;

// The values at the points of what a tile sees along one side.
HATEBM_HD void seen(const Float (&d)[6], Float (&t)[6]) {
    const Float even1 = fma(Float(-far2), d[2], d[4]), odd1 = Float(near) * fma(Float(-far2), d[1], d[3]);
    const Float even2 = fma(Float(-near2), d[2], d[4]), odd2 = Float(far) * fma(Float(-near2), d[1], d[3]);
    t[0] = fma(Float(near2 * far2), d[0], fma(Float(-near2 - far2), d[2], d[4]));
    t[1] = even1 + odd1, t[2] = even1 - odd1, t[3] = even2 + odd2, t[4] = even2 - odd2;
    t[5] = fma(Float(near2 * far2), d[1], fma(Float(-near2 - far2), d[3], d[5]));
}
HATEBM_HD void seen(const Float (&d)[5], Float (&t)[5]) {
    const Float third = fma(Float(-near2), d[1], d[3]);
    t[0] = fma(Float(near2 * far), d[0], fma(Float(-far), d[2], third));
    t[1] = fma(Float(-near * far), d[1], fma(Float(near - far), d[2], d[3]));
    t[2] = fma(Float(near * far), d[1], fma(Float(-near - far), d[2], d[3]));
    t[3] = third;
    t[4] = fma(Float(-far), third, fma(Float(-near2), d[2], d[4]));
}

// The outputs along one side from the products at the points.
HATEBM_HD void put_out(const Float (&m)[6], Float (&y)[side]) {
    const Float even1 = m[1] + m[2], odd1 = Float(near) * (m[1] - m[2]);
    const Float even2 = m[3] + m[4], odd2 = Float(far) * (m[3] - m[4]);
    y[0] = m[0] + even1 + even2, y[1] = odd1 + odd2;
    y[2] = fma(Float(far2), even2, Float(near2) * even1), y[3] = fma(Float(far2), odd2, fma(Float(near2), odd1, m[5]));
}
HATEBM_HD void put_out(const Float (&m)[5], Float (&y)[side]) {
    const Float even = m[1] + m[2], odd = Float(near) * (m[1] - m[2]), last = Float(far) * m[3];
    y[0] = m[0] + even + m[3], y[1] = odd + last;
    y[2] = fma(Float(far), last, Float(near2) * even), y[3] = fma(Float(far2), last, fma(Float(near2), odd, m[4]));
}

// What the taps along one side count in a filter's values at the points, which stand divided by what makes the products
// those of polynomials.
template <int taps>
struct Values;
template <>
struct Values<3> {
    static constexpr float whole = 1 / (near2 * far2), close = 1 / (2 * near2 * (near2 - far2)), wide = 1 / (2 * far2 * (far2 - near2));
    static constexpr float of_taps[6][3] = {{whole, 0, 0}, {close, close * near, close * near2}, {close, -close * near, close * near2},
                                            {wide, wide * far, wide * far2}, {wide, -wide * far, wide * far2}, {0, 0, 1}};
};
template <>
struct Values<2> {
    static constexpr float plus = 1 / (2 * near2 * (near - far)), minus = -1 / (2 * near2 * (near + far));
    static constexpr float last = 1 / (far * (far2 - near2));
    static constexpr float of_taps[5][2] = {{1 / (near2 * far), 0}, {plus, plus * near}, {minus, -minus * near}, {last, last * far}, {0, 1}};
};

// The values at the points of one column, whose share in the taps along a row is `share`, of `size` filters.
template <int taps>
[[gnu::noinline]] void value_column(const float (&share)[taps], const float* weight, int64_t apart, int64_t size, float* u) {
    for (int64_t i = 0; i < size; i += lanes) {
        Float g[taps], tap;
        HATEBM_UNROLL(3)
        for (int r = 0; r < taps; ++r) {
            load(weight + r * taps * apart + i, tap);
            g[r] = Float(share[0]) * tap;
            HATEBM_UNROLL(2)
            for (int c = 1; c < taps; ++c) {
                load(weight + (r * taps + c) * apart + i, tap);
                g[r] = fma(Float(share[c]), tap, g[r]);
            }
        }
        HATEBM_UNROLL(6)
        for (int p = 0; p < points<taps>; ++p) {
            Float value = Float(Values<taps>::of_taps[p][0]) * g[0];
            HATEBM_UNROLL(2)
            for (int r = 1; r < taps; ++r) value = fma(Float(Values<taps>::of_taps[p][r]), g[r], value);
            store(u + p * u_row + i, value);
        }
    }
}

}  // namespace
}  // namespace hatebm
