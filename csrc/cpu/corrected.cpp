// Whole chains whose steps are accepted or refused, or that velocities move, on the CPU, for energies with a formula: one
// chain a lane, all its steps before the next chain's. The steps are those of hatebm/dynamics/transitions/.

#include <utility>

#include "cpu/cpu.h"
#include "cpu/group.h"
#include "cpu/lane_sums.h"
#include "cpu/laws.h"
#include "cpu/normal.h"
#include "cpu/parallel.h"
#include "cpu/telling.h"
#include "formulas/energies.h"

namespace hatebm::HATEBM_ISA {
namespace {

using V = Wide;
using Words = WordsOf<V>;
constexpr int width = width_of<V>;
constexpr float infinite = __builtin_inff();
constexpr uint32_t metropolis_purpose = 2;

bool is_finite(double v) { return v - v == 0; }

struct alignas(64) Lanes {
    float of[width] = {};
    float& operator[](int lane) { return of[lane]; }
    float operator[](int lane) const { return of[lane]; }
    V all() const { return get<V>(of); }
    void operator=(V v) { put(of, v); }
};

// What pushes a velocity. The temperature divides where there is a prior, and multiplies by its inverse where there is none,
// as step by step.
template <bool prior>
struct Kick {
    Law law;
    float temperature, precision;

    template <class F>
    HATEBM_HD F pull(F x, F g) const {
        if constexpr (prior) return g / F(temperature) + F(precision) * x;
        else return g;
    }
};

// A state of a group, and what was seen there.
struct Spot {
    float *x, *gradient;
    Lanes energy;
    Lanes doubt;  // 0 where the gradient is finite
};

// Looks at x: doubt and gradient, and energies where they are asked for.
using Look = void (*)(const Formula&, Group<V>&, Spot&, bool energies);

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

Look look_of(Kind kind) {
    switch (kind) {
        case Kind::diagonal: return look_at<Diagonal>;
        case Kind::full: return look_at<Full>;
        case Kind::mixture: return look_at<Mixture>;
        case Kind::double_well: return look_at<DoubleWell>;
        default: return look_at<Funnel>;
    }
}

struct Run {
    const Proposed& a;
    const Proposals& p;
    const RoundKeys& keys;
    const Look look;
    Group<V> group;
    const int64_t d, size;
    Buffer<float> room;
    Spot here, there;
    float *velocity, *start;  // as a trajectory goes, and where it began
    float* before;            // the state where a step begins that is told of
    Alike laws;
    Telling<width> telling;
    Law law;  // of the step, with open walls
    alignas(64) uint32_t chain[width], last[width];
    alignas(64) float eps[4 * width] = {};
    uint64_t id[width];
    bool alike = true;  // all of the counters but the chains' low words
    int64_t i = 0;

    Run(const Proposed& a, const RoundKeys& keys, int64_t first, int64_t count)
        : a(a), p(a.proposals), keys(keys), look(look_of(a.energy.kind)), group(a.energy, first, count), d(group.d),
          size(d * width), room(buffer<float>(5 * size)), here{group.state.get(), group.gradient.get()},
          there{room.get(), room.get() + size}, velocity(there.gradient + size), start(velocity + size),
          before(start + size), laws(a, first, count), telling(a, first, count, d) {
        for (int lane = 0; lane < width; ++lane) {
            id[lane] = chain_id(a.chain_ids, group.chain(lane));
            chain[lane] = static_cast<uint32_t>(id[lane]);
            alike &= id[lane] >> 32 == id[0] >> 32;
        }
    }

    void operator()() {
        group.read(a.x);
        for (int lane = 0; p.velocity && lane < width; ++lane)
            for (int64_t e = 0; e < d; ++e) velocity[e * width + lane] = p.velocity[group.chain(lane) * d + e];
        see(here, true);
        mark([&](int lane) { return is_broken(here.energy[lane]); });
        for (; i < a.n_steps; ++i) {
            laws.read(i);
            law = laws.law;
            law.low = -infinite, law.high = infinite;
            if (is_told()) {
                telling.of_gradient(laws, here.energy.of, here.x, here.gradient, nullptr);
                __builtin_memcpy(before, here.x, size * sizeof(float));
            }
            if (p.leapfrog_steps == 0) langevin();
            else trajectory();
            if (is_told()) telling.of_move(laws, before, here.x);
        }
        group.write(here.x, a.x);
        if (p.velocity) group.write(velocity, p.velocity);
    }

    bool is_told() const { return i == telling.next; }

    uint64_t step() const { return a.draw.step + i; }

    double share(Share of) const { return p(of, i); }

