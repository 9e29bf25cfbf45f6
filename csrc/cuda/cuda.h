// What the CUDA launches take: everything lies on the device, nothing waits for it.
#pragma once

#include <string>

#include "formulas/args.h"
#include "cuda/mlp.h"
#include "formulas/whole.h"

namespace hatebm::cuda {

struct Launch {
    int device;
    void* stream;
    const int64_t* seed_at;  // where the device reads the seed and the step, or null: they are the Draw's
    const int64_t* step_at;
};

std::string unavailable();  // why no device answers; empty when one does

// Elements of one set of run sums; 0 where a sample fits on chip. `sums` has room for two sets for a step that gathers
// norms; for a ratio, for three with a norm clip and for one without.
int64_t workspace(int64_t n, int64_t d);
void langevin_step(const Step& step, double* sums, const Launch& launch);
void langevin_ratio(const Ratio& ratio, double* sums, const Launch& launch);
void whole(const Whole& chains, const Launch& launch);
void look(const Look& states, const Launch& launch);
bool mlp_fits(const Perceptron& net, int device);  // whether its panels fit on chip
void mlp_chains(const MlpChains& chains, const Launch& launch);
void mlp_look(const MlpLook& states, const Launch& launch);
void metropolis(const Decisions& decisions, const Launch& launch);
void normal(const Normals& normals, const Launch& launch);
void residual_add(const float* gz, const float* y, float* out, int64_t numel, const Launch& launch);
void philox(const int64_t* counters, const int64_t* keys, int64_t* words, int64_t m, const Launch& launch);

}  // namespace hatebm::cuda
