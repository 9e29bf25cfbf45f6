// Whole chains on the CPU, for energies with a formula: one chain a lane, all its steps before the next chain's.

#include "cpu/cpu.h"
#include "cpu/group.h"
#include "cpu/lane_sums.h"
#include "cpu/laws.h"
#include "cpu/normal.h"
#include "cpu/parallel.h"
#include "cpu/region.h"
#include "cpu/telling.h"
#include "formulas/energies.h"

namespace hatebm::HATEBM_ISA {
namespace {

// The energy and the gradient at the state, as a step alone sees them.
template <class V, class Energy>
__attribute__((noinline)) void evaluate(const Energy& energy, Group<V>& group, float* energies) {
    constexpr int width = width_of<V>;
    const auto seen = energy.look(group.elements(), group.d, group.column(), Alone());
    for_quads(group.d, [&](auto quad, int64_t e) {
        constexpr int count = decltype(quad)::value;
        V x[count], g[count];
        get_quad<count>(&group.state[e * width], x);
        energy.template gradient<count>(seen, group.column(), e, x, g);
        for (int k = 0; k < count; ++k) {
            put(&group.gradient[(e + k) * width], g[k]);
            put(&group.terms[(e + k) * width], energy.term(seen, e + k, x[k], g[k]));
        }
    });
    double sums[width];
    sums_of_chains<width>(group.d, group.terms.get(), sums);
    for (int lane = 0; lane < width; ++lane) energies[lane] = static_cast<float>(energy.total(sums[lane]));
}

bool is_finite(float v) { return v - v == 0; }

// The normals of a quad of elements of every chain; of the last two nothing is made where nobody needs them.
template <class V, bool all>
__attribute__((noinline)) void normals(const RoundKeys& keys, uint32_t quad, const uint32_t* chain, uint32_t step,
                                       const uint32_t* last, float* out) {
    constexpr int width = width_of<V>;
    using Words = WordsOf<V>;
    V n0, n1, n2, n3;
    quad_of_normals(Words(quad), get_words<V>(chain), Words(step), get_words<V>(last), keys, n0, n1, n2, n3);
    put(out, n0), put(out + width, n1);
    if constexpr (all) put(out + 2 * width, n2), put(out + 3 * width, n3);
}

// Whether a state has left the reach of its energy in any lane: the sum of its squares says so, or a little early.
template <class V, class Energy>
struct Doubt {
    float first, scale;
    V squares = V(0.0f);

    explicit Doubt(const Formula& f) : first(f.reach / f.first_reach), scale(3.4028235e38f / (f.reach * f.reach)) {}
    HATEBM_HD void clear() { squares = V(0.0f); }
    HATEBM_HD void see(int64_t e, V x) {
        if (std::is_same_v<Energy, Funnel> && e == 0) x = x * V(first);  // the one whose first element is apart
        squares = fma(x, x, squares);
    }
    HATEBM_HD bool arose() const { return !none_set(squares * V(scale) * V(0.0f)); }
};

template <class V, class Energy, class Laws>
struct Run {
    static constexpr int width = width_of<V>;
    const Whole& a;
    const Energy energy;
    const RoundKeys& keys;
    Group<V> group;
    Buffer<float> before;  // a step that is told of or confined
    Laws laws;
    alignas(64) uint32_t chain[width], last[width];
    alignas(64) float eps[4 * width] = {};
    uint64_t id[width];
    Doubt<V, Energy> doubt;
    Telling<width> telling;
    const Region<width> region;
    bool plain = false;

    // `a` is `given` with the box open where its walls reflect.
    Run(const Whole& a, const Whole& given, const RoundKeys& keys, int64_t first, int64_t count)
        : a(a), energy(a.energy), keys(keys), group(a.energy, first, count), laws(a, first, count), doubt(a.energy),
          telling(a, first, count, a.energy.d), region(given, first, count, a.energy.d) {}

    void operator()() {
        group.read(a.x);
        bool alike = true;  // in all of the counter but the chain's low word
        for (int lane = 0; lane < width; ++lane) {
            id[lane] = chain_id(a.chain_ids, group.chain(lane));
            chain[lane] = static_cast<uint32_t>(id[lane]);
            alike &= id[lane] >> 32 == id[0] >> 32;
        }
        for (int64_t e = 0; e < group.d; ++e) doubt.see(e, get<V>(&group.state[e * width]));
        const bool bare = a.law.clip == Clip::none && a.law.prior_precision == 0;
        plain = alike && bare && a.law.add == Add::sequential && !a.noise_first;
        for (int64_t i = 0; i < a.n_steps;) {
            laws.read(i);
            if (i == telling.next || region.confines()) full_step(i++);
            else if (plain && laws.all_noise()) i = plain_steps_from(i, telling.end());
            else if (laws.all_rest()) ++i;
            else step(draw_at(i++), false);
        }
        group.write(group.state.get(), a.x);
    }