    // Energies that decide are infinite outside the box.
    void see(Spot& spot, bool energies) {
        look(a.energy, group, spot, energies);
        if (!energies || !p.corrected || (a.law.low == -infinite && a.law.high == infinite)) return;
        V inside(1.0f);
        for (int64_t e = 0; e < size; e += width) {
            const V x = get<V>(spot.x + e);
            inside = where_greater(V(a.law.low), x, V(0.0f), inside);
            inside = where_greater(x, V(a.law.high), V(0.0f), inside);
            inside = where_greater(abs_of(x), V(-1.0f), inside, V(0.0f));  // a NaN is nowhere
        }
        spot.energy = where_greater(inside, V(0.0f), spot.energy.all(), V(infinite));
    }

    bool is_broken(float energy) const { return p.corrected ? !(energy > -infinite) : !is_finite(energy); }

    // The step is bad for the chains of these lanes.
    template <class Bad>
    void mark(Bad bad) {
        for (int lane = 0; a.first_bad && lane < group.count; ++lane) {
            int64_t& first = a.first_bad[group.first + lane];
            if (bad(lane) && static_cast<int64_t>(step()) < first) first = static_cast<int64_t>(step());
        }
    }

    void mark_doubts(Lanes& doubt) {
        if (!none_set(doubt.all())) mark([&](int lane) { return doubt[lane] != 0; });
    }

    // Noise ------------------------------------------------------------------------------------------------------------

    // The normals of a quad of elements; of the last two nothing is made where nobody needs them.
    template <bool all>
    __attribute__((noinline)) void draw_quad(uint32_t quad) {
        const auto at = static_cast<uint32_t>(step());
        V n[4];
        if (alike) normals_of_chains(quad, get_words<V>(chain), at, last[0], keys, n);
        else quad_of_normals(Words(quad), get_words<V>(chain), Words(at), get_words<V>(last), keys, n[0], n[1], n[2], n[3]);
        put(eps, n[0]), put(eps + width, n[1]);
        if constexpr (all) put(eps + 2 * width, n[2]), put(eps + 3 * width, n[3]);
    }

    void turn_to(uint32_t purpose) {
        const Draw draw{a.draw.seed, step(), a.draw.block, purpose};
        for (int lane = 0; lane < width; ++lane) last[lane] = last_counter(draw, id[lane]);
    }

    // body(e, eps): each element with its normals.
    template <class Body>
    HATEBM_HD void for_noise(Body body) {
        turn_to(a.draw.purpose);
        for_quads(d, [&](auto quad, int64_t e) {
            constexpr int count = decltype(quad)::value;
            draw_quad<(count > 2)>(static_cast<uint32_t>(e / 4));
            HATEBM_UNROLL(4)
            for (int k = 0; k < count; ++k) body((e + k) * width, get<V>(eps + k * width));
        });
    }

    // Langevin's proposal ----------------------------------------------------------------------------------------------

    void langevin() {
        float* drift = velocity;
        const Law law = this->law;  // which stores to a state cannot change
        mark_doubts(here.doubt);
        const V factor = clip_factors(here).all();
        for_noise([&](int64_t at, V noise) {
            const V x = get<V>(here.x + at), total = total_gradient(law, x, get<V>(here.gradient + at));
            put(drift + at, drift_of(law, total, factor).drift);
            put(there.x + at, step_element(law, x, total, noise, factor));
        });
        see(there, true);
        double ratio[width];
        langevin_ratios(drift, ratio);
        for (int lane = 0; lane < width; ++lane) ratio[lane] = energy_difference(lane) + ratio[lane];
        Lanes met;
        decide(ratio, met);
    }

    __attribute__((noinline)) void langevin_ratios(const float* drift, double* ratio) const {
        const Lanes factor = clip_factors(there);
        sum_ratios(share(Share::half_precision), share(Share::half_prior), here.x, there.x, ratio, [&](int64_t at) {
            const Float end = float_at(there.x + at), total = total_gradient(law, end, float_at(there.gradient + at));
            return std::pair(float_at(drift + at), drift_of(law, total, float_at(factor.of + at % width)).drift);
        });
    }

    // What the norm clip multiplies each chain's gradient with.
    __attribute__((noinline)) Lanes clip_factors(const Spot& spot) const {
        Lanes factors;
        if (law.clip == Clip::norm) gradient_norms<width>(laws, true, d, spot.x, spot.gradient, nullptr, factors.of);
        for (float& factor : factors.of) factor = law.clip == Clip::norm ? clip_factor(law, factor) : 1.0f;
        return factors;
    }

