"""Distributions with known answers: the discrete chain's own stationary law, not the diffusion's."""

import torch
from torch import Tensor


def gaussian_energy(precision: float):
    """E(x) = precision |x|^2 / 2 for samples of any shape."""
    return lambda x: precision * x.flatten(1).square().sum(1) / 2


def quadratic(x):
    """An energy without a batched kernel underneath, so that chains do not feel their neighbours' rounding."""
    return (x * x * torch.linspace(0.5, 2, x[0].numel()).view(x.shape[1:])).flatten(1).sum(1)


def ula_variance(precision: float, step_size: float, noise_std: float) -> float:
    """Stationary variance of x' = (1 - s a) x + n xi."""
    return noise_std**2 / (1 - (1 - step_size * precision) ** 2)


def noise_first_variance(precision: float, step_size: float, noise_std: float) -> float:
    """Stationary variance of x' = (1 - s a)(x + n xi)."""
    return (1 - step_size * precision) ** 2 * ula_variance(precision, step_size, noise_std)


def shadow_variance(precision, h):
    """Stationary variance of leapfrog steps of length h: they keep v^2 + precision (1 - h^2 precision / 4) x^2."""
    return 1 / (precision * (1 - h * h * precision / 4))


class LinearHat:
    """Scalar Hat EBM with G(z) = w z: E(z, y) = (w z + y)^2 / (2 v) + tau y^2 + k z^2 / 2."""

    def __init__(self, w: float = 0.8, v: float = 0.5, tau: float = 0.6, k: float = 0.4) -> None:
        self.w, self.v, self.tau, self.k = w, v, tau, k
        self.precision = torch.tensor([[w * w / v + k, w / v], [w / v, 1 / v + 2 * tau]], dtype=torch.float64)

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        x = self.w * z + y
        return (x.square() / (2 * self.v) + self.tau * y.square() + self.k * z.square() / 2).sum(1)

    def stationary(self, s_z: float, s_y: float, blocks: str) -> Tensor:
        """The 2 x 2 covariance that solves S = A S A' + Q for the kernel with drift s and noise variance 2 s."""
        one, step = torch.eye(2, dtype=torch.float64), torch.tensor([s_z, s_y], dtype=torch.float64)
        if blocks == "joint":
            a, q = one - step.diag() @ self.precision, (2 * step).diag()
        else:
            move_z, move_y = one.clone(), one.clone()
            move_z[0] -= s_z * self.precision[0]
            move_y[1] -= s_y * self.precision[1]
            a = move_y @ move_z
            q = move_y @ torch.diag(torch.tensor([2 * s_z, 0.0], dtype=torch.float64)) @ move_y.T
            q[1, 1] += 2 * s_y
        kron = torch.kron(a, a)
        return torch.linalg.solve(torch.eye(4, dtype=torch.float64) - kron, q.flatten()).view(2, 2)


class DoubleWell:
    """E(x) = k (x^2 - 1)^2 + tilt x on the line, and the law exp(-E / temperature) by quadrature."""

    def __init__(self, k: float, tilt: float = 0.0) -> None:
        self.k, self.tilt = k, tilt

    def __call__(self, x: Tensor) -> Tensor:
        return (self.k * (x * x - 1).square() + self.tilt * x).flatten(1).sum(1)

    def cdf(self, at: Tensor, temperature: float = 1.0) -> Tensor:
        """The distribution function by the trapezoid rule, exact to 1e-6 for k / temperature around 1."""
        grid = torch.linspace(-4, 4, 8001, dtype=torch.float64)
        total = torch.cumulative_trapezoid((-self(grid[:, None]) / temperature).exp(), grid)
        total = torch.cat([total.new_zeros(1), total / total[-1]])
        place = ((at.double() - grid[0]) / (grid[1] - grid[0])).clamp(0, len(grid) - 1.001)
        left = place.floor().long()
        return total[left] + (place - left) * (total[left + 1] - total[left])


def truncated_normal_cdf(low: float, high: float, precision: float):
    """The distribution function of N(0, 1 / precision) inside a box."""
    normal = torch.distributions.Normal(0.0, precision**-0.5)
    below, above = (normal.cdf(torch.tensor(bound, dtype=torch.float64)) for bound in (low, high))
    return lambda at: (normal.cdf(at.double()) - below) / (above - below)


def kolmogorov_p(sample: Tensor, cdf) -> float:
    """The p-value of a Kolmogorov-Smirnov test of independent draws against a distribution function."""
    from scipy.stats import kstwo

    at = cdf(sample.flatten().sort().values).double()
    steps = torch.arange(len(at) + 1, dtype=torch.float64) / len(at)
    return float(kstwo.sf(float(torch.maximum(steps[1:] - at, at - steps[:-1]).max()), len(at)))
