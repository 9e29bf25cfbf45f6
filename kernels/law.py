"""One Langevin step of blocks of elements: the formulas of csrc/formulas/langevin.h in Triton."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hatebm.ops.native.ops import numbers_at


@triton.jit
def clamp(v, low, high):
    """NaN and the sign of zero pass through."""
    v = tl.where(v < low, low, v)
    return tl.where(v > high, high, v)


@triton.jit
def remainder(a, b):
    """The float32 remainder of a by b > 0, with the sign of a, exactly: a quotient of 28 bits at a time, in float64."""
    left, unit = tl.abs(a).to(tl.float64), b.to(tl.float64)
    far = left >= unit * 2.0**28
    if tl.max(tl.max(far.to(tl.int32), 1), 0) != 0:
        wide = unit * 2.0**252
        for _ in range(9):
            left = less_multiples(left, wide)
            wide = wide * 2.0**-28
    left = less_multiples(left, unit).to(tl.float32)
    return tl.where(a < 0.0, -left, left)


@triton.jit
def less_multiples(v, unit):
    """V less its whole multiples of a unit; none are in an infinite one."""
    times = tl.floor(v / unit)
    return tl.where(times > 0.0, v - times * unit, v)


@triton.jit
def folded(v, low, high, width, WALLS: tl.constexpr):
    """Folded back at the walls, one or two that are ``width`` apart, until it is inside; NaN passes through."""
    if WALLS == 1:
        back = 2.0 * tl.where(low == -float("inf"), high, low) - v
    else:
        both = tl.zeros_like(v) + 2.0 * width
        way = remainder(v - low, both)
        way = tl.where(way < 0.0, way + both, way)
        back = clamp(low + tl.where(way > width, both - way, way), low, high)
    return tl.where((v < low) | (v > high), back, v)


@triton.jit
def numbers_of(at, field_stride, there):
    """The numbers of a law that lie from ``at`` on, one or as many as there are chains."""
    step_size = tl.load(at, mask=there, other=0.0)
    noise_std = tl.load(at + field_stride, mask=there, other=0.0)
    inverse_temperature = tl.load(at + 2 * field_stride, mask=there, other=0.0)
    prior_precision = tl.load(at + 3 * field_stride, mask=there, other=0.0)
    bound = tl.load(at + 4 * field_stride, mask=there, other=0.0)
    return step_size, noise_std, inverse_temperature, prior_precision, bound


@triton.jit
def unless_zero(number, yes, no, MIXED: tl.constexpr):
    """``yes`` where a number of the law is not 0, else ``no``. Without MIXED it is nowhere 0."""
    return tl.where(number != 0.0, yes, no) if MIXED else yes


@triton.jit
def total_gradient(x, grad, inverse_temperature, prior_precision, PRIOR: tl.constexpr, MIXED: tl.constexpr):
    """What the clip sees: grad E / T + prior_precision x."""
    g = grad.to(tl.float32) * inverse_temperature
    if PRIOR:
        g = unless_zero(prior_precision, g + prior_precision * x, g, MIXED)
    return g


@triton.jit
def drift_of(g, factor, step_size, bound, CLIP: tl.constexpr, CLIP_ON: tl.constexpr):
    """The gradient after a clip of its own, s times it, and that after a clip of the update.

    ``factor`` scales the gradient of a sample whose norm is clipped.
    """
    if CLIP == "norm":
        g = g * factor
    if CLIP == "value" and CLIP_ON == "grad":
        g = clamp(g, -bound, bound)
    free = step_size * g
    drift = free
    if CLIP == "value" and CLIP_ON == "update":
        drift = clamp(free, -bound, bound)
    return g, free, drift


@triton.jit
def ratio_element(x, proposal, there, back, half_precision, half_prior):
    """What an element adds to the log ratio of a proposal, given the drifts at both ends, in float64."""
    start, end = x.to(tl.float64), proposal.to(tl.float64)
    d0, d1 = there.to(tl.float64), back.to(tl.float64)
    way = end - start
    return (d0 + d1) * (way + way + d0 - d1) * half_precision - half_prior * way * (end + start)


@triton.jit
def clip_factor(norm, step_size, bound, CLIP_ON: tl.constexpr):
    """The factor of a norm clip: exactly 1 below the cap."""
    length = norm * tl.abs(step_size) if CLIP_ON == "update" else norm
    return tl.where(length <= bound, 1.0, tl.div_rn(bound, length))


@triton.jit
def moved(
    x, g, eps, factor, step_size, noise_std, bound, low, high,
    GRAD: tl.constexpr, NOISY: tl.constexpr, MIXED: tl.constexpr, ADD: tl.constexpr, CLIP: tl.constexpr,
    CLIP_ON: tl.constexpr,
):  # fmt: skip
    """X after the step."""
    g, free, drift = drift_of(g, factor, step_size, bound, CLIP, CLIP_ON)
    if not GRAD:
        new = unless_zero(noise_std, x + noise_std * eps, x, MIXED) if NOISY else x
    elif ADD == "increment":
        new = x - drift
        if NOISY:
            new = unless_zero(noise_std, x + (noise_std * eps - drift), new, MIXED)
    elif ADD == "sequential":
        new = x - drift
        if NOISY:
            new = unless_zero(noise_std, new + noise_std * eps, new, MIXED)
    else:
        new = tl.fma(step_size * -1.0, g, x)
        if CLIP == "value" and CLIP_ON == "update":
            new = tl.where(tl.abs(free) > bound, x - drift, new)
        if NOISY:
            new = unless_zero(noise_std, tl.fma(noise_std, eps, new), new, MIXED)
    return clamp(new, low, high)


def of_each_chain(numbers: Tensor | None, n: int, here: torch.device) -> dict[str, Any]:
    """The numbers of the laws of n chains as the kernels of one step take them."""
    _, field, chain = numbers_at(numbers, n, here)
    return {"numbers": numbers, "field_stride": field, "chain_stride": chain}