    // The sum of ratio_element over each chain, given the drifts at both ends; a sum of 0 has no sign.
    template <class Drifts>
    void sum_ratios(double half_precision, double half_prior, const float* x, const float* end, double* out,
                    Drifts drifts) const {
        for (int64_t v = 0; v < width; v += lanes) {
            const Doubles sum = sum_over(d, [&](int64_t e) {
                const int64_t at = e * width + v;
                const auto [there, back] = drifts(at);
                return ratio_element(half_precision, half_prior, doubles_of(float_at(x + at)),
                                     doubles_of(float_at(end + at)), doubles_of(there), doubles_of(back));
            });
            store(out + v, sum + Doubles(0.0));
        }
    }

    double energy_difference(int lane) const {
        return (static_cast<double>(here.energy[lane]) - there.energy[lane]) / share(Share::temperature);
    }

    // Trajectories -----------------------------------------------------------------------------------------------------

    void trajectory() {
        refresh();
        Lanes met;  // 1 where a gradient on the way is NaN at a finite state
        kick(Share::half_kick, here, true);
        const float* from = here.x;
        for (int64_t leap = 1; leap <= p.leapfrog_steps; ++leap, from = there.x) {
            const bool ends = leap == p.leapfrog_steps;
            drift(from);
            see(there, ends && (p.corrected || a.first_bad || a.facts.every));
            if (!ends && !none_set(there.doubt.all()))
                for (int lane = 0; lane < width; ++lane)
                    if (has_nan(there.gradient, lane) && is_finite_row(there.x, lane)) met[lane] = 1;
            kick(ends ? Share::half_kick : Share::kick, there, false);
        }
        if (!p.corrected) {
            mark([&](int lane) { return is_broken(there.energy[lane]); });
            std::swap(here, there);
            return;
        }
        double ratio[width], more[width];
        half_squares(1.0, start, velocity, ratio);
        for (int lane = 0; lane < width; ++lane) ratio[lane] = energy_difference(lane) + ratio[lane];
        if (law.prior_precision != 0) {
            half_squares(2 * share(Share::half_prior), here.x, there.x, more);
            for (int lane = 0; lane < width; ++lane) ratio[lane] += more[lane];
        }
        const V accepted = decide(ratio, met);
        for (int64_t at = 0; p.velocity && at < size; at += width) {
            const V turned = V(-1.0f) * get<V>(start + at);
            put(velocity + at, where_greater(accepted, V(0.0f), get<V>(velocity + at), turned));
        }
    }

    void refresh() {
        const float kept = static_cast<float>(share(Share::kept));
        const bool forgets = !p.velocity || share(Share::kept) == 0;
        Law noise{};
        noise.noise_std = static_cast<float>(share(Share::fresh)), noise.low = -infinite, noise.high = infinite;
        for_noise([&](int64_t at, V normals) {
            const V old = forgets ? V(0.0f) : get<V>(velocity + at) * V(kept), v = noise_element(noise, old, normals);
            put(velocity + at, v);
            put(start + at, v);
        });
    }

    // v - kick * clip(grad E / T + prior_precision x).
    void kick(Share of, const Spot& spot, bool watched) {
        if (a.law.prior_precision != 0) kick_by<true>(of, spot, watched);
        else kick_by<false>(of, spot, watched);
    }

    template <bool prior>
    __attribute__((noinline)) void kick_by(Share of, const Spot& spot, bool watched) {
        const Kick<prior> kick = kick_of<prior>(of);
        const V factor = kick_factors(kick, spot).all();
        V doubt(0.0f);
        for (int64_t at = 0; at < size; at += width) {
            const V g = kick.pull(get<V>(spot.x + at), get<V>(spot.gradient + at)), v = get<V>(velocity + at);
            doubt = fma(g, V(0.0f), doubt);
            put(velocity + at, step_element(kick.law, v, total_gradient(kick.law, v, g), V(0.0f), factor));
        }
        Lanes doubts;
        doubts = doubt;
        if (watched) mark_doubts(doubts);
    }

    template <bool prior>
    Kick<prior> kick_of(Share of) const {
        Law push = law;
        push.step_size = static_cast<float>(share(of)), push.noise_std = 0, push.prior_precision = 0;
        push.clip_on_update = false, push.bound = static_cast<float>(share(Share::bound));
        if (prior) push.inverse_temperature = 1;
        return {push, static_cast<float>(share(Share::temperature)), law.prior_precision};
    }

    template <bool prior>
    __attribute__((noinline)) Lanes kick_factors(const Kick<prior> kick, const Spot& spot) const {
        Lanes factors;
        for (int64_t v = 0; kick.law.clip == Clip::norm && v < width; v += lanes) {
            const auto total = [&](int64_t e) {
                const Float x = float_at(spot.x + e * width + v), g = float_at(spot.gradient + e * width + v);
                return total_gradient(kick.law, x, kick.pull(x, g));
            };
            store(factors.of + v, norm_over(d, total));
        }
        for (float& factor : factors.of) factor = kick.law.clip == Clip::norm ? clip_factor(kick.law, factor) : 1.0f;
        return factors;
    }

