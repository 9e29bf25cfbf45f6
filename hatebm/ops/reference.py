"""The specification: every op of hatebm in pure PyTorch, on any device, slow and exact.

The float32 results of this file are, by definition, the bits that the C++, CUDA and Triton kernels return.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.ops.reference_noise import box_muller, counters, fma, minus_2_ln, normal, philox

__all__ = [
    "Number",
    "Numbers",
    "box_muller",
    "counters",
    "fma",
    "langevin_ratio",
    "langevin_step_",
    "metropolis",
    "normal",
    "philox",
    "ratio_coefficients",
    "residual_add",
    "sample_norm",
    "tree_sum",
]
Number = float | Tensor  # of the law: one for all chains, or a column of one a chain

FOLD = 1024  # elements that one level of the reduction tree takes together


class Numbers(NamedTuple):
    """The numbers of a law."""

    step_size: Number
    noise_std: Number
    inverse_temperature: Number
    prior_precision: Number
    bound: Number  # of the clip

    def of_each(self, numbers: Tensor | None, x: Tensor) -> "Numbers":
        """These, or ``numbers``, (5, n) or (5, 1), as columns beside x; noise or a prior of 0 is one for all."""
        if numbers is None:
            return self
        columns = numbers.reshape(len(self), -1, *[1] * (x.dim() - 1))
        zeros = {name: 0.0 for name in ("noise_std", "prior_precision") if getattr(self, name) == 0}
        return Numbers(*columns)._replace(**zeros)


def tree_sum(v: Tensor) -> Tensor:
    """Sum over the last dimension of float64 (n, d) in the one order that every backend keeps.

    Runs of 1024 elements are folded in halves (element i and i + 512, then i + 256, ...); the sums of the runs
    are summed the same way.
    """
    while v.shape[1] > 1:
        runs = (v.shape[1] + FOLD - 1) // FOLD
        v = torch.nn.functional.pad(v, (0, runs * FOLD - v.shape[1])).view(v.shape[0], runs, FOLD)
        while v.shape[2] > 1:
            half = v.shape[2] // 2
            v = v[..., :half] + v[..., half:]
        v = v[..., 0]
    return v.sum(1)


def sample_norm(v: Tensor) -> Tensor:
    r"""L2 norm of each sample, (n, \*sample) to (n,)."""
    squares = tree_sum(_rows(v).double().square())
    return v.new_tensor([math.sqrt(s) for s in squares.tolist()])  # torch.sqrt is not always correctly rounded


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
    """One step in place: x <- clamp(x - step_size * clip(grad / T + prior_precision * x) + noise_std * eps).

    ``numbers``, (5, n) or (5, 1) of x's dtype, stand in place of step_size, noise_std, inverse_temperature,
    prior_precision and bound, one of each chain; a noise_std or a prior_precision of 0 is one for all.
    """
    new, noisy = x, noise_std != 0
    law = Numbers(step_size, noise_std, inverse_temperature, prior_precision, bound)
    step_size, noise_std, inverse_temperature, prior_precision, bound = law.of_each(numbers, x)
    if noisy:
        if noise is None:
            at = {"seed": seed, "step": step, "block": block, "purpose": purpose}
            noise = normal(tuple(x.shape), **at, chain_ids=chain_ids, device=x.device)
        kick = noise_std * noise.to(x.dtype)
    if grad is None:
        new = _unless_zero(noise_std, new + kick, new) if noisy else new
        if grad_norm is not None:
            grad_norm.zero_()
    else:
        g = _total_gradient(x, grad, inverse_temperature, prior_precision)
        norm = sample_norm(g) if clip == "norm" or grad_norm is not None else None
        if diverged is not None:
            bad = ~_rows(grad).isfinite().all(1)
            diverged.copy_(torch.where(bad, diverged.clamp(max=step), diverged))
        g, drift = _clipped(g, norm, step_size, clip, clip_on, bound)
        if add == "increment":
            new = _unless_zero(noise_std, x + (kick - drift), x - drift) if noisy else x - drift
        elif add == "sequential":
            new = x - drift
            new = _unless_zero(noise_std, new + kick, new) if noisy else new
        else:
            new = _fma(-step_size, g, x)
            if clip == "value" and clip_on == "update":
                new = torch.where((step_size * g).abs() > bound, x - drift, new)
            new = _unless_zero(noise_std, _fma(noise_std, noise.to(x.dtype), new), new) if noisy else new
        if grad_norm is not None:
            grad_norm.copy_(norm)
    new = _clamp(new, low, high)
    if displacement is not None:
        displacement.copy_(sample_norm(new - x))
    x.copy_(new)
    if gz is not None:
        residual_add(gz, x, out=image)


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
    """Each sample's log q(x | x') - log q(x' | x) - prior_precision (|x'|^2 - |x|^2) / 2, x' = proposal, in float64.

    q(b | a) = N(b; a - drift(a), noise_std^2): with w = x' - x, the logarithms of an element differ by
    ((w + drift(x))^2 - (w - drift(x'))^2) / (2 noise_std^2), factored here. ``numbers`` as in :func:`langevin_step_`;
    ``halves``, (2, n) float64, are then the :func:`ratio_coefficients` of each chain.
    """
    law = Numbers(step_size, noise_std, inverse_temperature, prior_precision, bound)
    step_size, _, inverse_temperature, of_prior, bound = law.of_each(numbers, x)
    drifts = []
    for at, gradient in ((x.detach(), grad.detach()), (proposal.detach(), proposal_grad.detach())):
        g = _total_gradient(at, gradient, inverse_temperature, of_prior)
        norm = sample_norm(g) if clip == "norm" else None
        drifts.append(_clipped(g, norm, step_size, clip, clip_on, bound)[1].double())
    half_precision, half_prior = ratio_coefficients(noise_std, prior_precision)
    if halves is not None:
        half_precision, half_prior = (column.reshape(-1, *[1] * (x.dim() - 1)) for column in halves)
    there, back = drifts
    start, end = x.detach().double(), proposal.detach().double()
    way = end - start
    kernels = (there + back) * (way + way + there - back) * half_precision
    return tree_sum(_rows(kernels - half_prior * way * (end + start))) + 0.0  # a sum of 0 has no sign


def ratio_coefficients(noise_std: float | Tensor, prior_precision: float | Tensor) -> tuple[Any, Any]:
    """The two numbers of :func:`langevin_ratio`, 1 / (2 noise_std^2) and prior_precision / 2, rounded as here."""
    return 0.5 / noise_std / noise_std, 0.5 * prior_precision


def metropolis(
    log_ratio: Tensor,
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
) -> Tensor:
    """Whether log u < log_ratio, float64 (n,), u the uniform of each chain: word 0 of its Philox block 0."""
    log_ratio = log_ratio.detach()
    words = philox(*counters(len(log_ratio), 1, seed, step, block, purpose, chain_ids, log_ratio.device))
    return minus_2_ln(words[:, 0, 0]).double() > -2 * log_ratio


def residual_add(gz: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """The hat's input G(z) + y."""
    return torch.add(gz, y, out=out)


def _total_gradient(x: Tensor, grad: Tensor, inverse_temperature: Number, prior_precision: Number) -> Tensor:
    """What the clip sees: grad E / T + prior_precision x."""
    g = grad.to(x.dtype) * inverse_temperature
    if not isinstance(prior_precision, Tensor) and prior_precision == 0:
        return g
    return _unless_zero(prior_precision, g + prior_precision * x, g)


def _clipped(
    g: Tensor, norm: Tensor | None, step_size: Number, clip: str | None, clip_on: str, bound: Number
) -> tuple[Tensor, Tensor]:
    """The gradient after the clip, and the drift."""
    if clip == "norm":
        norm = norm.view(len(g), *[1] * (g.dim() - 1))
        length = norm * abs(step_size) if clip_on == "update" else norm
        cap = bound if isinstance(bound, Tensor) else torch.full_like(length, bound)
        g = g * torch.where(length <= cap, 1.0, cap / length)
    elif clip == "value" and clip_on == "grad":
        g = _clamp(g, -bound, bound)
    drift = step_size * g
    return g, _clamp(drift, -bound, bound) if clip == "value" and clip_on == "update" else drift


def _unless_zero(number: Number, yes: Tensor, no: Tensor) -> Tensor:
    """``yes`` where a number of the law is not 0, else ``no``."""
    return torch.where(number != 0, yes, no) if isinstance(number, Tensor) else yes if number != 0 else no


def _rows(v: Tensor) -> Tensor:
    return v.reshape(v.shape[0], math.prod(v.shape[1:]))


def _fma(a: Number, b: Tensor, c: Tensor) -> Tensor:
    if c.dtype == torch.float64:
        return a * b + c
    return fma(a if isinstance(a, Tensor) else torch.tensor(a, dtype=torch.float32, device="cpu"), b, c)


def _clamp(v: Tensor, low: float, high: float) -> Tensor:
    v = torch.where(v < low, low, v)
    return torch.where(v > high, high, v)
