// Steps that need a sum over each sample.
#pragma once

#include "cuda.h"

namespace hatebm::cuda {

void step_samples(const Step& step, bool vector, double* sums, const Launch& launch);

}  // namespace hatebm::cuda
