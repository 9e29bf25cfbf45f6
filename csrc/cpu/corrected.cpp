// Whole chains whose steps are tested, or that velocities move, on the CPU, for energies with a formula: one chain a
// lane, all its steps before the next chain's. The steps are those of hatebm/dynamics/transitions/.

#include <tuple>
#include <utility>

#include "cpu/cpu.h"
#include "cpu/draws.h"
#include "cpu/laws.h"
#include "cpu/parallel.h"
#include "cpu/region.h"
#include "cpu/spot.h"
#include "cpu/telling.h"

namespace hatebm::HATEBM_ISA {
namespace {

constexpr float infinite = __builtin_inff();

bool is_finite(double v) { return v - v == 0; }

// What pushes a velocity. As step by step, the temperature divides where there is a prior, else its inverse multiplies.
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

struct Run {
    const Proposed& a;
    const Proposals& p;
    const Seeing look;
    Group<V> group;
    const int64_t d, size;
    Buffer<float> room;
    Spot here, there;
    float *velocity, *start;  // as a trajectory goes, and where it began
    float* before;            // the state where a step begins that is told of
    const Region<width> region;
    Alike laws;
    Telling<width> telling;
    Law law;  // of the step, with open walls
    Draws<V> draws;
    int64_t i = 0;

    Run(const Proposed& a, const RoundKeys& keys, int64_t first, int64_t count)
        : a(a), p(a.proposals), look(look_of(a.energy.kind)), group(a.energy, first, count), d(group.d),
          size(d * width), room(buffer<float>(5 * size)), here{group.state.get(), group.gradient.get()},
          there{room.get(), room.get() + size}, velocity(there.gradient + size), start(velocity + size),
          before(start + size), region(a, first, count, d), laws(a, first, count), telling(a, first, count, d),
          draws(a.draw, keys, group, a.chain_ids) {}

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
                telling.of_gradient(laws, here.energy.of, here.x, here.gradient, region.free.get());
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
        if (region.free) hide(spot);
        if (!energies || !p.corrected || a.reflect || (a.law.low == -infinite && a.law.high == infinite)) return;
        const V somewhere(a.law.low == -infinite ? a.law.high : a.law.low);  // for what is held
        V inside(1.0f);
        for (int64_t at = 0; at < size; at += width) {
            const V x = unless_held(at, get<V>(spot.x + at), somewhere);
            inside = where_greater(V(a.law.low), x, V(0.0f), inside);
            inside = where_greater(x, V(a.law.high), V(0.0f), inside);
            inside = where_greater(abs_of(x), V(-1.0f), inside, V(0.0f));  // a NaN is nowhere
        }
        spot.energy = where_greater(inside, V(0.0f), spot.energy.all(), V(infinite));
    }

    V unless_held(int64_t at, V yes, V no) const {
        return region.free ? where_greater(get<V>(&region.free[at]), V(0.0f), yes, no) : yes;
    }

    // The state as the law sees it: 0 where it is held.
    V free(const float* x, int64_t at) const { return unless_held(at, get<V>(x + at), V(0.0f)); }

    Float float_free(const float* x, int64_t at) const {
        const Float held(0.0f), value = float_at(x + at);
        return region.free ? where_greater(float_at(&region.free[at]), held, value, held) : value;
    }

