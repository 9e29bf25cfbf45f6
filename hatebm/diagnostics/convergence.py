"""How far chains agree, and how many independent draws theirs are worth."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hatebm.ops.checks import checked_choice, is_dense, require

CHUNK = 1 << 21  # float64 numbers worked on at once, so that large draws need little memory beside themselves
TAILS = (0.05, 0.95)


def split_rhat(draws: Tensor) -> Tensor:
    r"""Rank-normalised split R-hat: 1 where all chains have one law, above 1.01 where they do not have it yet.

    sqrt((B / W + s - 1) / s) with B = s var_c(mean_c) and W = mean_c(var_c), over half-chains c of s draws, of normal
    scores Phi^-1((rank - 3/8) / (N + 1/4)): of the draws x (bulk) or of abs(x - median) (folded), whichever is larger.

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner, "Rank-normalization, folding, and localization: An improved
    R-hat for assessing convergence of MCMC" (2021).

    Args:
        draws: (steps, n, \*sample), a stack of states; every element of the sample is a quantity of its own.

    Returns:
        float64 of the sample's shape. NaN for an element with a NaN among its draws or with constant draws, and for
        one chain or fewer than 4 steps.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """
    return _each_element("split_rhat", draws, _rank_rhat)


def ess(draws: Tensor, kind: str = "bulk") -> Tensor:
    r"""Effective sample size: how many independent draws would know as much; it may exceed steps * n.

    N / tau with tau = -1 + 2 sum_t rho_t, over half-chains; the sum ends by Geyer's initial monotone sequence, and
    tau >= 1 / log10(N). Independent chains x_t = rho x_{t-1} + noise have N (1 - rho) / (1 + rho).

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), see :func:`split_rhat`; Geyer, "Practical Markov chain
    Monte Carlo" (1992).

    Args:
        draws: (steps, n, \*sample), a stack of states; every element of the sample is a quantity of its own.
        kind: "bulk" for normal scores of the ranks, "mean" for the draws themselves, or "tail" for the smaller one
            of the 5 % and the 95 % quantile.

    Returns:
        float64 of the sample's shape. N for constant draws; NaN for an element with a NaN among its draws, and for
        fewer than 4 steps.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """
    checked_choice("ess", "kind", kind, KINDS)
    return _each_element("ess", draws, KINDS[kind])


def autocorrelation(draws: Tensor) -> Tensor:
    r"""Autocorrelation at every lag t, of all chains together: rho_t = 1 - (W - mean_c(acov_t)) / var+.

    W = mean_c(var_c) and var+ = (steps - 1) / steps W + var_c(mean_c) over whole chains c: where chains disagree,
    it stays high.

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), see :func:`split_rhat`.

    Args:
        draws: (steps, n, \*sample), a stack of states; every element of the sample is a quantity of its own.

    Returns:
        float64 (steps, \*sample), 1 at lag 0. NaN for an element with a NaN among its draws or with constant draws,
        and for fewer than 4 steps.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """
    found = _each_element("autocorrelation", draws, lambda x: _autocorrelation(x).T)
    return found.expand(len(draws), *draws.shape[2:])


def rhat_and_ess(draws: Tensor) -> Tensor:
    r"""Split R-hat, bulk ESS and tail ESS of a summary, ranked once for all three: float64 (3, \*sample)."""
    found = _each_element("summary", draws, _rhat_and_ess)
    return found.expand(3, *draws.shape[2:])


def moved(draws: Tensor) -> Tensor:
    """Which elements are not constant over all draws, bool of the sample's shape; one with a NaN counts as moved."""
    return (draws != draws[:1, :1]).flatten(0, 1).any(0)


def check_draws(op: str, draws: Tensor) -> None:
    """Raise unless these are draws."""
    text = "a tensor, such as torch.stack(states)"
    require(isinstance(draws, Tensor) and is_dense(draws), op, "draws", text, draws, TypeError)
    require(not (draws.is_complex() or draws.is_meta), op, "draws", "real numbers", draws, TypeError)
    require(draws.dim() >= 2, op, "draws", "(steps, n, *sample)", draws)


def check_info(op: str, info: Any) -> None:
    """Raise unless this is what a run tells, or nothing."""
    text = "the dict that a run returns"
    require(isinstance(info, dict | None), op, "info", text, info, TypeError)
    told = [info[name] for name in ("step", "energy", "accept", "displacement") if name in (info or {})]
    for value in told:
        readable = isinstance(value, Tensor) and is_dense(value) and not value.is_meta and not value.is_complex()
        require(readable and value.dim() > 0, op, "info", f"{text}, of tensors", value, TypeError)
    rows = all(len(value) == len(told[0]) for value in told)
    require(rows, op, "info", f"{text}, with a row a step", [tuple(value.shape) for value in told])


