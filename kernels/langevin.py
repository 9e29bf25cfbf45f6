"""The Langevin step in Triton: one kernel, which streams over quads or takes samples whole where norms are wanted."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hatebm.kernels.law import clip_factor, moved, numbers_of, of_each_chain, total_gradient
from hatebm.kernels.noise import chain_of, normals_of
from hatebm.kernels.quads import (
    EXACT,
    NUMBERS,
    QUADS,
    STRIDES,
    elements_of,
    is_wide,
    offsets_of,
    place,
    program,
    sizes,
    value_or_load,
)
from hatebm.kernels.samples import ON_CHIP, quads_of_program, sharing
from hatebm.kernels.tree import RUN, fold_in_halves, norm_of, run_sums, tree_sum


@triton.jit(do_not_specialize=[*NUMBERS, *STRIDES])
def langevin_step(
    x, grad, noise, gz, image, chain_ids, grad_norm, displacement, diverged, sums, way_sums, n, d, pieces,
    shape, x_strides, grad_strides, noise_strides, gz_strides, image_strides,
    seed: tl.int64, step: tl.int64, seed_at, step_at, purpose_and_block: tl.int64,
    step_size, noise_std, inverse_temperature, prior_precision, bound, low, high,
    numbers, field_stride: tl.int64, chain_stride: tl.int64,
    PASS: tl.constexpr, NOISY: tl.constexpr, PRIOR: tl.constexpr, ADD: tl.constexpr, CLIP: tl.constexpr,
    CLIP_ON: tl.constexpr, RUNS: tl.constexpr, LEVELS: tl.constexpr, RUNS_LEVELS: tl.constexpr,
    VECTOR: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr,
):  # fmt: skip
    """PASS "stream": each element alone; "whole": a program a sample; "measure", then "move": a program RUNS runs."""
    seed, step = value_or_load(seed, seed_at), value_or_load(step, step_at)
    sample, quad, flat, live = quads_of_program(n, d, pieces, PASS, RUNS, WIDE, QUADS)
    inside = live[:, None] & (VECTOR | (elements_of(quad) < d))
    one = program(WIDE) // pieces + tl.arange(0, 1)  # the sample, where a program takes only one
    run = program(WIDE) % pieces * RUNS + tl.arange(0, RUNS)
    runs = (d + 1023) // 1024
    MIXED: tl.constexpr = numbers is not None
    if numbers is not None:
        if PASS == "stream":
            chain, there = sample[:, None], live[:, None]
        else:
            chain, there = one[:, None], True
        step_size, noise_std, inverse_temperature, prior_precision, bound = numbers_of(
            numbers + chain * chain_stride, field_stride, there
        )
    x_at = offsets_of(flat, sample, quad, d, shape, x_strides, VECTOR)
    state = tl.load(x + x_at, mask=inside, other=0.0)
    g = state
    if grad is not None:
        raw = tl.load(grad + offsets_of(flat, sample, quad, d, shape, grad_strides, VECTOR), mask=inside, other=0.0)
        raw = raw.to(tl.float32)
        if diverged is not None:
            unclean = tl.max((raw - raw != 0.0).to(tl.int32), 1) != 0
            tl.atomic_min(diverged + sample, (sample * 0).to(tl.int64) + step, mask=unclean & live)
        g = total_gradient(state, raw, inverse_temperature, prior_precision, PRIOR, MIXED)
    factor = 1.0
    if PASS == "measure":
        tl.store(sums + one.to(tl.int64) * runs + run, run_sums(g, RUNS, LEVELS), mask=run < runs)
    else:
        if grad is not None and PASS != "stream" and (CLIP == "norm" or grad_norm is not None):
            if PASS == "whole":
                squares = fold_in_halves(tl.reshape(run_sums(g, RUNS, LEVELS), (1, RUNS)), RUNS_LEVELS)
                if grad_norm is not None:
                    tl.store(grad_norm + one, norm_of(squares))
            else:
                squares = tl.load(sums + one)
            if CLIP == "norm":
                factor = clip_factor(norm_of(squares)[:, None], step_size, bound, CLIP_ON)
        eps = g
        if NOISY:
            if noise is not None:
                noise_at = offsets_of(flat, sample, quad, d, shape, noise_strides, VECTOR)
                eps = tl.load(noise + noise_at, mask=inside, other=0.0)
            else:
                eps = normals_of(seed, step, purpose_and_block, chain_of(chain_ids, sample, live), quad)
        gradient: tl.constexpr = grad is not None
        new = moved(
            state, g, eps, factor, step_size, noise_std, bound, low, high,
            gradient, NOISY, MIXED, ADD, CLIP, CLIP_ON,
        )  # fmt: skip
        tl.store(x + x_at, new, mask=inside)
        if gz is not None:
            beside = tl.load(gz + offsets_of(flat, sample, quad, d, shape, gz_strides, VECTOR), mask=inside, other=0.0)
            image_at = offsets_of(flat, sample, quad, d, shape, image_strides, VECTOR)
            tl.store(image + image_at, beside + new, mask=inside)
        if PASS != "stream" and displacement is not None:
            way = run_sums(tl.where(inside, new - state, 0.0), RUNS, LEVELS)
            if PASS == "whole":
                squares = fold_in_halves(tl.reshape(way, (1, RUNS)), RUNS_LEVELS)
                tl.store(displacement + one, norm_of(squares))
            else:
                tl.store(way_sums + one.to(tl.int64) * runs + run, way, mask=run < runs)


def langevin_step_(
    x: Tensor,
    grad: Tensor | None,
    *,
    step_size: float,
    noise_std: float,
    seed: int | Tensor,
    step: int | Tensor,
    inverse_temperature: float = 1.0,
    prior_precision: float = 0.0,
    bound: float = 0.0,
    numbers: Tensor | None = None,
    add: str = "sequential",
    clip: str | None = None,
    clip_on: str = "grad",
    low: float = -math.inf,
    high: float = math.inf,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
    noise: Tensor | None = None,
    gz: Tensor | None = None,
    image: Tensor | None = None,
    grad_norm: Tensor | None = None,
    displacement: Tensor | None = None,
    diverged: Tensor | None = None,
) -> None:
    """Twin of :func:`hatebm.ops.reference.langevin_step_`."""
    n, d = sizes(x)
    for norms, unmeasured in ((grad_norm, grad is None), (displacement, False)):
        if norms is not None and (unmeasured or d == 0):
            norms.zero_()
    if n * d == 0:
        return
    tensors = {"x": x, "grad": grad, "noise": noise, "gz": gz, "image": image}
    strided = any(v is not None and not v.is_contiguous() for v in tensors.values())
    arguments = {
        **tensors,
        **strides_of(tensors, strided),
        **place(seed, step, block, purpose),
        **{"chain_ids": chain_ids, "grad_norm": grad_norm, "displacement": displacement, "diverged": diverged},
        **{"step_size": step_size, "noise_std": noise_std, "bound": bound, "low": low, "high": high},
        **{"inverse_temperature": inverse_temperature, "prior_precision": prior_precision},
        **of_each_chain(numbers, n, x.device),
        **{"NOISY": noise_std != 0, "PRIOR": prior_precision != 0, "ADD": add, "CLIP": clip, "CLIP_ON": clip_on},
        **{"n": n, "d": d, "VECTOR": d % 4 == 0 and not strided, "WIDE": strided or is_wide(n * d)},
        **EXACT,
    }
    measured = grad is not None and (clip == "norm" or grad_norm is not None)
    with torch.cuda.device_of(x):
        if not measured and displacement is None:
            grid = (triton.cdiv(n * triton.cdiv(d, 4), QUADS),)
            langevin_step[grid](**arguments, **sharing("stream", 4 * QUADS), sums=None, way_sums=None)
        elif d <= ON_CHIP:
            langevin_step[(n,)](**arguments, **sharing("whole", d), sums=None, way_sums=None)
        else:
            in_two_passes(arguments, measured)


def in_two_passes(arguments: dict, measured: bool) -> None:
    """Long samples: run sums of the gradients and their trees first, then the step, then the trees of its way."""
    x, n, d, displacement = (arguments[name] for name in ("x", "n", "d", "displacement"))
    pieces = triton.cdiv(d, ON_CHIP)
    sums = way_sums = None
    if measured:
        sums = torch.empty(n, triton.cdiv(d, RUN), dtype=torch.float64, device=x.device)
        langevin_step[(n * pieces,)](**arguments, **sharing("measure", ON_CHIP, pieces), sums=sums, way_sums=None)
        sums = tree_sum(sums, arguments["grad_norm"])
    if displacement is not None:
        way_sums = torch.empty(n, triton.cdiv(d, RUN), dtype=torch.float64, device=x.device)
    langevin_step[(n * pieces,)](**arguments, **sharing("move", ON_CHIP, pieces), sums=sums, way_sums=way_sums)
    if displacement is not None:
        tree_sum(way_sums, displacement)


def strides_of(tensors: dict[str, Tensor | None], strided: bool) -> dict[str, tuple[int, ...] | None]:
    """The sample's shape and each tensor's strides, or None where all are row-major."""
    strides = {f"{name}_strides": v.stride() if strided and v is not None else None for name, v in tensors.items()}
    return {"shape": tuple(tensors["x"].shape[1:]) if strided else None, **strides}