    // No gradient counts where the state is held.
    void hide(Spot& spot) const {
        V doubt(0.0f);
        region.hide(spot.gradient);
        for (int64_t at = 0; at < size; at += width) doubt = fma(get<V>(spot.gradient + at), V(0.0f), doubt);
        spot.doubt = doubt;
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

    void langevin() {
        float* drift = velocity;
        const Law law = this->law;  // which stores to a state cannot change
        mark_doubts(here.doubt);
        const V factor = clip_factors(here).all();
        draws.for_normals(step(), a.draw.purpose, d, [&](int64_t at, V noise) {
            const V x = free(here.x, at), total = total_gradient(law, x, get<V>(here.gradient + at));
            put(drift + at, drift_of(law, total, factor).drift);
            put(there.x + at, unless_held(at, step_element(law, x, total, noise, factor), get<V>(here.x + at)));
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
        sum_ratios(share(Share::half_precision), share(Share::half_prior), ratio, [&](int64_t at) {
            const Float start = float_free(here.x, at), end = float_free(there.x, at);
            const Float total = total_gradient(law, end, float_at(there.gradient + at));
            const Float back = drift_of(law, total, float_at(factor.of + at % width)).drift;
            return std::tuple(start, end, float_at(drift + at), back);
        });
    }

    // What the norm clip multiplies each chain's gradient with.
    __attribute__((noinline)) Lanes clip_factors(const Spot& spot) const {
        Lanes factors;
        if (law.clip == Clip::norm)
            gradient_norms<width>(laws, true, d, spot.x, spot.gradient, region.free.get(), factors.of);
        for (float& factor : factors.of) factor = law.clip == Clip::norm ? clip_factor(law, factor) : 1.0f;
        return factors;
    }

    // The sum of ratio_element over each chain, given both ends and the drifts there; a sum of 0 has no sign.
    template <class Ends>
    void sum_ratios(double half_precision, double half_prior, double* out, Ends ends) const {
        for (int64_t v = 0; v < width; v += lanes) {
            const Doubles sum = sum_over(d, [&](int64_t e) {
                const auto [start, end, there, back] = ends(e * width + v);
                return ratio_element(half_precision, half_prior, doubles_of(start), doubles_of(end), doubles_of(there),
                                     doubles_of(back));
            });
            store(out + v, sum + Doubles(0.0));
        }
    }

    double energy_difference(int lane) const {
        return (static_cast<double>(here.energy[lane]) - there.energy[lane]) / share(Share::temperature);
    }

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
        draws.for_normals(step(), a.draw.purpose, d, [&](int64_t at, V normals) {
            const V old = forgets ? V(0.0f) : get<V>(velocity + at) * V(kept), v = noise_element(noise, old, normals);
            const V moving = unless_held(at, v, V(0.0f));
            put(velocity + at, moving);
            put(start + at, moving);
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
            const V g = kick.pull(free(spot.x, at), get<V>(spot.gradient + at)), v = get<V>(velocity + at);
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
                const int64_t at = e * width + v;
                const Float x = float_free(spot.x, at);
                return total_gradient(kick.law, x, kick.pull(x, float_at(spot.gradient + at)));
            };
            store(factors.of + v, norm_over(d, total));
        }
        for (float& factor : factors.of) factor = kick.law.clip == Clip::norm ? clip_factor(kick.law, factor) : 1.0f;
        return factors;
    }

    // x + h v, within a box that clamps where nothing is refused, or between walls that turn the velocity.
    __attribute__((noinline)) void drift(const float* from) {
        Law way{};
        way.step_size = -law.noise_std, way.inverse_temperature = 1, way.add = law.add;
        const bool open = p.corrected || a.reflect;
        way.low = open ? -infinite : a.law.low, way.high = open ? infinite : a.law.high;
        for (int64_t at = 0; at < size; at += width)
            put(there.x + at, step_element(way, get<V>(from + at), get<V>(velocity + at), V(0.0f), V(1.0f)));
        if (a.reflect) bounce();
        for (int64_t at = 0; region.free && at < size; at += width)
            put(there.x + at, unless_held(at, get<V>(there.x + at), get<V>(here.x + at)));
    }

    __attribute__((noinline)) void bounce() {
        for (int64_t at = 0; at < size; ++at) {
            bool turned;
            there.x[at] = folded(there.x[at], a.law.low, a.law.high, a.width, turned);
            if (turned) velocity[at] = -velocity[at];
        }
    }

    // precision (|from|^2 - |to|^2) / 2 of each chain: the ratio of a proposal whose drift is none.
    void half_squares(double precision, const float* from, const float* to, double* out) {
        Law still{};
        still.inverse_temperature = 1, still.prior_precision = static_cast<float>(precision);
        const auto none = [&](Float v) { return drift_of(still, total_gradient(still, v, v), Float(1.0f)).drift; };
        sum_ratios(0.5, 0.5 * precision, out, [&](int64_t at) {
            const Float start = float_at(from + at), end = float_at(to + at);
            return std::tuple(start, end, none(start), none(end));
        });
    }

    // Moves the chains whose proposal is accepted, 1 in what is returned. `met` is 1 where a NaN was met on the way.
    V decide(double* log_ratio, Lanes& met) {
        for (int lane = 0; lane < width; ++lane)
            if (!is_finite(log_ratio[lane])) refuse_nan(lane, log_ratio[lane], met[lane]);
        mark([&](int lane) { return there.energy[lane] == -infinite; });
        Lanes drawn, accepted;
        drawn = draws.uniforms(step());
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
