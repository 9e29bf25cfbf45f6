"""Chains in the energy of a multilayer perceptron in Triton: a program takes a few chains through all their steps.

What the layers put out lies in rows of a workspace that stay in the caches. A chain's bits depend on its own numbers
alone, since every program multiplies tiles of one shape.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hatebm.kernels.activation import activated
from hatebm.kernels.law import numbers_of
from hatebm.kernels.quads import EXACT, NUMBERS, STRIDES
from hatebm.kernels.whole import (
    chains_of_program,
    free_of,
    kicked,
    law_of,
    normals_of_chains,
    schedule_of_chains,
    stepped,
    tell_norms,
    tell_pull,
)
from hatebm.ops.native.chains import ACTIVATIONS, NEVER, mark_moved
from hatebm.ops.native.extension import readable

CHAINS = 16  # of a program: as few as products of tiles take
TILE = 64  # features that a product takes at a time
LONGEST = 256  # elements of a chain that a program holds


@triton.jit
def product(
    rows, live, weight, bias, outputs, inputs, along, across, first, CHAINS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """What a layer makes of rows of inputs, (chains, TILE) of its outputs from ``first`` on."""
    o = first + tl.arange(0, TILE)
    total = tl.zeros((CHAINS, TILE), tl.float32)
    if bias is not None:
        total += tl.load(bias + o, mask=o < outputs, other=0.0)[None, :]
    for k0 in range(0, inputs, TILE):
        k = k0 + tl.arange(0, TILE)
        x = tl.load(rows[:, None] + k[None, :], mask=live[:, None] & (k < inputs)[None, :], other=0.0)
        inside = (k < inputs)[:, None] & (o < outputs)[None, :]
        w = tl.load(weight + k[:, None] * across + o[None, :] * along, mask=inside, other=0.0)
        total = tl.dot(x, w, total, input_precision="ieee")
    return o, total, live[:, None] & (o < outputs)[None, :]


@triton.jit
def evaluated(
    rows, desk, live, weights, biases, WIDTHS: tl.constexpr, ACTIVATIONS: tl.constexpr, PARAMETERS: tl.constexpr,
    AT: tl.constexpr, DEPTH: tl.constexpr, CHAINS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The energies, (chains,); their gradient lies where AT ends."""
    energy = tl.zeros((CHAINS,), tl.float32) + tl.load(biases[DEPTH])
    for layer in tl.static_range(DEPTH):
        below = rows if layer == 0 else desk + AT[2 * layer - 2]
        inputs, outputs = WIDTHS[layer], WIDTHS[layer + 1]
        for first in range(0, outputs, TILE):
            o, total, there = product(
                below, live, weights[layer], biases[layer], outputs, inputs, inputs, 1, first, CHAINS, TILE
            )  # fmt: skip
            value, slope = activated(total, PARAMETERS[layer], ACTIVATIONS[layer])
            if layer == DEPTH - 1:
                last = tl.load(weights[DEPTH] + o, mask=o < outputs, other=0.0)[None, :]
                energy += tl.sum(tl.where(there, last * value, 0.0), 1)
                slope = slope * last
            tl.store((desk + AT[2 * layer])[:, None] + o[None, :], value, mask=there)
            tl.store((desk + AT[2 * layer + 1])[:, None] + o[None, :], slope, mask=there)
        tl.debug_barrier()
    for layer in tl.static_range(DEPTH - 1, -1, -1):
        inputs, outputs = WIDTHS[layer], WIDTHS[layer + 1]
        for first in range(0, inputs, TILE):
            o, pull, there = product(
                desk + AT[2 * layer + 1], live, weights[layer], None, inputs, outputs, 1, inputs, first,
                CHAINS, TILE,
            )  # fmt: skip
            if layer > 0:
                slopes = (desk + AT[2 * layer - 1])[:, None] + o[None, :]
                pull = pull * tl.load(slopes, mask=there, other=0.0)
                tl.store(slopes, pull, mask=there)
            else:
                tl.store((desk + AT[2 * DEPTH])[:, None] + o[None, :], pull, mask=there)
        tl.debug_barrier()
    return energy


