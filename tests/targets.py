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
