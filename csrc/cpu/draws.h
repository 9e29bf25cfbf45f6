// What a group of chains draws at a step: its normals, and the uniforms that decide.
#pragma once

#include "cpu/group.h"
#include "cpu/normal.h"

namespace hatebm {
namespace {

constexpr uint32_t metropolis_purpose = 2;

template <class V>
struct Draws {
    static constexpr int width = width_of<V>;
    using Words = WordsOf<V>;
    const RoundKeys& keys;
    Draw draw;
    uint64_t id[width];
    alignas(64) uint32_t chain[width], last[width];
    alignas(64) float eps[4 * width] = {};
    bool alike = true;  // all of the counters but the chains' low words

    Draws(const Draw& draw, const RoundKeys& keys, const Group<V>& group, const int64_t* ids) : keys(keys), draw(draw) {
        for (int lane = 0; lane < width; ++lane) {
            id[lane] = chain_id(ids, group.chain(lane));
            chain[lane] = static_cast<uint32_t>(id[lane]);
            alike &= id[lane] >> 32 == id[0] >> 32;
        }
    }

    // body(e * width, normals) for each element e.
    template <class Body>
    HATEBM_HD void for_normals(uint64_t step, uint32_t purpose, int64_t d, Body body) {
        turn_to(step, purpose);
        for_quads(d, [&](auto quad, int64_t e) {
            constexpr int count = decltype(quad)::value;
            draw_quad<(count > 2)>(static_cast<uint32_t>(e / 4));
            HATEBM_UNROLL(4)
            for (int k = 0; k < count; ++k) body((e + k) * width, get<V>(eps + k * width));
        });
    }

    // -2 ln u of each chain.
    V uniforms(uint64_t step) {
        turn_to(step, metropolis_purpose);
        Words w0(0u), w1 = get_words<V>(chain), w2(static_cast<uint32_t>(step)), w3 = get_words<V>(last);
        philox(w0, w1, w2, w3, keys);
        return minus_2_ln<V>(to_int(w0));
    }

private:
    void turn_to(uint64_t step, uint32_t purpose) {
        draw.step = step, draw.purpose = purpose;
        for (int lane = 0; lane < width; ++lane) last[lane] = last_counter(draw, id[lane]);
    }

    // Of the last two normals nothing is made where nobody needs them.
    template <bool all>
    __attribute__((noinline)) void draw_quad(uint32_t quad) {
        const auto at = static_cast<uint32_t>(draw.step);
        const Words chains = get_words<V>(chain);
        V n[4];
        if (alike) normals_of_chains(quad, chains, at, last[0], keys, n);
        else quad_of_normals(Words(quad), chains, Words(at), get_words<V>(last), keys, n[0], n[1], n[2], n[3]);
        put(eps, n[0]), put(eps + width, n[1]);
        if constexpr (all) put(eps + 2 * width, n[2]), put(eps + 3 * width, n[3]);
    }
};

}  // namespace
}  // namespace hatebm
