"""Whole chains in Triton, for energies with a formula: a program takes a few chains through all their steps."""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hatebm.kernels.energies import energy_of, looked_at
from hatebm.kernels.law import clamp, clip_factor, folded, moved, numbers_of, total_gradient
from hatebm.kernels.noise import chain_of, normals_of
from hatebm.kernels.quads import EXACT, NUMBERS, STRIDES, place
from hatebm.kernels.tree import fold_in_halves, norm_of
from hatebm.ops.native.chains import NEVER, mark_moved, schedule_at
from hatebm.ops.native.extension import readable

AT_ONCE = 128  # elements of a warp: a quad to each thread
OPTIONS = EXACT if torch.version.hip else EXACT | {"maxnreg": 128}  # ptxas's own choice leaves words on the stack
ROOMY = EXACT if torch.version.hip else EXACT | {"maxnreg": 255}  # for walls that reflect


@triton.jit
def chains_of_program(n, d, CHAINS: tl.constexpr, ELEMENTS: tl.constexpr):
    """Which chains a program takes, whether they exist, their elements, and which of these exist."""
    sample = tl.program_id(0).to(tl.int64) * CHAINS + tl.arange(0, CHAINS)
    element = tl.arange(0, ELEMENTS)
    live = sample < n
    return sample, live, element, live[:, None] & (element < d)[None, :]


@triton.jit
def free_of(mask, sample, element, inside, d):
    """Which elements of chains there are, and may move."""
    if mask is not None:
        inside = inside & (tl.load(mask + sample[:, None] * d + element[None, :], mask=inside, other=0) != 0)
    return inside


