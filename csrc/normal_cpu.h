// Rows of normals on the CPU.
#pragma once

#include "cpu.h"
#include "simd.h"

namespace hatebm {
namespace {

// The normals of elements 4 first_quad ... of one chain, in order.
HATEBM_HD Tile tile_of_normals(const Draw& draw, const RoundKeys& keys, uint64_t chain, uint32_t first_quad) {
    Tile t;
    quad_of_normals(quads_from(first_quad), Word(static_cast<uint32_t>(chain)), Word(static_cast<uint32_t>(draw.step)),
                    Word(last_counter(draw, chain)), keys, t.a.a, t.a.b, t.b.a, t.b.b);
    transpose(t.a.a, t.a.b, t.b.a, t.b.b);
    return t;
}

// The same for two tiles, side by side.
HATEBM_HD Twice<Tile> tiles_of_normals(const Draw& draw, const RoundKeys& keys, uint64_t chain, uint32_t first_quad) {
    using Words = Twice<Word>;
    Twice<Float> n0, n1, n2, n3;
    quad_of_normals(both(quads_from(first_quad), quads_from(first_quad + lanes)), Words(static_cast<uint32_t>(chain)),
                    Words(static_cast<uint32_t>(draw.step)), Words(last_counter(draw, chain)), keys, n0, n1, n2, n3);
    transpose(n0.a, n1.a, n2.a, n3.a);
    transpose(n0.b, n1.b, n2.b, n3.b);
    return {Tile({n0.a, n1.a}, {n2.a, n3.a}), Tile({n0.b, n1.b}, {n2.b, n3.b})};
}

HATEBM_HD uint64_t chain_id(const int64_t* ids, int64_t i) { return static_cast<uint64_t>(ids ? ids[i] : i); }

inline void row_of_normals(const Draw& draw, const RoundKeys& keys, uint64_t chain, int64_t first, int64_t count, float* out) {
    int64_t i = 0;
    for (; Vector::two_tiles && i + 2 * tile <= count; i += 2 * tile) {
        const Twice<Tile> t = tiles_of_normals(draw, keys, chain, static_cast<uint32_t>((first + i) / 4));
        store(out + i, t.a);
        store(out + i + tile, t.b);
    }
    for (; i < count; i += tile) {
        alignas(64) float last[tile];
        const bool whole = i + tile <= count;
        store(whole ? out + i : last, tile_of_normals(draw, keys, chain, static_cast<uint32_t>((first + i) / 4)));
        if (!whole) __builtin_memcpy(out + i, last, (count - i) * sizeof(float));
    }
}

// The normals of `count` whole chains of d elements, d small: a vector takes quads of several chains.
inline void packed_normals(const Draw& draw, const RoundKeys& keys, const int64_t* ids, int64_t first_chain, int64_t count,
                           int64_t d, float* out) {
    const int64_t quads = (d + 3) / 4, total = quads * count;
    for (int64_t start = 0; start < total; start += lanes) {
        alignas(64) uint32_t quad[lanes], chain_low[lanes], last[lanes];
        alignas(64) float normals[4][lanes];
        for (int lane = 0; lane < lanes; ++lane) {
            const int64_t at = start + lane < total ? start + lane : total - 1;
            const uint64_t chain = chain_id(ids, first_chain + at / quads);
            quad[lane] = static_cast<uint32_t>(at % quads);
            chain_low[lane] = static_cast<uint32_t>(chain);
            last[lane] = last_counter(draw, chain);
        }
        Tile t;
        quad_of_normals(load_words(quad), load_words(chain_low), Word(static_cast<uint32_t>(draw.step)), load_words(last),
                        keys, t.a.a, t.a.b, t.b.a, t.b.b);
        store(normals[0], t);
        for (int lane = 0; lane < lanes && start + lane < total; ++lane) {
            const int64_t first = 4 * static_cast<int64_t>(quad[lane]);
            float* p = out + (start + lane) / quads * d + first;
            for (int k = 0; k < 4 && first + k < d; ++k) p[k] = normals[k][lane];
        }
    }
}

}  // namespace
}  // namespace hatebm
