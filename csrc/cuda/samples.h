// Sums over each sample, and the steps that need them.
#pragma once

#include "cuda/cuda.h"

namespace hatebm::cuda {

enum class Pass { whole, measure, move };

constexpr int runs_on_chip = 8;  // a longer sample is measured in one pass over memory and moved in a second

int64_t runs_of(int64_t d);

// Folds each sample's run sums into the first of them; `norms` or `totals`, if any, receive their roots or themselves.
void fold_runs(double* sums, int64_t n, int64_t runs, float* norms, double* totals, const Launch& launch);

void step_samples(const Step& step, bool vector, double* sums, const Launch& launch);

}  // namespace hatebm::cuda
