"""Out-of-distribution detection: scores of images, and how well they tell outliers apart."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hatebm.energies.closure import modules_of
from hatebm.energies.modes import bare, in_mode
from hatebm.ops.checks import is_count, require

CHUNK = 1 << 22  # counts held at once


@dataclass(frozen=True)
class Estimate:
    """A number of a finite set of images and its 95 % interval, by the bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Detection:
    """How well a score, higher for the in-distribution images, tells them from the outliers.

    Attributes:
        auroc: P(in > out) + P(in = out) / 2; 0.5 is chance, 1 is perfect.
        auprc: average precision with the in-distribution images as positives, `sum_k (R_k - R_k-1) P_k` over the
            distinct scores from the highest down; chance is the share of in-distribution images.
        fpr80: share of outliers that pass the highest threshold which at least 80 % of the in-distribution images
            pass; 0.8 is chance, 0 is perfect.
    """

    auroc: Estimate
    auprc: Estimate
    fpr80: Estimate


def detection(scores_in: Tensor, scores_out: Tensor, *, bootstrap: int = 1000, seed: int = 0) -> Detection:
    """AUROC, AUPRC and FPR80 of two sets of scores, each with a 95 % percentile bootstrap interval.

    Each resample draws both sets anew, with replacement and of their own sizes. Scores count by their order alone, so
    energies of any size may be given; equal scores are one threshold.

    Args:
        scores_in: (n,), of in-distribution images, the higher the more typical.
        scores_out: (m,), of outliers.
        bootstrap: number of resamples.
        seed: decides the resamples.

    Raises:
        TypeError, ValueError: scores that are empty, NaN or not a vector.

    Source: Fawcett 2006 (AUROC); Du and Mordatch 2019, Grathwohl et al. 2020 (the use); Efron 1979 (the bootstrap).
    """
    for name, scores in (("scores_in", scores_in), ("scores_out", scores_out)):
        require(isinstance(scores, Tensor), "detection", name, "a tensor", scores, TypeError)
        require(scores.dim() == 1 and len(scores) > 0, "detection", name, "of shape (n,), n > 0", scores)
        require(not scores.isnan().any(), "detection", name, "free of NaN", f"{int(scores.isnan().sum())} of them")
    require(is_count(bootstrap, 1), "detection", "bootstrap", "a whole number of at least 1", bootstrap)
    n, m = len(scores_in), len(scores_out)
    both = torch.cat((scores_in.detach().double().cpu(), scores_out.detach().double().cpu()))
    levels, rank = both.neg().unique(return_inverse=True)  # 0 is the highest score
    found = _rates(_counts(rank[None, :n], len(levels)), _counts(rank[None, n:], len(levels)))
    drawn = []
    generator = torch.Generator("cpu").manual_seed(seed)
    for part in torch.arange(bootstrap, dtype=torch.int64, device="cpu").split(max(1, CHUNK // len(levels))):
        sets = ((rank[:n], n), (rank[n:], m))
        kind = {"generator": generator, "dtype": torch.int64, "device": "cpu"}
        resampled = (of[torch.randint(size, (len(part), size), **kind)] for of, size in sets)
        drawn.append(_rates(*(_counts(ranks, len(levels)) for ranks in resampled)))
    low, high = torch.cat(drawn, 1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu"), dim=1)
    return Detection(*(Estimate(*triple) for triple in torch.stack((found[:, 0], low, high), 1).tolist()))


def _counts(ranks: Tensor, levels: int) -> Tensor:
    """How often each level occurs in each row: (b, n) -> (b, levels)."""
    counts = torch.zeros(len(ranks), levels, dtype=torch.float64, device=ranks.device)
    return counts.scatter_add_(1, ranks, torch.ones_like(ranks).double())


def _rates(inside: Tensor, outside: Tensor) -> Tensor:
    """AUROC, AUPRC and FPR80, (3, b), of counts at the levels from the highest score down, (b, levels) each."""
    true, false = inside.cumsum(1), outside.cumsum(1)
    n, m = true[:, -1], false[:, -1]
    auroc = (outside * (true - inside / 2)).sum(1) / (n * m)
    precision = true / (true + false).clamp_min(1)
    auprc = (inside * precision).sum(1) / n
    threshold = (5 * true >= 4 * n[:, None]).int().argmax(1, keepdim=True)
    return torch.stack((auroc, auprc, false.gather(1, threshold)[:, 0] / m))


def energy_score(energy: Callable[[Tensor], Tensor], pixels: Tensor, batch: int = 250) -> Tensor:
    """-H(x) of each image, the log-density up to a constant (Du and Mordatch 2019).

    Args:
        energy: (b, channels, size, size) -> (b,), in eval mode here and left as it was found.
        pixels: (n, channels, size, size) in [-1, 1].
        batch: images at once.

    Returns:
        (n,) on the device of the pixels.
    """
    energy = bare(energy)
    with in_mode(modules_of(energy), "eval"), torch.no_grad():
        return torch.cat([-energy(part) for part in pixels.split(batch)])


def score_norm(energy: Callable[[Tensor], Tensor], pixels: Tensor, batch: int = 250) -> Tensor:
    """-|dH/dx|_2 of each image, near 0 where the density is flat (the approximate mass of Grathwohl et al. 2020).

    Arguments and result as in `energy_score`; the parameters get no gradient.
    """
    energy, norms = bare(energy), []
    with in_mode(modules_of(energy), "eval"), torch.enable_grad():
        for part in pixels.split(batch):
            x = part.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(energy(x).sum(), x)
            norms.append(-gradient.flatten(1).norm(dim=1))
    return torch.cat(norms)
