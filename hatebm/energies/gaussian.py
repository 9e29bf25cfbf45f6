"""Gaussians and mixtures of them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hatebm.energies import reference
from hatebm.energies.analytic import FAR, HUGE, Analytic
from hatebm.energies.kernel import Formula
from hatebm.ops.checks import is_dense, require
from hatebm.ops.native.extension import readable
from hatebm.ops.scalars import check_unlearned

ASYMMETRY = 0.01  # more is a factor in the matrix's place; rounding stays below, and E is that of the mean anyway


class Gaussian(Analytic):
    r"""E(x) = (x - mean)' P (x - mean) / 2, the normal distribution of precision matrix P.

    Args:
        mean: (\*sample).
        precision: P, the inverse of the covariance: its diagonal, shaped like mean, or the whole matrix (d, d),
            symmetric but for rounding (``inv(covariance)`` will do: the mean of its two triangles is taken), of d = the
            number of elements of a sample.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """

    kind = "gaussian"

    def __init__(self, mean: Tensor | Sequence[float], precision: Tensor | Sequence[float]) -> None:
        super().__init__()
        mean, precision = _tensor("Gaussian", "mean", mean), _tensor("Gaussian", "precision", precision)
        d = mean.numel()
        whole = precision.shape == (d, d) and mean.shape != (d, d)
        text = f"shaped like mean, {tuple(mean.shape)}, or a matrix ({d}, {d})"
        require(whole or precision.shape == mean.shape, "Gaussian", "precision", text, precision)
        if whole:
            apart = (precision - precision.T).abs() > ASYMMETRY * precision.abs().max()
            text = f"a symmetric matrix, to {ASYMMETRY:.0%} of its largest element"
            require(not apart.any(), "Gaussian", "precision", text, precision)
            precision = (precision + precision.T) / 2
        self.register_buffer("mean", mean.flatten())
        self.register_buffer("precision", precision if whole else precision.flatten())

    def plain(self, rows: Tensor) -> Tensor:
        away, precision = rows - self.mean.to(rows), self.precision.to(rows)
        pull = away * precision if precision.dim() == 1 else away @ precision
        return (away * pull).sum(1) / 2

    def exact(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        formula = reference.diagonal if self.precision.dim() == 1 else reference.full
        return formula(rows, self.mean.float(), self.precision.float())

    def formula(self, d: int) -> Formula:
        kind = "diagonal" if self.precision.dim() == 1 else "full"
        return Formula(kind, d, readable(self.mean.float()), readable(self.precision.float()))

    def reach(self, d: int) -> tuple[float, ...]:
        most = max(float(self.precision.abs().max()), 1e-30) * d * d
        return (max(min(math.sqrt(HUGE / most), HUGE / most, FAR) - float(self.mean.abs().max()), 0.0),)

    def checked_size(self, d: int) -> bool | str:
        return d == self.mean.numel() or f"samples of {self.mean.numel()} elements, as many as the mean's"


class Mixture(Analytic):
    r"""E(x) = -log sum_k weight_k N(x; mean_k, std_k^2 I), a mixture of round Gaussians.

    Args:
        means: (K, \*sample).
        std: standard deviation > 0 of every component, a number or (K,).
        weights: (K,), > 0, divided by their sum; default 1 / K each.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """

    kind = "mixture"

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]],
        std: float | Tensor | Sequence[float],
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        name = "Mixture"
        means = _tensor(name, "means", means)
        require(means.dim() > 0 and len(means) > 0, name, "means", "(K, *sample)", means)
        std = _tensor(name, "std", std)
        require(std.shape in ((), (len(means),)), name, "std", f"a number or shape ({len(means)},)", std)
        require(bool((std > 0).all()), name, "std", "> 0", std)
        weights = (
            torch.ones(len(means), dtype=torch.float32, device=means.device)
            if weights is None
            else _tensor(name, "weights", weights)
        )
        require(weights.shape == (len(means),), name, "weights", f"shape ({len(means)},)", weights)
        require(bool((weights > 0).all()), name, "weights", "> 0", weights)
        self.register_buffer("means", means.reshape(len(means), means[0].numel()))
        self.register_buffer("std", std.expand(len(means)).clone())
        self.register_buffer("weights", weights / weights.sum())

    @property
    def components(self) -> int:
        """How many Gaussians these are."""
        return len(self.means)

    def plain(self, rows: Tensor) -> Tensor:
        squares = (rows[:, None] - self.means.to(rows)).square().sum(2)
        fall, _, log_weight = (v.to(rows) for v in self._numbers(torch.float64, rows.device))
        return -(squares * fall + log_weight).logsumexp(1)

    def exact(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return reference.mixture(rows, self.means.float(), *self._numbers(torch.float32, rows.device))

    def formula(self, d: int) -> Formula:
        weight = torch.stack(self._numbers(torch.float32, self.means.device))
        return Formula("mixture", d, readable(self.means.float()), weight, len(self.means))

    def reach(self, d: int) -> tuple[float, ...]:
        most = max(float(self.std.min()) ** -2, 1.0) * d
        return (max(min(math.sqrt(HUGE / most), HUGE / most, FAR) - float(self.means.abs().max()), 0.0),)

    def checked_size(self, d: int) -> bool | str:
        wanted = self.means.shape[1]
        return d == wanted or f"samples of {wanted} elements, as many as a mean's"

    def _numbers(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """-1 / (2 std^2), 1 / std^2 and the log of each component's height, (K,) each."""
        std, weights, d = self.std.double(), self.weights.double(), self.means.shape[1]
        precision = std**-2
        log_weight = weights.log() - d * std.log() - d / 2 * math.log(2 * math.pi)
        return [v.to(device, dtype) for v in (-0.5 * precision, precision, log_weight)]


def _tensor(op: str, name: str, value: Tensor | Sequence | float) -> Tensor:
    check_unlearned(op, name, value)
    if isinstance(value, Tensor):
        require(value.is_floating_point() and is_dense(value), op, name, "floating-point", value, TypeError)
        require(not value.is_meta, op, name, "a tensor with data", value)
        found = value.detach().clone()
    else:
        found = _read(value)
        require(found is not None, op, name, "numbers: a tensor, an array, or lists of one length", value, TypeError)
    require(bool(found.float().isfinite().all()), op, name, "finite in float32", value)
    return found


def _read(value: Any) -> Tensor | None:
    """Numbers as float32 on the caller's default device; None where these are none."""
    try:
        kind = torch.tensor(value, dtype=None, device="cpu").dtype
        if kind.is_complex or kind == torch.bool:
            return None
        return torch.tensor(value, dtype=torch.float64, device="cpu").float().to(torch.get_default_device())
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