    Draw draw_at(int64_t i) const { return {a.draw.seed, a.draw.step + i, a.draw.block, a.draw.purpose}; }

    template <int count>
    HATEBM_HD void draw_quad(const Draw& draw, int64_t e) {
        normals<V, (count > 2)>(keys, static_cast<uint32_t>(e / 4), chain, static_cast<uint32_t>(draw.step), last, eps);
    }

    void add_noise(const Draw& draw) {
        const auto law = kick_of(laws.template of<V>(0), a.clamp_noise);
        const bool noisy = laws.any_noise();
        doubt.clear();
        for_quads(group.d, [&](auto quad, int64_t e) {
            constexpr int count = decltype(quad)::value;
            if (noisy) draw_quad<count>(draw, e);
            for (int k = 0; k < count; ++k) {
                float* place = &group.state[(e + k) * width];
                const V x = get<V>(place);
                const V moved = laws.unless_resting(0, x, noise_element(law, x, get<V>(eps + k * width)));
                doubt.see(e + k, moved);
                put(place, moved);
            }
        });
        if (region.confines()) confine(a.clamp_noise);
    }

    // Brings back what has moved where it may not.
    __attribute__((noinline)) void confine(bool walls) {
        region.confine(laws, walls, before.get(), group.state.get());
        doubt.clear();
        for (int64_t e = 0; e < group.d; ++e) doubt.see(e, get<V>(&group.state[e * width]));
    }

    // Where the state may be beyond reach: which chains' energy or gradient is not finite?
    __attribute__((noinline)) void examine(int64_t step) {
        alignas(64) float energies[width];
        evaluate(energy, group, energies);
        region.hide(group.gradient.get());
        for (int lane = 0; lane < group.count; ++lane) {
            bool finite = is_finite(energies[lane]);
            for (int64_t e = 0; e < group.d; ++e) finite &= is_finite(group.gradient[e * width + lane]);
            int64_t& bad = a.first_bad[group.first + lane];
            if (!finite && !laws.rests(lane) && step < bad) bad = step;
        }
    }

    // What the norm clip multiplies each chain's gradient with.
    template <class Seen>
    V clip_factors(const Seen& seen) {
        alignas(64) float factors[width];
        for_quads(group.d, [&](auto quad, int64_t e) {
            constexpr int count = decltype(quad)::value;
            V x[count], g[count];
            get_quad<count>(&group.state[e * width], x);
            energy.template gradient<count>(seen, group.column(), e, x, g);
            for (int k = 0; k < count; ++k) put(&group.gradient[(e + k) * width], g[k]);
        });
        gradient_norms<width>(laws, true, group.d, group.state.get(), group.gradient.get(), region.free.get(),
                              factors);
        for (int lane = 0; lane < width; ++lane) factors[lane] = clip_factor(laws.of_lane(lane), factors[lane]);
        return get<V>(factors);
    }

    // A step that is told of, or that a mask or walls confine.
    __attribute__((noinline)) void full_step(int64_t i) {
        const bool told = i == telling.next, moves = !laws.all_rest();
        if (!before) before = buffer<float>(width * group.d);
        for (int64_t at = 0; at < width * group.d; at += width) put(&before[at], get<V>(&group.state[at]));
        if (moves && !(plain && laws.all_noise())) {
            step(draw_at(i), told);
        } else {
            if (told) tell();
            if (moves) plain_steps_from(i, i + 1);
        }
        if (moves && region.confines()) confine(true);
        if (told) telling.of_move(laws, before.get(), group.state.get());
    }

    void tell() {
        alignas(64) float energies[width];
        evaluate(energy, group, energies);
        telling.of_gradient(laws, energies, group.state.get(), group.gradient.get(), region.free.get());
    }

    // One step under any law.
    void step(const Draw& draw, bool told) {
        auto law = laws.template of<V>(0);
        bool noisy = laws.any_noise();
        for (int lane = 0; lane < width; ++lane) last[lane] = last_counter(draw, id[lane]);
        if (a.noise_first) {
            if (noisy || a.clamp_noise) add_noise(draw);
            law = silent(law), noisy = false;
        }
        if (a.first_bad && doubt.arose()) examine(draw.step);
        if (told) tell();
        doubt.clear();
        const auto seen = energy.look(group.elements(), group.d, group.column(), Alone());
        V factor(1.0f);
        if (law.clip == Clip::norm) factor = clip_factors(seen);
        for_quads(group.d, [&](auto quad, int64_t e) {
            constexpr int count = decltype(quad)::value;
            V x[count], g[count];
            if (noisy) draw_quad<count>(draw, e);
            get_quad<count>(&group.state[e * width], x);
            energy.template gradient<count>(seen, group.column(), e, x, g);
            HATEBM_UNROLL(4)
            for (int k = 0; k < count; ++k) {
                const V moved = step_element(law, x[k], total_gradient(law, x[k], g[k]), get<V>(eps + k * width), factor);
                x[k] = laws.unless_resting(0, x[k], moved);
                doubt.see(e + k, x[k]);
                put(&group.state[(e + k) * width], x[k]);
            }
        });
    }

