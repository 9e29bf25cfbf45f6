"""Draws whose dependence is known."""

import math

import torch


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ar1(rho, steps, n, *sample, seed=0):
    """Stationary x_t = rho x_{t-1} + sqrt(1 - rho^2) eps, of variance 1."""
    noise = normals(steps, n, *sample, seed=seed)
    x = [noise[0]]
    for eps in noise[1:]:
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * eps)
    return torch.stack(x)


def shifted(steps, n, *sample):
    return ar1(0.5, steps, n, *sample) + torch.arange(n).view(n, *[1] * len(sample))


def heavy(steps, n, *sample):
    return normals(steps, n, *sample) / normals(steps, n, *sample, seed=1)
