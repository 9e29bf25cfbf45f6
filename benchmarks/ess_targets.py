"""The targets of ess.py, for torch and jax alike, and what is known of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BARRIER = 2.0
SIGMAS = torch.logspace(math.log10(0.3), 0, 50, dtype=torch.float64)


@dataclass(frozen=True)
class Target:
    """A law exp(-E): ``energy(asarray)`` is E for torch or jax; ``moments(h)`` are the variances (d,) and the mean of E
    where Langevin steps of size h come to rest, of the law itself for h = 0.
    """

    energy: Callable[[Callable[..., Any]], Callable[[Any], Any]]
    moments: Callable[[float], tuple[Tensor, Tensor]]


def gaussian(asarray: Callable[..., Any]) -> Callable[[Any], Any]:
    """E = |x / sigma|^2 / 2."""
    sigmas = asarray(SIGMAS.tolist())
    return lambda x: ((x / sigmas) ** 2).sum(-1) / 2


def gaussian_moments(step_size: float) -> tuple[Tensor, Tensor]:
    """In closed form: a step is x <- (1 - h / sigma^2) x + sqrt(2 h) eps."""
    variance = SIGMAS**2 / (1 - step_size / (2 * SIGMAS**2))
    return variance, (variance / SIGMAS**2).sum() / 2


def double_well(asarray: Callable[..., Any]) -> Callable[[Any], Any]:
    """E = h sum (x^2 - 1)^2."""
    return lambda x: BARRIER * ((x**2 - 1) ** 2).sum(-1)


def double_well_moments(step_size: float) -> tuple[Tensor, Tensor]:
    """By quadrature over one of the two coordinates, which are alike and independent."""
    x = torch.linspace(-3, 3, 401, dtype=torch.float64)
    energy = double_well(torch.tensor)(x[:, None])
    p = torch.exp(-energy)
    if step_size:
        mean = x - step_size * 4 * BARRIER * x * (x**2 - 1)
        kernel = torch.exp(-((x - mean[:, None]) ** 2) / (4 * step_size))
        flow = (kernel / kernel.sum(1, keepdim=True)).T - torch.eye(len(x))
        flow[0] = 1  # one balance follows from the others; the probabilities sum to 1 in its place
        p = torch.linalg.solve(flow, torch.eye(len(x))[0].double())
    p = p / p.sum()
    return (p @ x**2).expand(2), 2 * p @ energy


TARGETS = {
    "Gaussian, d = 50": Target(gaussian, gaussian_moments),
    "double well, d = 2": Target(double_well, double_well_moments),
}