@triton.jit(do_not_specialize=NUMBERS)
def perceptron_look_at(
    x, weights, biases, work, energies, n, d, room,
    WIDTHS: tl.constexpr, ACTIVATIONS: tl.constexpr, PARAMETERS: tl.constexpr, AT: tl.constexpr, DEPTH: tl.constexpr,
    CHAINS: tl.constexpr, ELEMENTS: tl.constexpr, LEVELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    sample, live, _, _ = chains_of_program(n, d, CHAINS, ELEMENTS)
    rows, desk = x + sample * d, work + sample * room
    energy = evaluated(
        rows, desk, live, weights, biases, WIDTHS, ACTIVATIONS, PARAMETERS, AT, DEPTH, CHAINS, TILE
    )  # fmt: skip
    tl.store(energies + sample, energy, mask=live)


@triton.jit(do_not_specialize=[*NUMBERS, *STRIDES, "n_steps", "first_step", "every"])
def perceptron_steps(
    x, weights, biases, work, schedule, chain_ids, first_bad, mask, facts, n, d, room, n_steps, every,
    field_stride: tl.int64, step_stride: tl.int64, chain_stride: tl.int64,
    seed: tl.int64, first_step: tl.int64, low, high, width,
    WIDTHS: tl.constexpr, ACTIVATIONS: tl.constexpr, PARAMETERS: tl.constexpr, AT: tl.constexpr, DEPTH: tl.constexpr,
    NOISY: tl.constexpr, FIRST: tl.constexpr, CLAMP_NOISE: tl.constexpr, PRIOR: tl.constexpr, ADD: tl.constexpr,
    CLIP: tl.constexpr, CLIP_ON: tl.constexpr, WALLS: tl.constexpr, WATCHED: tl.constexpr, EACH: tl.constexpr,
    BLOCK: tl.constexpr, CHAINS: tl.constexpr, ELEMENTS: tl.constexpr, LEVELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """WIDTHS: of the state, then of each hidden layer; AT: where in the workspace its values and slopes lie."""
    sample, live, element, inside = chains_of_program(n, d, CHAINS, ELEMENTS)
    rows, desk = x + sample * d, work + sample * room
    x_at = rows[:, None] + element[None, :]
    state = tl.load(x_at, mask=inside, other=0.0)
    free = free_of(mask, sample, element, inside, d)
    bad = tl.full((CHAINS, 1), 0x7FFFFFFFFFFFFFFF, tl.int64)
    at, there = schedule_of_chains(schedule, chain_stride, sample, live, EACH)
    for i in range(n_steps):
        step_size, noise_std, inverse_temperature, prior_precision, bound = numbers_of(
            at + i * step_stride, field_stride, there
        )
        active = (step_size != 0.0) | (noise_std != 0.0)
        eps = state
        if NOISY:
            eps = normals_of_chains(seed, first_step + i, chain_ids, n, BLOCK, CHAINS, ELEMENTS)
        before = state
        if FIRST:
            state = kicked(state, eps, step_size, noise_std, low, high, width, NOISY, CLAMP_NOISE, WALLS)
            if mask is not None:
                state = tl.where(free, state, before)
        tl.debug_barrier()
        tl.store(x_at, state, mask=inside)
        tl.debug_barrier()
        energy = evaluated(
            rows, desk, live, weights, biases, WIDTHS, ACTIVATIONS, PARAMETERS, AT, DEPTH, CHAINS, TILE
        )  # fmt: skip
        g = tl.load((desk + AT[2 * DEPTH])[:, None] + element[None, :], mask=inside, other=0.0)
        if WATCHED:
            unclean = (tl.max((free & (g - g != 0.0)).to(tl.int32), 1) != 0) | (energy - energy != 0.0)
            bad = tl.where(active, tl.where(unclean[:, None] & (bad > first_step + i), first_step + i, bad), bad)
        if facts is not None:
            at_facts = (i // every).to(tl.int64) * n + sample
            if (first_step + i) % every == 0:
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
            if (first_step + i) % every == 0:
                tell_norms(facts[3] + at_facts, state - before, active, inside, live, LEVELS)
    tl.debug_barrier()
    tl.store(x_at, state, mask=inside)
    if WATCHED:
        tl.store(first_bad + sample[:, None], bad, mask=live[:, None])


def perceptron_fits(layers: Sequence[Any], device: torch.device) -> bool:
    """Whether a program holds the state of these chains."""
    return layers[0].weight.shape[1] <= LONGEST


def perceptron_chains_(x: Tensor, layers: Sequence[Any], steps: Any) -> Tensor:
    """Twin of :func:`hatebm.ops.native.perceptron_chains_`, to float32 rounding."""
    rows = readable(x)
    first_bad = torch.full((len(x),), NEVER, dtype=torch.int64, device=x.device)
    if rows.numel():
        with torch.cuda.device_of(x):
            grid, arguments = sharing(rows, layers)
            arguments |= law_of(steps, rows) | {"first_bad": first_bad}
            perceptron_steps[grid](**arguments)
    mark_moved(x, rows)
    return first_bad


def perceptron_look(x: Tensor, layers: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Twin of :func:`hatebm.ops.native.perceptron_look`: the bits that the chains of this backend step by."""
    rows = readable(x)
    energies = rows.new_empty(len(x))
    with torch.cuda.device_of(x):
        grid, arguments = sharing(rows, layers)
        perceptron_look_at[grid](**arguments, energies=energies)
    return energies, arguments["work"][:, -arguments["d"] :].reshape(rows.shape)


def sharing(rows: Tensor, layers: Sequence[Any]) -> tuple[tuple[int], dict[str, Any]]:
    """How programs share out chains, and what each is told of the layers."""
    hidden, d = layers[:-1], layers[0].weight.shape[1]
    widths = (d, *(len(layer.weight) for layer in hidden))
    at = (0, *accumulate(width for width in widths[1:] for _ in range(2)))
    room, elements = at[-1] + d, max(triton.next_power_of_2(d), 4)
    last = rows.new_zeros(1) if layers[-1].bias is None else layers[-1].bias
    arguments = {
        **{"x": rows, "weights": tuple(layer.weight for layer in layers)},
        **{"biases": (*(layer.bias for layer in hidden), last), "work": rows.new_empty(len(rows), room)},
        **{"n": len(rows), "d": d, "room": room, "WIDTHS": widths, "AT": at, "DEPTH": len(hidden)},
        **{"ACTIVATIONS": tuple(ACTIVATIONS.index(layer.activation) for layer in hidden)},
        **{"PARAMETERS": tuple(float(layer.parameter) for layer in hidden)},
        **{"CHAINS": CHAINS, "ELEMENTS": elements, "LEVELS": elements.bit_length() - 1, "TILE": TILE},
        **{"num_warps": 8},
        **EXACT,
    }
    return (triton.cdiv(len(rows), CHAINS),), arguments
