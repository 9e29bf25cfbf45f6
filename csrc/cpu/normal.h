// Rows of normals on the CPU.
#pragma once

#include <type_traits>

#include "cpu/cpu.h"
#include "cpu/lanes.h"

namespace hatebm {
namespace {

template <class Words>
HATEBM_HD Words xor3(uint32_t a, Words b, uint32_t c) {
    return b ^ Words(a ^ c);
}
template <class Words>
HATEBM_HD Words xor3(Words a, uint32_t b, uint32_t c) {
    return a ^ Words(b ^ c);
}

// The normals of elements 4 first_quad ... of one chain, in order.
HATEBM_HD Tile tile_of_normals(const Draw& draw, const RoundKeys& keys, uint64_t chain, uint32_t first_quad) {
    Tile t;
    quad_of_normals(quads_from(first_quad), Word(static_cast<uint32_t>(chain)), Word(static_cast<uint32_t>(draw.step)),
                    Word(last_counter(draw, chain)), keys, t.a.a, t.a.b, t.b.a, t.b.b);
    transpose(t.a.a, t.a.b, t.b.a, t.b.b);
    return t;
}

HATEBM_HD uint64_t chain_id(const int64_t* ids, int64_t i) { return static_cast<uint64_t>(ids ? ids[i] : i); }

// Two registers of chains where there is room for two, one chain a lane.
using Wide = std::conditional_t<Vector::two_tiles, Twice<Float>, Float>;

template <class V>
using WordsOf = std::conditional_t<width_of<V> == lanes, Word, Twice<Word>>;

template <class V>
HATEBM_HD WordsOf<V> get_words(const uint32_t* p) {
    if constexpr (width_of<V> == lanes) return load_words(p);
    else return both(load_words(p), load_words(p + lanes));
}

// The normals of one quad of a vector of chains whose counters agree in all else: the first three rounds work on numbers
// where they can. Of the last two normals nothing is made where nobody reads them.
template <class Words, class V>
HATEBM_HD void normals_of_chains(uint32_t quad, Words chain, uint32_t step, uint32_t last, const RoundKeys& keys, V* n) {
    const auto early = philox_round(philox_round(Counter{quad, chain, step, last}, keys, 0), keys, 1);
    const auto third = philox_round(early, keys, 2);
    CounterOf<Words> c{third.c0, third.c1, third.c2, Words(third.c3)};
    philox_rounds<3, 9>(c, keys);
    const auto w = last_round(c, keys);
    normals_of_words(w.c0, w.c1, w.c2, w.c3, n[0], n[1], n[2], n[3]);
}

// The counters of the quads of two tiles of one chain after three rounds, which work on numbers where they can.
HATEBM_HD CounterOf<Twice<Word>> counters_of_tiles(const Draw& draw, const RoundKeys& keys, uint64_t chain, uint32_t first_quad) {
    const auto quads = both(quads_from(first_quad), quads_from(first_quad + lanes));
    const Counter c{quads, static_cast<uint32_t>(chain), static_cast<uint32_t>(draw.step), last_counter(draw, chain)};
    return philox_round(philox_round(philox_round(c, keys, 0), keys, 1), keys, 2);
}

HATEBM_HD Tile normals_of_tile(Int w0, Int w1, Int w2, Int w3) {
    Tile t;
    normals_of_words(w0, w1, w2, w3, t.a.a, t.a.b, t.b.a, t.b.b);
    transpose(t.a.a, t.a.b, t.b.a, t.b.b);
    return t;
}

// Calls use(i, normals) for the tiles of a row from element 0 on, two by two, as long as there are two; returns where they
// end. Between the normals of two tiles stand the rounds of the next two: what depends on nothing near fills the time that
// a processor would wait.
template <class Use>
HATEBM_HD int64_t for_pairs_of_tiles(const Draw draw, const RoundKeys keys, uint64_t chain, int64_t first, int64_t count,
                                     Use use) {
    if (!Vector::two_tiles || count < 2 * tile) return 0;
    const auto counters = [&](int64_t i) __attribute__((always_inline)) {
        return counters_of_tiles(draw, keys, chain, static_cast<uint32_t>((first + i) / 4));
    };
    auto early = counters(0);
    philox_rounds<3, 9>(early, keys);
    auto words = last_round(early, keys);
    int64_t i = 0;
    for (; i + 4 * tile <= count; i += 2 * tile) {
        auto next = counters(i + 2 * tile);
        philox_rounds<3, 5>(next, keys);
        use(i, normals_of_tile(words.c0.a, words.c1.a, words.c2.a, words.c3.a));
        philox_rounds<5, 9>(next, keys);
        const auto last = last_round(next, keys);
        use(i + tile, normals_of_tile(words.c0.b, words.c1.b, words.c2.b, words.c3.b));
        words = last;
    }
    use(i, normals_of_tile(words.c0.a, words.c1.a, words.c2.a, words.c3.a));
    use(i + tile, normals_of_tile(words.c0.b, words.c1.b, words.c2.b, words.c3.b));
    return i + 2 * tile;
}

inline void row_of_normals(const Draw& draw, const RoundKeys& keys, uint64_t chain, int64_t first, int64_t count, float* out) {
    int64_t i = for_pairs_of_tiles(draw, keys, chain, first, count, [&](int64_t at, Tile t) __attribute__((always_inline)) {
        store(out + at, t);
    });
    for (; i < count; i += tile) {
        alignas(64) float last[tile];
        const bool whole = i + tile <= count;
        store(whole ? out + i : last, tile_of_normals(draw, keys, chain, static_cast<uint32_t>((first + i) / 4)));
        if (!whole) __builtin_memcpy(out + i, last, (count - i) * sizeof(float));
    }
}

// Whether chains of d elements are drawn packed: rows of their own would waste more tiles than the packing costs.
constexpr bool draws_packed(int64_t d) {
    const int64_t in_tiles = (d + tile - 1) / tile * tile;
    return d % tile != 0 && (d < tile || 5 * d < 3 * in_tiles);
}

// The lane that the i-th of the quads takes whose normals are to lie in order: transpose() works within 128 bits.
constexpr int lane_of(int i) {
    constexpr int groups = lanes < 4 ? 1 : lanes / 4;
    return i / lanes * lanes + i % lanes % groups * 4 + i % lanes / groups;
}

// The normals of quads of any chains, four after four; `quad`, `chain` and `last` by lane.
constexpr int quads_at_once = Vector::two_tiles ? 2 * lanes : lanes;
inline void normals_of_quads(const Draw& draw, const RoundKeys& keys, const uint32_t* quad, const uint32_t* chain,
                             const uint32_t* last, float* out) {
    const auto step = static_cast<uint32_t>(draw.step);
    if constexpr (Vector::two_tiles) {
        const auto pair = [](const uint32_t* p) { return both(load_words(p), load_words(p + lanes)); };
        Twice<Float> n0, n1, n2, n3;
        quad_of_normals(pair(quad), pair(chain), Twice<Word>(step), pair(last), keys, n0, n1, n2, n3);
        transpose(n0.a, n1.a, n2.a, n3.a);
        transpose(n0.b, n1.b, n2.b, n3.b);
        store(out, Tile({n0.a, n1.a}, {n2.a, n3.a}));
        store(out + tile, Tile({n0.b, n1.b}, {n2.b, n3.b}));
    } else {
        Tile t;
        quad_of_normals(load_words(quad), load_words(chain), Word(step), load_words(last), keys, t.a.a, t.a.b, t.b.a, t.b.b);
        transpose(t.a.a, t.a.b, t.b.a, t.b.b);
        store(out, t);
    }
}

// The normals of chains of d <= 4 elements, one chain a lane, as long as counters tell them apart by one word; returns how
// many chains these were.
template <int d>
int64_t lanes_of_normals(const Draw& draw, const RoundKeys& keys, const int64_t* ids, int64_t first_chain, int64_t count,
                         float* out) {
    constexpr int width = width_of<Wide>;
    alignas(64) uint32_t chain[width] = {};
    alignas(64) float normals[d * width];
    for (int64_t start = 0; start < count; start += width) {
        const int64_t drawn = count - start < width ? count - start : width;
        const uint64_t first = chain_id(ids, first_chain + start);
        for (int64_t c = 0; c < drawn; ++c) {
            const uint64_t id = chain_id(ids, first_chain + start + c);
            if (id >> 32 != first >> 32) return start;
            chain[c] = static_cast<uint32_t>(id);
        }
        Wide n[4];
        normals_of_chains(0u, get_words<Wide>(chain), static_cast<uint32_t>(draw.step), last_counter(draw, first), keys, n);
        for (int e = 0; e < d; ++e) put(normals + e * width, n[e]);
        for (int64_t c = 0; c < drawn; ++c)
            for (int e = 0; e < d; ++e) out[(start + c) * d + e] = normals[e * width + c];
    }
    return count;
}

// The normals of `count` whole chains of d > 0 elements: a vector takes quads of several chains. The last quad of a chain
// spills over into the next one, whose own first quad comes later.
inline void packed_normals(const Draw& draw, const RoundKeys& keys, const int64_t* ids, int64_t first_chain, int64_t count,
                           int64_t d, float* out) {
    alignas(64) uint32_t quads[quads_at_once] = {}, chains[quads_at_once] = {}, last[quads_at_once] = {};
    alignas(64) float normals[4 * quads_at_once];
    float *const end = out + count * d, *places[quads_at_once];
    const auto in_lanes = d == 1 ? lanes_of_normals<1> : d == 2 ? lanes_of_normals<2> : d == 3 ? lanes_of_normals<3>
                                                                                    : lanes_of_normals<4>;
    int64_t chain = d <= 4 ? in_lanes(draw, keys, ids, first_chain, count, out) : 0;
    int64_t first = 0;  // the element of the chain that is next
    while (chain < count) {
        int drawn = 0;
        while (drawn < quads_at_once && chain < count) {
            const uint64_t id = chain_id(ids, first_chain + chain);
            for (; drawn < quads_at_once && first < d; ++drawn, first += 4) {
                const int lane = lane_of(drawn);
                quads[lane] = static_cast<uint32_t>(first / 4);
                chains[lane] = static_cast<uint32_t>(id);
                last[lane] = last_counter(draw, id);
                places[drawn] = out + chain * d + first;
            }
            if (first >= d) first = 0, ++chain;
        }
        normals_of_quads(draw, keys, quads, chains, last, normals);
        for (int i = 0; i < drawn; ++i) {
            const int64_t left = end - places[i];
            if (left >= 4) __builtin_memcpy(places[i], normals + 4 * i, 4 * sizeof(float));
            else __builtin_memcpy(places[i], normals + 4 * i, left * sizeof(float));
        }
    }
}

}  // namespace
}  // namespace hatebm
