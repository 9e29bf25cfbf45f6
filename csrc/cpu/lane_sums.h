// Sums over the elements of a vector of chains, one a lane, in the order of tree.h: no more of them wait for their
// partners than there are halvings.
#pragma once

#include "cpu/laws.h"
#include "cpu/simd.h"
#include "formulas/tree.h"

namespace hatebm {
namespace {

// The sum of of(0), ..., of(count - 1), at most `fold` of them: element i meets i + half first, then pairs of pairs.
template <class Of>
HATEBM_HD Doubles sum_of_run(int64_t count, Of of) {
    if (count == 1) return of(0);
    int64_t half = 1;
    while (2 * half < count) half *= 2;
    Doubles waiting[10];
    int64_t i = 0, waits = 0;
    for (int64_t pair = 0;; ++pair) {
        Doubles sum = of(i) + (i + half < count ? of(i + half) : Doubles(0.0));
        for (int64_t sums = pair; sums & 1; sums >>= 1) sum = waiting[--waits] + sum;
        if (pair == half - 1) return sum;
        waiting[waits++] = sum;
        int64_t bit = half / 2;  // i counts in bits read from the other end
        for (; i & bit; bit /= 2) i -= bit;
        i += bit;
    }
}

// The same of any number of elements, in runs of `span` that are summed first.
template <class Of>
__attribute__((noinline)) Doubles sum_of_runs(int64_t first, int64_t count, int64_t span, const Of& of) {
    return sum_of_run((count + span - 1) / span, [&](int64_t run) {
        const int64_t start = first + run * span, left = count - run * span, size = left < span ? left : span;
        if (span > fold) return sum_of_runs(start, size, span / fold, of);
        return sum_of_run(size, [&](int64_t e) { return of(start + e); });
    });
}

template <class Of>
HATEBM_HD Doubles sum_over(int64_t d, Of of) {
    if (d <= fold) return sum_of_run(d, of);
    int64_t span = fold;
    while (span * fold < d) span *= fold;
    return sum_of_runs(0, d, span, of);
}

HATEBM_HD Float float_at(const float* p) {
    Float v;
    load(p, v);
    return v;
}

// The sums over d elements of `width` chains that lie one a lane.
template <int64_t width>
__attribute__((noinline)) void sums_of_chains(int64_t d, const float* terms, double* sums) {
    for (int64_t v = 0; v < width; v += lanes)
        store(sums + v, sum_over(d, [&](int64_t e) { return doubles_of(float_at(terms + e * width + v)); }));
}

// The norm over d elements of what of(e) is in each lane.
template <class Of>
HATEBM_HD Float norm_over(int64_t d, Of of) {
    return rounded(sqrt_rn(sum_over(d, [&](int64_t e) { return squares_of(of(e)); })));
}

// The norms of the total gradients of `width` chains that lie one a lane, or of all in them but the prior's pull; what
// is not `free`, where that is known, counts 0.
template <int64_t width, class Laws>
__attribute__((noinline)) void gradient_norms(const Laws& laws, bool prior, int64_t d, const float* x,
                                              const float* gradient, const float* free, float* norms) {
    for (int64_t v = 0; v < width; v += lanes) {
        auto law = laws.template of<Float>(v);
        if (!prior) law.prior_precision = decltype(law.prior_precision)(0.0f);
        const auto total = [&](int64_t e) {
            const int64_t i = e * width + v;
            const Float pull = total_gradient(law, float_at(x + i), float_at(gradient + i));
            return free ? where_greater(float_at(free + i), Float(0.0f), pull, Float(0.0f)) : pull;
        };
        store(norms + v, norm_over(d, total));
    }
}

}  // namespace
}  // namespace hatebm