    int64_t plain_steps_from(int64_t i, int64_t end) {
        if constexpr (!std::is_same_v<Laws, Alike>) return plain_steps<0>(i, end);
        switch (group.d) {
            case 1: return plain_steps<1>(i, end);
            case 2: return plain_steps<2>(i, end);
            case 3: return plain_steps<3>(i, end);
            case 4: return plain_steps<4>(i, end);
            default: return plain_steps<0>(i, end);
        }
    }

    // The law of step i, which is known to be without options.
    auto plain_law(int64_t i) {
        laws.read(i);
        auto law = laws.template of<V>(0);
        law.add = Add::sequential, law.clip = Clip::none, law.prior_precision = decltype(law.prior_precision)(0.0f);
        return law;
    }

    // The steps from i on to before `end` while all have noise, of a law without options and chains of `small` elements
    // (0: of any number) that counters tell apart by one word. Returns where they end.
    template <int small>
    __attribute__((noinline)) int64_t plain_steps(int64_t i, int64_t end) {
        const int64_t d = small ? small : group.d;
        const WordsOf<V> chains = get_words<V>(chain);
        Doubt<V, Energy> beyond = doubt;
        auto law = plain_law(i);
        while (laws.all_noise()) {
            const Draw draw = draw_at(i);
            const uint32_t last = last_counter(draw, id[0]);
            if (a.first_bad && beyond.arose()) examine(draw.step);
            beyond.clear();
            const auto seen = energy.look(group.elements(), d, group.column(), Alone());
            for_quads(d, [&](auto quad, int64_t e) {
                constexpr int count = decltype(quad)::value;
                V x[count], g[count], n[4];
                normals_of_chains(static_cast<uint32_t>(e / 4), chains, static_cast<uint32_t>(draw.step), last, keys, n);
                get_quad<count>(&group.state[e * width], x);
                energy.template gradient<count>(seen, group.column(), e, x, g);
                HATEBM_UNROLL(4)
                for (int k = 0; k < count; ++k) {
                    if constexpr (std::is_same_v<Laws, Alike>)
                        if (law.noise_std == 0) __builtin_unreachable();
                    x[k] = step_element(law, x[k], total_gradient(law, x[k], g[k]), n[k], V(1.0f));
                    beyond.see(e + k, x[k]);
                    put(&group.state[(e + k) * width], x[k]);
                }
            });
            if (++i == end) break;
            if (a.numbers.step != 0) law = plain_law(i);
        }
        doubt = beyond;
        return i;
    }
};

template <class Energy>
void run_all(const WholeArgs& given) {
    const WholeArgs a = opened(given);
    const RoundKeys keys = round_keys(a.draw.seed);
    for (int64_t i = 0; a.first_bad && i < a.n; ++i) a.first_bad[i] = INT64_MAX;
    const int threads = a.n * a.energy.d * a.n_steps > worth_sharing ? a.threads : 1;
    for_groups(a.n, threads, [&](auto v, int64_t first, int64_t count) {
        using V = decltype(v);
        if (a.numbers.chain == 0) Run<V, Energy, Alike>(a, given, keys, first, count)();
        else Run<V, Energy, Apart<width_of<V>>>(a, given, keys, first, count)();
    });
}

template <class Energy>
void look_all(const LookArgs& a) {
    const Energy energy(a.energy);
    for_groups(a.n, a.n * a.energy.d > worth_sharing ? a.threads : 1, [&](auto v, int64_t first, int64_t count) {
        using V = decltype(v);
        Group<V> group(a.energy, first, count);
        alignas(64) float energies[width_of<V>];
        group.read(a.x);
        evaluate(energy, group, energies);
        group.write(group.gradient.get(), a.gradients);
        for (int64_t lane = 0; lane < count; ++lane) a.energies[first + lane] = energies[lane];
    });
}

}  // namespace

void whole(const WholeArgs& a) {
    switch (a.energy.kind) {
        case Kind::diagonal: return run_all<Diagonal>(a);
        case Kind::full: return run_all<Full>(a);
        case Kind::mixture: return run_all<Mixture>(a);
        case Kind::double_well: return run_all<DoubleWell>(a);
        case Kind::funnel: return run_all<Funnel>(a);
    }
}

void look(const LookArgs& a) {
    switch (a.energy.kind) {
        case Kind::diagonal: return look_all<Diagonal>(a);
        case Kind::full: return look_all<Full>(a);
        case Kind::mixture: return look_all<Mixture>(a);
        case Kind::double_well: return look_all<DoubleWell>(a);
        case Kind::funnel: return look_all<Funnel>(a);
    }
}

}  // namespace hatebm::HATEBM_ISA
