// What the CPU loops take. Each loop is compiled once per instruction set, in a namespace of that name.
#pragma once

#include "formulas/args.h"
#include "cpu/convolution.h"
#include "cpu/mlp.h"
#include "formulas/proposals.h"
#include "formulas/whole.h"
#include "cpu/winograd.h"

namespace hatebm {

struct StepArgs : Step {
    int threads;
};

struct NormalArgs : Normals {
    int threads;
};

struct RatioArgs : Ratio {
    int threads;
};

struct DecisionArgs : Decisions {
    int threads;
};

struct ActivationArgs {
    Activation kind;
    float parameter;
    int64_t count;
    const float* x;
    float *values, *slopes;
    int threads;
};

// Numbers of each channel: one set for all images (`step` 0), or for each image; null for none.
struct OfChannels {
    const float* at;
    int64_t step;
};

// activation(gain x) + shift and its slopes in x, of channels_last images whose channels are a multiple of 16.
struct ModulatedArgs : ActivationArgs {
    int64_t images, channels;
    OfChannels gain, shift;
};

struct WholeArgs : Whole {
    int threads;
};

struct ProposedArgs : Proposed {
    int threads;
};

struct LookArgs : Look {
    int threads;
};

struct CpuKernels {
    const char* name;
    void (*langevin_step)(const StepArgs&);
    void (*langevin_ratio)(const RatioArgs&);
    void (*metropolis)(const DecisionArgs&);
    void (*normal)(const NormalArgs&);
    void (*residual_add)(const float* gz, const float* y, float* out, int64_t numel, int threads);
    void (*whole)(const WholeArgs&);
    void (*corrected)(const ProposedArgs&);
    void (*look)(const LookArgs&);
    void (*mlp_chains)(const MlpArgs&);
    void (*mlp_look)(const MlpLookArgs&);
    void (*activation)(const ActivationArgs&);
    void (*modulated)(const ModulatedArgs&);
    void (*filter_weight)(const FilterWeight&, int threads);
    void (*filter)(const FilterArgs&);
    void (*stem)(const ConvolutionArgs&, bool pulled_back);
    void (*direct)(const ConvolutionArgs&, bool pulled_back);
};

#define HATEBM_DECLARE(isa)                                                                          \
    namespace isa {                                                                                  \
    void langevin_step(const StepArgs&);                                                             \
    void langevin_ratio(const RatioArgs&);                                                           \
    void metropolis(const DecisionArgs&);                                                            \
    void normal(const NormalArgs&);                                                                  \
    void residual_add(const float* gz, const float* y, float* out, int64_t numel, int threads);      \
    void whole(const WholeArgs&);                                                                    \
    void corrected(const ProposedArgs&);                                                             \
    void look(const LookArgs&);                                                                      \
    void mlp_chains(const MlpArgs&);                                                                 \
    void mlp_look(const MlpLookArgs&);                                                               \
    void activation(const ActivationArgs&);                                                          \
    void modulated(const ModulatedArgs&);                                                            \
    void filter_weight(const FilterWeight&, int threads);                                            \
    void filter(const FilterArgs&);                                                                  \
    void stem(const ConvolutionArgs&, bool pulled_back);                                             \
    void direct(const ConvolutionArgs&, bool pulled_back);                                           \
    }
HATEBM_DECLARE(baseline)
#ifdef HATEBM_X86
HATEBM_DECLARE(avx2)
HATEBM_DECLARE(avx512)
#endif

}  // namespace hatebm
