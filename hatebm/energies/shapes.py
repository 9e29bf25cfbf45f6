"""Energies that are hard to walk: two wells with a barrier between them, and a funnel."""

import math

import torch
from torch import Tensor

from hatebm.energies import reference
from hatebm.energies.analytic import FAR, HUGE, Analytic
from hatebm.energies.kernel import Formula
from hatebm.ops.scalars import checked_number


class DoubleWell(Analytic):
    r"""E(x) = height sum_i ((x_i / separation)^2 - 1)^2: each element has wells at +-separation.

    Args:
        height: of the barrier at 0, > 0.
        separation: how far from 0 the wells lie, > 0.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """

    kind = "double_well"

    def __init__(self, height: float = 1.0, separation: float = 1.0) -> None:
        super().__init__()
        _register_positive(self, height=height, separation=separation)

    def plain(self, rows: Tensor) -> Tensor:
        height, separation = self.height.to(rows), self.separation.to(rows)
        return height * ((rows / separation).square() - 1).square().sum(1)

    def exact(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return reference.double_well(rows, *self._numbers().tolist())

    def formula(self, d: int) -> Formula:
        return Formula("double_well", d, self._numbers())

    def reach(self, d: int) -> tuple[float, ...]:
        height, separation = float(self.height), float(self.separation)
        steepest = max(4 * height / separation, 1.0)
        return (min((HUGE / (d * max(height, 1.0))) ** 0.25, (HUGE / steepest) ** (1 / 3), 1e9) * separation,)

    def _numbers(self) -> Tensor:
        """height, 1 / separation and 4 height / separation, (3,) float32."""
        height, separation = self.height, self.separation
        if height.is_cpu:
            height, separation = float(height), float(separation)
            return torch.tensor([height, 1 / separation, 4 * height / separation], dtype=torch.float32, device="cpu")
        height, separation = height.double(), separation.double()  # nobody waits for a GPU's
        return torch.stack([height, separation.reciprocal(), 4 * height / separation]).float()


class Funnel(Analytic):
    r"""E(v, x) = v^2 / (2 scale^2) + (d - 1) v / 2 + exp(-v) |x|^2 / 2, v the first of a sample's d elements.

    v ~ N(0, scale^2), and the others given v are N(0, exp(v)). Source: Neal, "Slice sampling" (2003), section 8.

    Args:
        scale: standard deviation of v, > 0.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """

    kind = "funnel"

    def __init__(self, scale: float = 3.0) -> None:
        super().__init__()
        _register_positive(self, scale=scale)

    def plain(self, rows: Tensor) -> Tensor:
        v, rest = rows[:, 0], rows[:, 1:]
        throat = v.square() / (2 * self.scale.to(rows).square()) + rest.shape[1] / 2 * v
        return throat + (-v).exp() * rest.square().sum(1) / 2

    def exact(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return reference.funnel(rows, self._precision().item(), (rows.shape[1] - 1) / 2)

    def formula(self, d: int) -> Formula:
        return Formula("funnel", d, self._precision())

    def reach(self, d: int) -> tuple[float, ...]:
        widest = 40.0  # of -v
        return min(math.sqrt(HUGE / (math.exp(widest) * d)), FAR), min(widest, float(self.scale) * FAR)

    def _precision(self) -> Tensor:
        """1 / scale^2, (1,) float32."""
        return self.scale.double().pow(-2).float().reshape(1)


def _register_positive(energy: Analytic, **numbers: float) -> None:
    here = torch.get_default_device()
    for name, value in numbers.items():
        text = "a number between 1e-12 and 1e12"
        value = checked_number(type(energy).__name__, name, value, text, lambda v: 1e-12 < v < 1e12)
        energy.register_buffer(name, torch.tensor(float(value), dtype=torch.float64, device=here))
