// How tensors cross from Python: as addresses, sizes, strides and numbers.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "formulas/args.h"
#include "formulas/proposals.h"
#include "formulas/whole.h"

namespace hatebm {

namespace py = pybind11;

#ifdef HATEBM_CUDA
void bind_cuda(py::module_& m);
#endif

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// The same for what a kernel cannot do without: a tensor without memory is refused here, not met as a crash.
template <class T>
T* held(uintptr_t address, int64_t count, const char* name) {
    if (address == 0 && count > 0)
        throw std::invalid_argument("hatebm: " + std::string(name) + " must lie in memory, got a null address for " +
                                    std::to_string(count) + " numbers");
    return at<T>(address);
}

// The sizes of the sample's dimensions, then the strides of x, grad, noise, gz and image, the chain's first; no strides:
// no such tensor.
inline Layout layout_of(const std::vector<std::vector<int64_t>>& rows) {
    Layout layout{};
    if (rows.empty()) return layout;
    layout.dims = static_cast<int>(rows[0].size());
    if (layout.dims > max_dims) throw std::invalid_argument("langevin_step_: more than 8 sample dimensions");
    Strides& s = layout.strides;
    int64_t* strides[] = {s.x, s.grad, s.noise, s.gz, s.image};
    for (int k = 0; k < layout.dims; ++k) layout.sizes[k] = rows[0][k];
    for (size_t tensor = 1; tensor < rows.size(); ++tensor)
        for (size_t k = 0; k < rows[tensor].size(); ++k) strides[tensor - 1][k] = rows[tensor][k];
    return layout;
}

// The Python signature of a backend's step: the numbers of a Step, then where it runs.
template <class... Where>
auto taking_numbers(void (*langevin_step)(const Step&, Where...)) {
    return [langevin_step](uintptr_t x, uintptr_t grad, int grad_type, uintptr_t noise, uintptr_t gz, uintptr_t image,
                           int64_t n, int64_t d, float step_size, float noise_std, float inverse_temperature,
                           float prior_precision, float bound, uintptr_t numbers, int64_t field, int64_t chain, int add,
                           int clip, bool clip_on_update, float low, float high, uint64_t seed, uint64_t step,
                           uint32_t block, uint32_t purpose, uintptr_t chain_ids, uintptr_t grad_norm,
                           uintptr_t displacement, uintptr_t diverged, const std::vector<std::vector<int64_t>>& layout,
                           Where... where) {
        const Law law{step_size, noise_std, inverse_temperature, prior_precision, static_cast<Add>(add),
                      static_cast<Clip>(clip), clip_on_update, bound, low, high};
        const GradType type = static_cast<GradType>(grad_type);
        const Step args{held<float>(x, n * d, "x"), held<void>(grad, type == GradType::none ? 0 : n * d, "grad"), type,
                        at<float>(noise), at<float>(gz), held<float>(image, gz == 0 ? 0 : n * d, "image"), n, d, law,
                        {at<float>(numbers), field, 0, chain}, {seed, step, block, purpose}, at<int64_t>(chain_ids), at<float>(grad_norm), at<float>(displacement),
                        at<int64_t>(diverged), layout_of(layout)};
        py::gil_scoped_release release;
        langevin_step(args, where...);
    };
}

// The same for a ratio.
template <class... Where>
auto taking_numbers(void (*langevin_ratio)(const Ratio&, Where...)) {
    return [langevin_ratio](uintptr_t x, uintptr_t grad, uintptr_t proposal, uintptr_t proposal_grad, int grad_type,
                            int64_t n, int64_t d, float step_size, float inverse_temperature, float prior_precision,
                            float bound, uintptr_t numbers, int64_t field, int64_t chain, int clip, bool clip_on_update,
                            double half_precision, double half_prior, uintptr_t halves, uintptr_t out, Where... where) {
        Law law{};
        law.step_size = step_size, law.inverse_temperature = inverse_temperature, law.prior_precision = prior_precision;
        law.clip = static_cast<Clip>(clip), law.clip_on_update = clip_on_update, law.bound = bound;
        const Ratio args{held<float>(x, n * d, "x"), held<void>(grad, n * d, "grad"),
                         held<float>(proposal, n * d, "proposal"), held<void>(proposal_grad, n * d, "proposal_grad"),
                         static_cast<GradType>(grad_type), n, d, law, {at<float>(numbers), field, 0, chain},
                         half_precision, half_prior, at<double>(halves), held<double>(out, n, "out")};
        py::gil_scoped_release release;
        langevin_ratio(args, where...);
    };
}

// An energy as it crosses: its kind, d and components, the addresses of `where` and `weight`, and its reaches.
using EnergyTold = std::tuple<int, int64_t, int64_t, uintptr_t, uintptr_t, float, float>;

inline Formula formula_of(const EnergyTold& told) {
    const auto [kind, d, components, where, weight, reach, first_reach] = told;
    const bool weighted = static_cast<Kind>(kind) < Kind::double_well;
    return {static_cast<Kind>(kind), d, components, held<float>(where, d, "where"),
            held<float>(weight, weighted ? d : 0, "weight"), reach, first_reach};
}

// A run of steps as it crosses: how many; where their numbers lie, and how far apart those of fields, steps and chains;
// whether any noise or prior may not be 0; add, clip, clip_on_update, low, high, noise_first, clamp_noise; seed, first
// step, block, and the addresses of chain_ids and first_bad; the address of a mask, and whether walls reflect; of how many steps
// one is told of, 0 for none, and the addresses of what is told.
using Told = std::tuple<int64_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t>;
using Run = std::tuple<int64_t, uintptr_t, int64_t, int64_t, int64_t, bool, bool, int, int, bool, double, double, bool,
                       bool, uint64_t, uint64_t, uint32_t, uintptr_t, uintptr_t, uintptr_t, bool, Told>;

inline Chains chains_of(const Run& run, float* x, int64_t n) {
    const auto [n_steps, numbers, field, step, chain, noisy, prior, add, clip, clip_on_update, low, high, noise_first,
                clamp_noise, seed, first_step, block, chain_ids, first_bad, mask, reflect, told] = run;
    const auto [every, energy, grad_norm, grad_norm_energy, displacement] = told;
    const Law law{0, noisy ? 1.0f : 0.0f, 1, prior ? 1.0f : 0.0f, static_cast<Add>(add), static_cast<Clip>(clip),
                  clip_on_update, 0, static_cast<float>(low), static_cast<float>(high)};
    return {x, n, n_steps, {held<float>(numbers, n_steps, "schedule"), field, step, chain}, law, noise_first, clamp_noise,
            {seed, first_step, block, 0}, at<int64_t>(chain_ids), at<int64_t>(first_bad), at<bool>(mask), reflect,
            static_cast<float>(high - low),
            {every, at<float>(energy), at<float>(grad_norm), at<float>(grad_norm_energy), at<float>(displacement)}};
}

// The same for whole chains in an energy with a formula, and for one look at it.
template <class... Where>
auto taking_numbers(void (*whole)(const Whole&, Where...)) {
    return [whole](const EnergyTold& energy, uintptr_t x, int64_t n, const Run& run, Where... where) {
        const Formula formula = formula_of(energy);
        const Whole args{chains_of(run, held<float>(x, n * formula.d, "x"), n), formula};
        py::gil_scoped_release release;
        whole(args, where...);
    };
}

// The proposals of a run: whether they are tested, leapfrog steps; where their shares lie, and how far apart those of two
// kinds and two steps; the addresses of velocity, refused, accept and nan_refused.
using ProposalsTold =
    std::tuple<bool, int64_t, uintptr_t, int64_t, int64_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t>;

template <class... Where>
auto taking_numbers(void (*corrected)(const Proposed&, Where...)) {
    return [corrected](const EnergyTold& energy, uintptr_t x, int64_t n, const Run& run, const ProposalsTold& told,
                       Where... where) {
        const Formula formula = formula_of(energy);
        const auto [tested, leapfrog_steps, shares, field, step, velocity, refused, accept, nan_refused] = told;
        const Whole chains{chains_of(run, held<float>(x, n * formula.d, "x"), n), formula};
        const Proposed args{chains, {tested, leapfrog_steps, held<double>(shares, chains.n_steps, "shares"), field, step,
                                     at<float>(velocity), held<bool>(refused, n, "refused"), at<float>(accept),
                                     at<float>(nan_refused)}};
        py::gil_scoped_release release;
        corrected(args, where...);
    };
}

template <class... Where>
auto taking_numbers(void (*look)(const Look&, Where...)) {
    return [look](const EnergyTold& energy, uintptr_t x, int64_t n, uintptr_t energies, uintptr_t gradients, Where... where) {
        const Formula formula = formula_of(energy);
        const Look args{formula, held<float>(x, n * formula.d, "x"), n, held<float>(energies, n, "energies"),
                        held<float>(gradients, n * formula.d, "gradients")};
        py::gil_scoped_release release;
        look(args, where...);
    };
}

}  // namespace hatebm
