// The noise contract: Philox4x32-10 words and the normals made of them, one formula for scalars, SIMD vectors and GPUs.
// Philox: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011), section 3.3.
#pragma once

#include "formulas/twice.h"

namespace hatebm {

// Where a draw stands: everything of the counter but the index of the quad of elements within its chain.
struct Draw {
    uint64_t seed;
    uint64_t step;     // < 2^40
    uint32_t block;    // < 256
    uint32_t purpose;  // < 256
};

namespace {

struct RoundKeys {
    uint32_t first[10], second[10];
};

HATEBM_HD RoundKeys round_keys(uint64_t seed) {
    RoundKeys keys;
    auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        keys.first[round] = k0 + round * 0x9E3779B9u;
        keys.second[round] = k1 + round * 0xBB67AE85u;
    }
    return keys;
}

// A counter between two rounds. Words may differ in kind: what a vector of counters shares is a number.
template <class A, class B, class C, class D>
struct Counter {
    A c0;
    B c1;
    C c2;
    D c3;
};
template <class A, class B, class C, class D>
Counter(A, B, C, D) -> Counter<A, B, C, D>;

template <class A, class B, class C, class D>
HATEBM_HD auto philox_round(const Counter<A, B, C, D>& c, const RoundKeys& keys, int round) {
    const auto p0 = multiply(c.c0, 0xD2511F53u);
    const auto p1 = multiply(c.c2, 0xCD9E8D57u);
    return Counter{xor3(high(p1), c.c1, keys.first[round]), low(p1), xor3(high(p0), c.c3, keys.second[round]), low(p0)};
}

// A counter whose words are all of one kind.
template <class Word>
using CounterOf = Counter<Word, Word, Word, Word>;

template <int first, int end, class Word>
HATEBM_HD void philox_rounds(CounterOf<Word>& c, const RoundKeys& keys) {
    HATEBM_UNROLL(10)
    for (int round = first; round < end; ++round) c = philox_round(c, keys, round);
}

// The last round, its words as integers: the high half of a product goes straight to its place.
template <class Word>
HATEBM_HD auto last_round(const CounterOf<Word>& c, const RoundKeys& keys) {
    const auto p0 = multiply(c.c0, 0xD2511F53u);
    const auto p1 = multiply(c.c2, 0xCD9E8D57u);
    return Counter{xor3(high_to_int(p1), to_int(c.c1), keys.first[9]), to_int(low(p1)),
                   xor3(high_to_int(p0), to_int(c.c3), keys.second[9]), to_int(low(p0))};
}

template <class Word>
HATEBM_HD void philox(Word& c0, Word& c1, Word& c2, Word& c3, const RoundKeys& keys) {
    CounterOf<Word> c{c0, c1, c2, c3};
    philox_rounds<0, 10>(c, keys);
    c0 = c.c0, c1 = c.c1, c2 = c.c2, c3 = c.c3;
}

HATEBM_HD uint32_t last_counter(const Draw& draw, uint64_t chain) {
    return draw.block | draw.purpose << 8 | static_cast<uint32_t>(chain >> 32 & 0xFF) << 16 |
           static_cast<uint32_t>(draw.step >> 32 & 0xFF) << 24;
}

// -2 ln(1 + t) / t on [-1/3, 1/3].
template <class Float>
HATEBM_HD Float log_series(Float t) {
    Float p = Float(0.3154946267604828f);
    p = fma(p, t, Float(-0.34222617745399475f));
    p = fma(p, t, Float(0.3268110454082489f));
    p = fma(p, t, Float(-0.39590030908584595f));
    p = fma(p, t, Float(0.5002408027648926f));
    p = fma(p, t, Float(-0.6667597889900208f));
    p = fma(p, t, Float(0.9999975562095642f));
    return fma(p, t, Float(-1.9999996423721313f));
}

// -2 ln u of u = v 2^-31 in (0, 1], v from the upper 31 bits of `even`: an exponent e and 1 + t in [2/3, 4/3)
// with u = 2^e (1 + t), then a polynomial. The scale 2^-31 is exact and goes into e and into the fma that makes t.
template <class Float, class Int>
HATEBM_HD Float minus_2_ln(Int even) {
    Int bits = bits_of(to_float(shift_right_logical(even, 1)) + Float(0.5f));
    Int above = bits - Int(0x3F2AAAAB + (31 << 23));  // e in the upper 9 bits
    Float t = fma(float_of_bits(bits - (above & Int(-0x800000))), Float(0x1p-31f), Float(-1.0f));
    return fma(to_float(shift_right(above, 23)), Float(-1.3862943649291992f), t * log_series(t));
}

template <class Float, class Int>
HATEBM_HD void box_muller(Int even, Int odd, Float& first, Float& second) {
    Float r = sqrt_rn(minus_2_ln<Float, Int>(even));
    Float a = to_float(odd) * Float(0x1p-31f);
    Float s = a * a;
    Float cosine = Float(0.000858191167935729f);
    cosine = fma(cosine, s, Float(-0.020810628309845924f));
    cosine = fma(cosine, s, Float(0.2536507546901703f));
    cosine = fma(cosine, s, Float(-1.2336982488632202f));
    cosine = fma(cosine, s, Float(0.9999999403953552f));
    Float sine = Float(0.0001516786142019555f);
    sine = fma(sine, s, Float(-0.004674157593399286f));
    sine = fma(sine, s, Float(0.07968992739915848f));
    sine = fma(sine, s, Float(-0.6459637880325317f));
    sine = fma(sine, s, Float(1.5707963705062866f));
    first = float_of_bits(bits_of(r * cosine) ^ shift_left(even, 31));
    second = r * (a * sine);
}

// Four normals a lane of the words of a quad: element 4q + k of quad q in nk.
template <class Int, class Float>
HATEBM_HD void normals_of_words(Int w0, Int w1, Int w2, Int w3, Float& n0, Float& n1, Float& n2, Float& n3) {
    Twice<Float> first, second;
    box_muller(both(w0, w2), both(w1, w3), first, second);
    n0 = first.a, n1 = second.a, n2 = first.b, n3 = second.b;
}

template <class Word, class Float>
HATEBM_HD void quad_of_normals(Word c0, Word c1, Word c2, Word c3, const RoundKeys& keys, Float& n0, Float& n1, Float& n2,
                               Float& n3) {
    CounterOf<Word> c{c0, c1, c2, c3};
    philox_rounds<0, 9>(c, keys);
    const auto w = last_round(c, keys);
    normals_of_words(w.c0, w.c1, w.c2, w.c3, n0, n1, n2, n3);
}

}  // namespace
}  // namespace hatebm