    // x + h v, within walls that clamp where nothing is refused.
    __attribute__((noinline)) void drift(const float* from) {
        Law way{};
        way.step_size = -law.noise_std, way.inverse_temperature = 1, way.add = law.add;
        way.low = p.corrected ? -infinite : a.law.low, way.high = p.corrected ? infinite : a.law.high;
        for (int64_t at = 0; at < size; at += width)
            put(there.x + at, step_element(way, get<V>(from + at), get<V>(velocity + at), V(0.0f), V(1.0f)));
    }

    // precision (|from|^2 - |to|^2) / 2 of each chain: the ratio of a proposal whose drift is none.
    void half_squares(double precision, const float* from, const float* to, double* out) {
        Law still{};
        still.inverse_temperature = 1, still.prior_precision = static_cast<float>(precision);
        const auto none = [&](Float v) { return drift_of(still, total_gradient(still, v, v), Float(1.0f)).drift; };
        sum_ratios(0.5, 0.5 * precision, from, to, out, [&](int64_t at) {
            return std::pair(none(float_at(from + at)), none(float_at(to + at)));
        });
    }

    // Decisions --------------------------------------------------------------------------------------------------------

    // Moves the chains whose proposal is accepted, 1 in what is returned. `met` is 1 where a NaN was met on the way.
    V decide(double* log_ratio, Lanes& met) {
        for (int lane = 0; lane < width; ++lane)
            if (!is_finite(log_ratio[lane])) refuse_nan(lane, log_ratio[lane], met[lane]);
        mark([&](int lane) { return there.energy[lane] == -infinite; });
        Lanes drawn, accepted;
        drawn = uniforms();
        for (int lane = 0; lane < width; ++lane) accepted[lane] = accepts(log_ratio[lane], drawn[lane]) ? 1.0f : 0.0f;
        const V accept = accepted.all();
        for (int lane = 0; lane < group.count; ++lane) p.refused[group.first + lane] |= met[lane] != 0;
        if (is_told()) tell(p.accept, accepted.of), tell(p.nan_refused, met.of);
        const auto choose = [&](const float* proposed, float* own) {
            put(own, where_greater(accept, V(0.0f), get<V>(proposed), get<V>(own)));
        };
        for (int64_t at = 0; at < size; at += width)
            choose(there.x + at, here.x + at), choose(there.gradient + at, here.gradient + at);
        choose(there.energy.of, here.energy.of), choose(there.doubt.of, here.doubt.of);
        return accept;
    }

    // A proposal with a NaN in its energy or gradient is refused; it counts where the chain could have gone there.
    __attribute__((noinline)) void refuse_nan(int lane, double& log_ratio, float& met) {
        float& energy = there.energy[lane];
        const bool nan = energy != energy || (energy < infinite && has_nan(there.gradient, lane));
        if (nan) log_ratio = -__builtin_inf(), energy = infinite;
        const bool counts = met != 0 || (nan && is_finite_row(there.x, lane));
        met = counts && is_finite(here.energy[lane]) ? 1.0f : 0.0f;
    }

    bool has_nan(const float* rows, int lane) const {
        for (int64_t e = 0; e < d; ++e)
            if (rows[e * width + lane] != rows[e * width + lane]) return true;
        return false;
    }
    bool is_finite_row(const float* rows, int lane) const {
        for (int64_t e = 0; e < d; ++e)
            if (!is_finite(rows[e * width + lane])) return false;
        return true;
    }

    // -2 ln u of each chain.
    V uniforms() {
        turn_to(metropolis_purpose);
        Words w0(0u), w1 = get_words<V>(chain), w2(static_cast<uint32_t>(step())), w3 = get_words<V>(last);
        philox(w0, w1, w2, w3, keys);
        return minus_2_ln<V>(to_int(w0));
    }

    void tell(float* rows, const float* values) const {
        __builtin_memcpy(rows + telling.row * a.n + group.first, values, group.count * sizeof(float));
    }
};

}  // namespace

void corrected(const ProposedArgs& a) {
    const RoundKeys keys = round_keys(a.draw.seed);
    for (int64_t c = 0; a.first_bad && c < a.n; ++c) a.first_bad[c] = INT64_MAX;
    const int threads = a.n * a.energy.d * a.n_steps > worth_sharing ? a.threads : 1;
    for_each((a.n + width - 1) / width, threads, [&](int64_t g) {
        const int64_t first = g * width, left = a.n - first;
        Run(a, keys, first, left < width ? left : width)();
    });
}

}  // namespace hatebm::HATEBM_ISA
