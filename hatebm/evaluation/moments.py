"""Means and covariances of a stream of features, and the Frechet distance of two with the jackknife's error."""

import math

import torch
from torch import Tensor

from hatebm.evaluation.frechet import frechet_from
from hatebm.ops.noise import Purpose, words


class Moments:
    """Sums of feature vectors and of their outer products, float64, apart for each of m groups.

    Each m vectors in a row are dealt out to the groups in an order of their own, drawn once for all: images may come in
    a period, as of classes in turn, and no group may be of one class.
    """

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
        dealt = _dealt(first, len(features), groups).to(features.device)
        for group in range(groups):
            part = features[dealt == group]
            self.counts[group] += len(part)
            self.sums[group] += part.sum(0)
            self.products[group].addmm_(part.mT, part)

    def total(self) -> tuple[int, Tensor, Tensor]:
        """Count, sum (d,) and sum of outer products (d, d) of all groups."""
        return self.n, sum(self.sums), sum(self.products)


def _dealt(first: int, count: int, groups: int) -> Tensor:
    """The groups of vectors number `first` to first + count: (count,) int64."""
    rounds = range(first // groups, (first + count - 1) // groups + 1)
    place = {"seed": 0, "step": 0, "purpose": Purpose.JACKKNIFE, "chain_ids": rounds, "device": "cpu"}
    order = words((len(rounds), groups), **place).argsort(dim=1, stable=True).flatten()
    return order[first - rounds.start * groups :][:count]


def gaussian(n: int, total: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d) from a count, a sum and a sum of outer products."""
    mean = total / n
    return mean, (product - n * mean.outer(mean)) / (n - 1)


def jackknife(drawn: Moments, mean: Tensor, root: Tensor) -> tuple[float, float]:
    """The Frechet distance of samples to a reference, and its standard error over the draw of the samples.

    With m groups of samples left out one after the other: `error^2 = (m - 1) / m sum_g (D_g - mean D)^2`.

    mean: (d,) of the reference; root: (d, d), the square root of its covariance.
    """
    n, total, product = drawn.total()
    without = [
        frechet_from(mean, root, *gaussian(n - count, total - group_sum, product - group_product))
        for count, group_sum, group_product in zip(drawn.counts, drawn.sums, drawn.products, strict=True)
        if count
    ]
    spread = torch.tensor(without, dtype=torch.float64, device="cpu").var(correction=0)
    return frechet_from(mean, root, *gaussian(n, total, product)), math.sqrt((len(without) - 1) * spread)