@triton.jit
def normals_of_chains(seed, step, chain_ids, n, BLOCK: tl.constexpr, CHAINS: tl.constexpr, ELEMENTS: tl.constexpr):
    """The normals of a block of a program's chains at a step, (chains, elements)."""
    i = tl.arange(0, CHAINS * ELEMENTS // 4)
    sample = tl.program_id(0).to(tl.int64) * CHAINS + i // (ELEMENTS // 4)
    eps = normals_of(seed, step, step * 0 + BLOCK, chain_of(chain_ids, sample, sample < n), i % (ELEMENTS // 4))
    return tl.reshape(eps, (CHAINS, ELEMENTS))


@triton.jit
def schedule_of_chains(schedule, chain_stride, sample, live, EACH: tl.constexpr):
    """Where the numbers of a run begin, of all chains or, with EACH, in a column, and which of them exist."""
    if EACH:
        at, there = schedule + sample[:, None] * chain_stride, live[:, None]
    else:
        at, there = schedule, True
    return at, there


@triton.jit
def kicked(
    state, eps, step_size, noise_std, low, high, width,
    NOISY: tl.constexpr, CLAMP_NOISE: tl.constexpr, WALLS: tl.constexpr,
):  # fmt: skip
    """The state with the noise of a law that adds it before the gradient is taken."""
    if NOISY:
        state = tl.where(noise_std != 0.0, state + noise_std * eps, state)
    if CLAMP_NOISE:
        inside = folded(state, low, high, width, WALLS) if WALLS else clamp(state, low, high)
        state = tl.where((step_size != 0.0) | (noise_std != 0.0), inside, state)
    return state


@triton.jit
def stepped(
    state, g, eps, free, step_size, noise_std, inverse_temperature, prior_precision, bound, low, high, width,
    NOISY: tl.constexpr, PRIOR: tl.constexpr, ADD: tl.constexpr, CLIP: tl.constexpr, CLIP_ON: tl.constexpr,
    WALLS: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """The states of chains, a row each, after a step with gradient g of the energy."""
    g = total_gradient(state, g, inverse_temperature, prior_precision, PRIOR, True)
    factor = 1.0
    if CLIP == "norm":
        squares = tl.where(free, g, 0.0).to(tl.float64)
        factor = clip_factor(norm_of(fold_in_halves(squares * squares, LEVELS))[:, None], step_size, bound, CLIP_ON)
    left = -float("inf") if WALLS else low
    right = float("inf") if WALLS else high
    new = moved(
        state, g, eps, factor, step_size, noise_std, bound, left, right, True, NOISY, True, ADD, CLIP, CLIP_ON
    )  # fmt: skip
    return folded(new, low, high, width, WALLS) if WALLS else new


@triton.jit
def tell_norms(rows, v, active, free, live, LEVELS: tl.constexpr):
    """Write the norm of each row of v, 0 of a chain that rests."""
    squares = tl.where(active, tl.where(free, v, 0.0), 0.0).to(tl.float64)
    tl.store(rows, norm_of(fold_in_halves(squares * squares, LEVELS)), mask=live)


@triton.jit
def tell_pull(
    facts, at, state, g, energy, active, free, live, inverse_temperature, prior_precision,
    PRIOR: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Write what is known of a step where it takes its gradient."""
    tl.store(facts[0] + at, energy, mask=live)
    pull = total_gradient(state, g, inverse_temperature, prior_precision, PRIOR, True)
    tell_norms(facts[1] + at, pull, active, free, live, LEVELS)
    bare = total_gradient(state, g, inverse_temperature, prior_precision, False, True)
    tell_norms(facts[2] + at, bare, active, free, live, LEVELS)


@triton.jit(do_not_specialize=[*NUMBERS, *STRIDES, "d", "components", "n_steps", "first_step", "every"])
def whole_steps(
    x, where, weight, scratch, schedule, chain_ids, first_bad, mask, facts, n, d, components, n_steps, every,
    field_stride: tl.int64, step_stride: tl.int64, chain_stride: tl.int64,
    seed: tl.int64, first_step: tl.int64, low, high, width, reach, first_reach,
    KIND: tl.constexpr, NOISY: tl.constexpr, FIRST: tl.constexpr, CLAMP_NOISE: tl.constexpr, PRIOR: tl.constexpr,
    ADD: tl.constexpr, CLIP: tl.constexpr, CLIP_ON: tl.constexpr, WALLS: tl.constexpr, WATCHED: tl.constexpr,
    BLOCK: tl.constexpr, EACH: tl.constexpr, CHAINS: tl.constexpr, ELEMENTS: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    sample, live, element, inside = chains_of_program(n, d, CHAINS, ELEMENTS)
    REREAD: tl.constexpr = KIND == "full" or KIND == "funnel" or KIND == "mixture"  # what lies in x itself
    rows = x + sample * d
    x_at = rows[:, None] + element[None, :]
    pulls = scratch
    if scratch is not None:
        pulls = scratch + sample * components
    else:
        pulls = rows
    reaches = tl.where(element == 0, first_reach, reach)[None, :]
    state = tl.load(x_at, mask=inside, other=0.0)
    free = free_of(mask, sample, element, inside, d)
    bad = tl.full((CHAINS, 1), 0x7FFFFFFFFFFFFFFF, tl.int64)
    at, there = schedule_of_chains(schedule, chain_stride, sample, live, EACH)
    for i in range(n_steps):
        step_size, noise_std, inverse_temperature, prior_precision, bound = numbers_of(
            at + i * step_stride, field_stride, there
        )
        active = (step_size != 0.0) | (noise_std != 0.0)
        step = first_step + i
        eps = state
        if NOISY:
            eps = normals_of_chains(seed, step, chain_ids, n, BLOCK, CHAINS, ELEMENTS)
        before = state
        if FIRST:
            state = kicked(state, eps, step_size, noise_std, low, high, width, NOISY, CLAMP_NOISE, WALLS)
            if mask is not None:
                state = tl.where(free, state, before)
            if REREAD:
                tl.store(x_at, state, mask=inside)
                tl.debug_barrier()
        g, terms = looked_at(state, rows, live, element, where, weight, pulls, d, components, KIND)
        if WATCHED:
            far = inside & ~(tl.abs(state) <= reaches)
            if tl.max(tl.max(far.to(tl.int32), 1), 0) != 0:
                energy = energy_of(terms, where, KIND, LEVELS)
                unclean = (tl.max((free & (g - g != 0.0)).to(tl.int32), 1) != 0) | (energy - energy != 0.0)
                bad = tl.where(active, tl.where(unclean[:, None] & (bad > step), step, bad), bad)
        if facts is not None:
            at_facts = (i // every).to(tl.int64) * n + sample
            if step % every == 0:
                energy = energy_of(terms, where, KIND, LEVELS)
                tell_pull(
                    facts, at_facts, state, g, energy, active, free, live, inverse_temperature, prior_precision,
                    PRIOR, LEVELS,
                )  # fmt: skip
        new = stepped(
            state, g, eps, free, step_size, noise_std, inverse_temperature, prior_precision, bound, low, high, width,
            NOISY and not FIRST, PRIOR, ADD, CLIP, CLIP_ON, WALLS, LEVELS,
        )  # fmt: skip
        state = tl.where(active, new, before)
        if mask is not None:
            state = tl.where(free, state, before)
        if facts is not None:
            at_facts = (i // every).to(tl.int64) * n + sample
            if step % every == 0:
                tell_norms(facts[3] + at_facts, state - before, active, inside, live, LEVELS)
        if REREAD:
            tl.debug_barrier()
            tl.store(x_at, state, mask=inside)
            tl.debug_barrier()
    tl.store(x_at, state, mask=inside)
    if WATCHED:
        tl.store(first_bad + sample[:, None], bad, mask=live[:, None])


@triton.jit(do_not_specialize=[*NUMBERS, "d", "components"])
def look_at(
    x, where, weight, scratch, energies, gradients, n, d, components,
    KIND: tl.constexpr, CHAINS: tl.constexpr, ELEMENTS: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    sample, live, element, inside = chains_of_program(n, d, CHAINS, ELEMENTS)
    rows, places = x + sample * d, sample[:, None] * d + element[None, :]
    pulls = scratch
    if scratch is not None:
        pulls = scratch + sample * components
    else:
        pulls = rows
    state = tl.load(x + places, mask=inside, other=0.0)
    g, terms = looked_at(state, rows, live, element, where, weight, pulls, d, components, KIND)
    tl.store(energies + sample, energy_of(terms, where, KIND, LEVELS), mask=live)
    tl.store(gradients + places, g, mask=inside)


def look(formula: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Twin of :func:`hatebm.ops.native.look`, for at most 1024 elements a sample."""
    rows = readable(rows)
    energies, gradient = rows.new_zeros(len(rows)), torch.empty_like(rows)
    if rows.numel():
        with torch.cuda.device_of(rows):
            grid, arguments = sharing(formula, rows)
            look_at[grid](**arguments, energies=energies, gradients=gradient)
    return energies, gradient


def whole_chains_(formula: Any, reach: tuple[float, ...], x: Tensor, steps: Any) -> Tensor:
    """Twin of :func:`hatebm.ops.native.whole_chains_`, for at most 1024 elements a chain."""
    rows = readable(x)
    first_bad = torch.full((len(x),), NEVER, dtype=torch.int64, device=x.device)
    law = law_of(steps, rows) | {"reach": reach[0], "first_reach": reach[-1], "first_bad": first_bad}
    if rows.numel():
        with torch.cuda.device_of(x):
            grid, arguments = sharing(formula, rows)
            whole_steps[grid](**arguments | law | (ROOMY if steps.reflect else {}))
    mark_moved(x, rows)
    return first_bad


def law_of(steps: Any, rows: Tensor) -> dict[str, Any]:
    """The law of a run of steps of these chains as kernels take it."""
    _, field, step, chain = schedule_at(steps, len(rows), rows.device)
    at = place(steps.seed, steps.first_step, 0, 0)
    return {
        **{"n_steps": steps.n_steps, "seed": at["seed"], "first_step": at["step"], "BLOCK": steps.block},
        **{"chain_ids": steps.chain_ids},
        **{"schedule": steps.schedule, "field_stride": field, "step_stride": step, "chain_stride": chain},
        **{"EACH": steps.schedule.dim() == 3, "low": steps.low, "high": steps.high},
        **{"mask": steps.mask, "facts": steps.facts and tuple(steps.facts[1:])},
        **{"every": steps.facts.every if steps.facts else 1},
        **{"NOISY": steps.noisy, "PRIOR": steps.prior, "FIRST": steps.noise_at == "before"},
        **{"CLAMP_NOISE": steps.clamp_noise, "ADD": steps.add},
        **{"CLIP": steps.clip, "CLIP_ON": steps.clip_on, "WATCHED": steps.watched},
        **{"width": steps.high - steps.low},
        **{"WALLS": math.isfinite(steps.low) + math.isfinite(steps.high) if steps.reflect else 0},
    }


def sharing(formula: Any, rows: Tensor) -> tuple[tuple[int], dict[str, Any]]:
    """How programs share out chains, and what each is told of the energy: a quad to each thread."""
    n, d = rows.shape[0], formula.d
    elements = max(triton.next_power_of_2(d), 4)
    chains = max(AT_ONCE // elements, 1)
    room = rows.new_empty(n, formula.components) if formula.kind == "mixture" else None
    arguments = {
        **{"x": rows, "where": formula.where, "weight": formula.weight, "scratch": room},
        **{"n": n, "d": d, "components": formula.components, "KIND": formula.kind, "CHAINS": chains},
        **{"ELEMENTS": elements, "LEVELS": elements.bit_length() - 1},
        **{"num_warps": max(chains * elements // AT_ONCE, 1)},
        **OPTIONS,
    }
    return (triton.cdiv(n, chains),), arguments
