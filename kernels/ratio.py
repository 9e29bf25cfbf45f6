"""The Metropolis-Hastings ratio in Triton: a program takes a sample whole, or pieces of a long one."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hatebm.kernels.law import clip_factor, drift_of, numbers_of, of_each_chain, ratio_element, total_gradient
from hatebm.kernels.quads import EXACT, STRIDES, elements_of, is_wide, offsets_of, program, sizes
from hatebm.kernels.samples import ON_CHIP, quads_of_program, sharing
from hatebm.kernels.tree import RUN, fold_in_halves, norm_of, run_sums, run_totals, tree_sum
from hatebm.ops.native.extension import readable
from hatebm.ops.reference import ratio_coefficients


@triton.jit(do_not_specialize=["n", *STRIDES])
def ratio_quads(
    x, grad, proposal, proposal_grad, squares, sums, n, d, pieces,
    step_size, inverse_temperature, prior_precision, bound, half_precision: tl.float64, half_prior: tl.float64,
    numbers, field_stride: tl.int64, chain_stride: tl.int64, halves,
    PASS: tl.constexpr, PRIOR: tl.constexpr, CLIP: tl.constexpr, CLIP_ON: tl.constexpr, RUNS: tl.constexpr,
    LEVELS: tl.constexpr, RUNS_LEVELS: tl.constexpr, VECTOR: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr,
):  # fmt: skip
    """PASS "whole": a program a sample, sums (n,); "measure", then "move": a program RUNS runs, sums (..., n, runs)."""
    sample, quad, flat, live = quads_of_program(n, d, pieces, PASS, RUNS, WIDE, QUADS)
    inside = live[:, None] & (VECTOR | (elements_of(quad) < d))
    one = (program(WIDE) // pieces + tl.arange(0, 1)).to(tl.int64)  # the sample
    run = program(WIDE) % pieces * RUNS + tl.arange(0, RUNS)
    runs = (d + 1023) // 1024
    MIXED: tl.constexpr = numbers is not None
    if numbers is not None:
        step_size, _, inverse_temperature, prior_precision, bound = numbers_of(
            numbers + one[:, None] * chain_stride, field_stride, True
        )
    if halves is not None:
        half_precision, half_prior = tl.load(halves + one)[:, None], tl.load(halves + n + one)[:, None]
    at = offsets_of(flat, sample, quad, d, None, None, VECTOR)
    start = tl.load(x + at, mask=inside, other=0.0)
    end = tl.load(proposal + at, mask=inside, other=0.0)
    there = tl.load(grad + at, mask=inside, other=0.0)
    back = tl.load(proposal_grad + at, mask=inside, other=0.0)
    there = total_gradient(start, there, inverse_temperature, prior_precision, PRIOR, MIXED)
    back = total_gradient(end, back, inverse_temperature, prior_precision, PRIOR, MIXED)
    factor_there = 1.0
    factor_back = 1.0
    if PASS == "measure":
        tl.store(sums + one * runs + run, run_sums(there, RUNS, LEVELS), mask=run < runs)
        tl.store(sums + (n + one) * runs + run, run_sums(back, RUNS, LEVELS), mask=run < runs)
    else:
        if CLIP == "norm":
            if PASS == "whole":
                there_squares = fold_in_halves(tl.reshape(run_sums(there, RUNS, LEVELS), (1, RUNS)), RUNS_LEVELS)
                back_squares = fold_in_halves(tl.reshape(run_sums(back, RUNS, LEVELS), (1, RUNS)), RUNS_LEVELS)
            else:
                there_squares = tl.load(squares + one)
                back_squares = tl.load(squares + n + one)
            factor_there = clip_factor(norm_of(there_squares)[:, None], step_size, bound, CLIP_ON)
            factor_back = clip_factor(norm_of(back_squares)[:, None], step_size, bound, CLIP_ON)
        _, _, there = drift_of(there, factor_there, step_size, bound, CLIP, CLIP_ON)
        _, _, back = drift_of(back, factor_back, step_size, bound, CLIP, CLIP_ON)
        terms = tl.where(inside, ratio_element(start, end, there, back, half_precision, half_prior), 0.0)
        of_runs = run_totals(terms, RUNS, LEVELS)
        if PASS == "whole":
            tl.store(sums + one, fold_in_halves(tl.reshape(of_runs, (1, RUNS)), RUNS_LEVELS))
        else:
            tl.store(sums + one * runs + run, of_runs, mask=run < runs)


def langevin_ratio(
    x: Tensor,
    grad: Tensor,
    proposal: Tensor,
    proposal_grad: Tensor,
    *,
    step_size: float,
    noise_std: float,
    inverse_temperature: float = 1.0,
    prior_precision: float = 0.0,
    bound: float = 0.0,
    numbers: Tensor | None = None,
    halves: Tensor | None = None,
    clip: str | None = None,
    clip_on: str = "grad",
) -> Tensor:
    """Twin of :func:`hatebm.ops.reference.langevin_ratio`."""
    n, d = sizes(x)
    out = torch.zeros(n, dtype=torch.float64, device=x.device)
    if n * d == 0:
        return out
    half_precision, half_prior = ratio_coefficients(noise_std, prior_precision)
    tensors = {"x": x, "grad": grad, "proposal": proposal, "proposal_grad": proposal_grad}
    arguments = {
        **{name: readable(v.detach()) for name, v in tensors.items()},
        **{"step_size": step_size, "inverse_temperature": inverse_temperature, "prior_precision": prior_precision},
        **{"bound": bound, "half_precision": half_precision, "half_prior": half_prior},
        **of_each_chain(numbers, n, x.device),
        **{"halves": halves, "PRIOR": prior_precision != 0, "CLIP": clip, "CLIP_ON": clip_on},
        **{"n": n, "d": d, "VECTOR": d % 4 == 0, "WIDE": is_wide(n * d)},
        **EXACT,
    }
    with torch.cuda.device_of(x):
        if d <= ON_CHIP:
            ratio_quads[(n,)](**arguments, **sharing("whole", d), squares=None, sums=out)
        else:
            out = in_pieces(arguments)
    return out + 0.0  # a sum of 0 has no sign


def in_pieces(arguments: dict) -> Tensor:
    """Long samples: run sums of the gradients and their trees first where they are clipped, then those of the ratio."""
    x, n, d = (arguments[name] for name in ("x", "n", "d"))
    pieces = triton.cdiv(d, ON_CHIP)
    sums = torch.empty(2, n, triton.cdiv(d, RUN), dtype=torch.float64, device=x.device)
    squares = None
    if arguments["CLIP"] == "norm":
        ratio_quads[(n * pieces,)](**arguments, **sharing("measure", ON_CHIP, pieces), squares=None, sums=sums)
        squares = tree_sum(sums.view(2 * n, -1), None)
    ratio_quads[(n * pieces,)](**arguments, **sharing("move", ON_CHIP, pieces), squares=squares, sums=sums)
    return tree_sum(sums[0], None)[:, 0]