def _each_element(op: str, draws: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``function`` finds, chunk by chunk: (elements, n, steps) float64 to (..., elements)."""
    check_draws(op, draws)
    steps, n, *sample = draws.shape
    if steps < 4 or n < 1 or 0 in sample:
        return torch.full(sample, math.nan, dtype=torch.float64, device=draws.device)
    found = []
    for part in draws.detach().reshape(steps, n, math.prod(sample)).split(max(1, CHUNK // (steps * n)), 2):
        x = part.permute(2, 1, 0).double().contiguous()
        found.append(torch.where(x.isnan().flatten(1).any(1), math.nan, function(x)))
    found = torch.cat(found, -1)
    return found.reshape((*found.shape[:-1], *sample))


def _rank_rhat(x: Tensor) -> Tensor:
    halves = _halves(x)
    return _larger_rhat(halves, _normal_scores(halves))


def _rhat_and_ess(x: Tensor) -> Tensor:
    halves = _halves(x)
    scores = _normal_scores(halves)
    return torch.stack([_larger_rhat(halves, scores), _ess(scores), _ess_tail(x)])


def _larger_rhat(halves: Tensor, scores: Tensor) -> Tensor:
    if halves.shape[1] < 4:
        return torch.full_like(halves[:, 0, 0], math.nan)  # one chain has nothing to agree with
    flat = halves.flatten(1)
    low, high = (flat.kthvalue(flat.shape[1] // 2 + k).values for k in (0, 1))
    folded = (halves - ((low + high) / 2)[:, None, None]).abs()
    # fmax: draws with only two values have constant folded ones, which say nothing
    return torch.fmax(_rhat(scores), _rhat(_normal_scores(folded)))


def _rhat(x: Tensor) -> Tensor:
    s = x.shape[2]
    between, within = s * x.mean(2).var(1), x.var(2).mean(1)
    return ((between / within + s - 1) / s).sqrt()


def _ess_bulk(x: Tensor) -> Tensor:
    return _ess(_normal_scores(_halves(x)))


def _ess_mean(x: Tensor) -> Tensor:
    return _ess(_halves(x))


def _ess_tail(x: Tensor) -> Tensor:
    return torch.minimum(*(_ess(_halves((x <= _quantile(x, share)).double())) for share in TAILS))


KINDS = {"bulk": _ess_bulk, "tail": _ess_tail, "mean": _ess_mean}


def _ess(x: Tensor) -> Tensor:
    """N / tau, where the pairs rho_2k + rho_2k+1 are summed while they are positive, each at most the one before."""
    size, s = x[0:1].numel(), x.shape[2]
    rho = _autocorrelation(x)
    pairs = rho[:, : max(s - 3, 0) // 2 * 2 + 2].unflatten(1, (-1, 2)).sum(2)
    ended = ~(pairs > 0)
    ended[:, -1] = True
    last = ended.int().argmax(1, keepdim=True)
    summed = torch.where(
        torch.arange(pairs.shape[1], dtype=torch.int64, device=x.device) < last, pairs.cummin(1).values, 0
    ).sum(1)
    pair, even = pairs.gather(1, last)[:, 0], rho.gather(1, 2 * last)[:, 0]
    tau = 2 * summed + torch.where((even <= 0) & (pair < 0), 0, even) - 1
    found = size / tau.clamp_min(1 / math.log10(size))
    constant = x.flatten(1).amax(1) == x.flatten(1).amin(1)
    return torch.where(constant, size, torch.where(pair.isnan(), math.nan, found))


def _autocorrelation(x: Tensor) -> Tensor:
    """rho_t of each element, (elements, steps)."""
    steps = x.shape[2]
    x = x - x[:, :1, :1]  # what never moves becomes exactly 0, and so does its variance
    mean = x.mean(2)
    power = torch.fft.rfft(x - mean[:, :, None], 2 * steps).abs().square().mean(1)
    acov = torch.fft.irfft(power, 2 * steps)[:, :steps] / steps
    within = acov[:, :1] * steps / (steps - 1)
    total = acov[:, :1] + mean.var(1, keepdim=True, correction=min(1, mean.shape[1] - 1))
    rho = 1 - (within - acov) / total
    rho[:, :1] = total / total
    return rho


def _halves(x: Tensor) -> Tensor:
    """Each chain as two; of an odd number of steps the middle one is left out."""
    half = x.shape[2] // 2
    return torch.cat([x[:, :, :half], x[:, :, -half:]], 1)


def _normal_scores(x: Tensor) -> Tensor:
    """Phi^-1((rank - 3/8) / (N + 1/4)) among all draws of an element; ties share their mean rank."""
    ordered, index = x.flatten(1).sort()
    size = ordered.shape[1]
    at = torch.arange(1, size + 1, dtype=torch.int64, device=x.device)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = torch.where(starts, at, 0).cummax(1).values
    last = torch.where(starts.roll(-1, 1), at, size).flip(1).cummin(1).values.flip(1)
    rank = torch.empty_like(ordered).scatter_(1, index, (first + last).double() / 2)
    return torch.special.ndtri((rank - 0.375) / (size + 0.25)).view_as(x)


def _quantile(x: Tensor, share: float) -> Tensor:
    """The quantile of each element's draws, linear between two draws, (elements, 1, 1)."""
    flat = x.flatten(1)
    at = share * (flat.shape[1] - 1)
    low, high = (flat.kthvalue(1 + math.floor(at) + k).values for k in (0, 1))
    return torch.lerp(low, high, at - math.floor(at))[:, None, None]
