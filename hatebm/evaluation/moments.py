"""Means and covariances of a stream of features, and the Frechet distance of two with the jackknife's error."""

import math

import torch
from torch import Tensor

from hatebm.evaluation.frechet import frechet_from, square_root


class Moments:
    """Sums of feature vectors and of their outer products, float64, apart for each of m groups dealt in turn."""

    def __init__(self, groups: int):
        self.counts = [0] * groups
        self.sums: list[Tensor] = []
        self.products: list[Tensor] = []

    @property
    def n(self) -> int:
        return sum(self.counts)

    @property
    def d(self) -> int:
        return len(self.sums[0])

    def add(self, features: Tensor) -> None:
        """Take in (b, d) features."""
        features, groups, first = features.double(), len(self.counts), self.n
        if not self.sums:
            d = features.shape[1]
            self.sums = [features.new_zeros(d) for _ in range(groups)]
            self.products = [features.new_zeros(d, d) for _ in range(groups)]
        for group in range(groups):
            part = features[(group - first) % groups :: groups]
            self.counts[group] += len(part)
            self.sums[group] += part.sum(0)
            self.products[group].addmm_(part.mT, part)

    def gaussian(self, without: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean (d,) and unbiased covariance (d, d) of all groups, or of all but one."""
        n, total, product = self.n, sum(self.sums), sum(self.products)
        if without is not None:
            n, total, product = n - self.counts[without], total - self.sums[without], product - self.products[without]
        mean = total / n
        return mean, (product - n * mean.outer(mean)) / (n - 1)


def jackknife(drawn: Moments, real: Moments) -> tuple[float, float]:
    """The Frechet distance of samples to a reference, and its standard error over the draw of the samples.

    With m groups of samples left out one after the other: `error^2 = (m - 1) / m sum_g (D_g - mean D)^2`.
    """
    mean, cov = real.gaussian()
    root = square_root(cov)
    groups = [group for group, count in enumerate(drawn.counts) if count]
    distances = [frechet_from(mean, root, *drawn.gaussian(group)) for group in groups]
    without = torch.tensor(distances, dtype=torch.float64)
    spread = (without - without.mean()).square().mean()
    return frechet_from(mean, root, *drawn.gaussian()), math.sqrt((len(groups) - 1) * spread)
