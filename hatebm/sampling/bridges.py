"""The bridges of annealed importance sampling: densities between a base and exp(-E / T), and chains that pass them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.dynamics.gradient import Potential
from hatebm.energies.modes import bare
from hatebm.ops.checks import require
from hatebm.ops.noise import Purpose, normal, uniform
from hatebm.sampling.chain import Chain

NAME = "ais"
ACCEPTED = 0.75


class Normal(NamedTuple):
    """N(0, std^2)."""

    std: float

    def checked(self, x: Tensor) -> Tensor:
        """Samples, where all may come from here."""
        return x

    def draw(self, shape: Sequence[int], **place: Any) -> Tensor:
        """Exact samples."""
        return self.std * normal(shape, **place)

    def log_density(self, x: Tensor) -> Tensor:
        """(n,) float64, normalized."""
        z = x.reshape(len(x), x[0].numel()).double() / self.std
        return -z.square().sum(1) / 2 - z.shape[1] * math.log(self.std * math.sqrt(2 * math.pi))

    def law(self, beta: float) -> dict[str, Any]:
        """What the bridge at beta has of the base."""
        return {"prior_precision": (1 - beta) / self.std**2}


class Uniform(NamedTuple):
    """Uniform on [low, high] in every element."""

    low: float
    high: float

    def checked(self, x: Tensor) -> Tensor:
        """Samples, where all may come from here."""
        within = bool(((x >= self.low) & (x <= self.high)).all())
        require(within, NAME, "x", f"samples inside the box {tuple(self)}", x)
        return x

    def draw(self, shape: Sequence[int], **place: Any) -> Tensor:
        """Exact samples."""
        return (self.low + (self.high - self.low) * uniform(shape, **place)).clamp(self.low, self.high)

    def log_density(self, x: Tensor) -> Tensor:
        """(n,) float64, normalized."""
        return x.new_full((len(x),), -x[0].numel() * math.log(self.high - self.low), dtype=torch.float64)

    def law(self, beta: float) -> dict[str, Any]:
        """What the bridge at beta has of the base."""
        return {"reflect": tuple(self)}


class AnnealingPath:
    """The densities f_beta = base^(1 - beta) exp(-beta E / T), and chains that pass them."""

    def __init__(
        self,
        energy: Callable[..., Tensor],
        base: Normal | Uniform,
        betas: list[float],
        temperature: float,
        trajectories: int,
        energy_kwargs: dict[str, Any] | None,
        moves: dict[str, Any],
    ) -> None:
        self.energy, self.base, self.betas = energy, base, betas
        self.temperature, self.trajectories = temperature, trajectories
        self.potential = Potential(bare(energy), None, energy_kwargs, ())
        self.moves = moves | {"energy_kwargs": energy_kwargs}
        self.report = "no chain yet"

    def start(self, shape: Sequence[int], ids: Tensor) -> Tensor:
        """Exact samples of the base."""
        place = {"seed": self.moves["seed"], "step": 0, "purpose": Purpose.INITIAL_STATE, "chain_ids": ids}
        return self.base.draw(shape, **place, device=ids.device)

    def run(
        self, x: Tensor, ids: Tensor, eps: list[float], reverse: bool = False, steered: bool = False
    ) -> tuple[Tensor, Tensor, list[float], list[float]]:
        """The last states, log w, the shares of accepted trajectories, and the lengths they had."""
        last = len(self.betas) - 1
        log_w, accepted = torch.zeros(len(x), dtype=torch.float64, device=x.device), [math.nan] * last
        for k in range(last - 1, -1, -1) if reverse else range(1, last + 1):
            before = self.betas[k + 1 if reverse else k - 1]
            log_w += (self.betas[k] - before) * self.slope(x)
            if k > 0:
                x, accepted[k - 1] = self.move(k, x, ids, eps[k - 1])
            if steered and k < last:
                eps[k] = min(eps[k], eps[k - 1] * math.exp(accepted[k - 1] - ACCEPTED))
        return x, log_w, accepted, eps

    def slope(self, x: Tensor) -> Tensor:
        """The derivative of log f_beta in beta: -E / T - log p_0."""
        return -self.potential.energies(0, (x,)).double() / self.temperature - self.base.log_density(x)

    def move(self, k: int, x: Tensor, ids: Tensor, eps: float) -> tuple[Tensor, float]:
        """Trajectories that keep f_(beta_k), and the share of them that was accepted."""
        beta = self.betas[k]
        law = {"eps": eps, "temperature": self.temperature / beta} | self.base.law(beta)
        chain = Chain(self.energy, x, chain_ids=ids, first_step=k * self.trajectories, **law, **self.moves)
        x, info = chain.run(self.trajectories, return_info=True)
        self.report = chain.report()
        return x, float(info["accept"].mean())
