// The one order in which sums over a sample are taken: runs of `fold` values folded in halves, then the runs likewise.
#pragma once

#include "formulas/langevin.h"

namespace hatebm {
namespace {

// Sum of v[0..count), which is overwritten and has room for `fold` values.
inline double fold_run(double* v, int64_t count) {
    int64_t width = 1;
    while (width < count) width *= 2;
    for (int64_t k = count; k < width; ++k) v[k] = 0;
    for (int64_t half = width / 2; half > 0; half /= 2)
        for (int64_t k = 0; k < half; ++k) v[k] += v[k + half];
    return v[0];
}

// Sum over all runs, given the sum of each; `runs` is overwritten.
inline double tree_sum(double* runs, int64_t count) {
    double run[fold];
    while (count > 1) {
        const int64_t next = (count + fold - 1) / fold;
        for (int64_t k = 0; k < next; ++k) {
            const int64_t size = k + 1 < next ? fold : count - k * fold;
            __builtin_memcpy(run, runs + k * fold, size * sizeof(double));
            runs[k] = fold_run(run, size);
        }
        count = next;
    }
    return runs[0];
}

}  // namespace
}  // namespace hatebm
