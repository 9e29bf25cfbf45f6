// The Metropolis-Hastings ratio of Langevin proposals on the CPU.

#include <cstdlib>

#include "cpu/cpu.h"
#include "cpu/gradient.h"
#include "cpu/parallel.h"

namespace hatebm::HATEBM_ISA {
namespace {

// Sums get + 0.0 at the end: a sum of 0 has no sign, however far it was padded.

// A state of the proposal and its gradient: `count` elements in a row.
struct End {
    const float* x;
    const void* grad;
    GradType type;
    int64_t count;
};

End start_of(const RatioArgs& a, int64_t first, int64_t count) {
    return {a.x + first, grad_at(a.grad, a.grad_type, first), a.grad_type, count};
}
End end_of(const RatioArgs& a, int64_t first, int64_t count) {
    return {a.proposal + first, grad_at(a.proposal_grad, a.grad_type, first), a.grad_type, count};
}

template <GradType G, class Number>
HATEBM_HD Tile drift_tile(const LawOf<Number>& law, const float* x, const void* grad, int64_t i, Tile factor) {
    const Tile total = total_gradient(law, load_tile(x + i), load_grad<G>(grad, i));
    return drift_of(law, total, factor).drift;
}

// The drifts of a row, in `out`, which has room for whole tiles.
template <GradType G, class Laws>
void drift_row(const Laws& laws, const End& row, float clip_factor, float* out) {
    const Tile factor(clip_factor);
    int64_t i = 0;
    for (; i + tile <= row.count; i += tile) store(out + i, drift_tile<G>(laws.at(i), row.x, row.grad, i, factor));
    if (i == row.count) return;
    alignas(64) float x[tile] = {}, grad[tile] = {};
    for (int64_t e = 0; e < row.count - i; ++e) {
        x[e] = row.x[i + e];
        grad[e] = scalar_grad(row.grad, G, i + e);
    }
    store(out + i, drift_tile<GradType::float32>(laws.at(i), x, grad, 0, factor));
}

template <class Laws>
void drift_row(const Laws& laws, const End& row, float factor, float* out) {
    switch (row.type) {
        case GradType::bfloat16: return drift_row<GradType::bfloat16>(laws, row, factor, out);
        case GradType::float16: return drift_row<GradType::float16>(laws, row, factor, out);
        default: return drift_row<GradType::float32>(laws, row, factor, out);
    }
}

// What each element of a row adds to the ratio, with the coefficients of a chain.
void ratio_row(const RatioArgs& a, int64_t chain, const float* x, const float* proposal, const float* there,
               const float* back, int64_t count, double* out) {
    const double half_precision = a.halves ? a.halves[chain] : a.half_precision;
    const double half_prior = a.halves ? a.halves[a.n + chain] : a.half_prior;
    for (int64_t e = 0; e < count; ++e)
        out[e] = ratio_element<double>(half_precision, half_prior, x[e], proposal[e], there[e], back[e]);
}

// Several small chains as one row.
void ratio_run(const RatioArgs& a, int64_t first, int64_t chains) {
    alignas(64) float there[fold], back[fold], prepared_grad[fold];
    double terms[2 * fold];
    const int64_t count = chains * a.d;
    const bool clipped = a.law.clip == Clip::norm;
    const auto law_of = [&](int64_t c) { return law_at(a.law, a.numbers, 0, first + c); };
    const auto left_of = [&](int64_t c) { return clipped ? prepared(law_of(c)) : law_of(c); };
    const Law law = clipped ? prepared(a.law) : a.law;
    const auto drifts = [&](const auto& laws, End row, float* out) {
        if (clipped) {
            prepare_gradients(law_of, row.x, row.grad, row.type, chains, a.d, nullptr, prepared_grad);
            row.grad = prepared_grad, row.type = GradType::float32;
        }
        drift_row(laws, row, 1, out);
    };
    const End start = start_of(a, first * a.d, count), end = end_of(a, first * a.d, count);
    const auto both_drifts = [&](const auto& laws) { drifts(laws, start, there), drifts(laws, end, back); };
    if (a.numbers.at) both_drifts(OwnLaws(law, left_of, chains, a.d));
    else both_drifts(OneLaw{law});
    const int64_t length = a.halves ? a.d : count;  // of elements with the same coefficients
    for (int64_t i = 0; i < count; i += length)
        ratio_row(a, first + i / a.d, start.x + i, end.x + i, there + i, back + i, length, terms + i);
    for (int64_t c = chains - 1; c >= 0; --c)  // backwards, since a fold pads to the right
        a.out[first + c] = fold_run(terms + c * a.d, a.d) + 0.0;
}

// One sample, run by run.
double ratio_sample(const RatioArgs& a, int64_t i, int threads, double* sums) {
    const int64_t runs = (a.d + fold - 1) / fold;
    const Law law = law_at(a.law, a.numbers, 0, i);
    const auto sum = [&](auto of_run) {
        for_each(runs, threads, [&](int64_t r) {
            sums[r] = of_run(i * a.d + r * fold, r + 1 < runs ? fold : a.d - r * fold);
        });
        return tree_sum(sums, runs);
    };
    const auto factor_of = [&](End (*row_of)(const RatioArgs&, int64_t, int64_t)) {
        if (law.clip != Clip::norm) return 1.0f;
        const double squares = sum([&](int64_t first, int64_t count) {
            const End row = row_of(a, first, count);
            return squared_gradient(law, row.x, row.grad, row.type, row.count);
        });
        return clip_factor(law, static_cast<float>(__builtin_sqrt(squares)));
    };
    const float factor_there = factor_of(start_of), factor_back = factor_of(end_of);
    return sum([&](int64_t first, int64_t count) {
        alignas(64) float there[fold], back[fold];
        double terms[fold];
        const End start = start_of(a, first, count), end = end_of(a, first, count);
        drift_row(OneLaw{law}, start, factor_there, there);
        drift_row(OneLaw{law}, end, factor_back, back);
        ratio_row(a, i, start.x, end.x, there, back, count, terms);
        return fold_run(terms, count);
    });
}

}  // namespace

void langevin_ratio(const RatioArgs& a) {
    const int threads = a.n * a.d > worth_sharing ? a.threads : 1;
    if (a.d == 0) {
        for (int64_t i = 0; i < a.n; ++i) a.out[i] = 0;
    } else if (2 * a.d <= fold) {
        const int64_t run = fold / a.d, runs = (a.n + run - 1) / run;
        for_each(runs, threads, [&](int64_t r) { ratio_run(a, r * run, r + 1 < runs ? run : a.n - r * run); });
    } else {
        const bool across = a.n % threads == 0 || a.n >= 8 * threads;  // threads share the samples, else each one's runs
        const int64_t runs = (a.d + fold - 1) / fold;
        auto* sums = static_cast<double*>(std::malloc((across ? a.n : 1) * runs * sizeof(double)));
        for_each(a.n, across ? threads : 1, [&](int64_t i) {
            a.out[i] = ratio_sample(a, i, across ? 1 : threads, across ? sums + i * runs : sums) + 0.0;
        });
        std::free(sums);
    }
}

}  // namespace hatebm::HATEBM_ISA
