"""How an energy behaves far away: along straight lines out of a state."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hatebm.energies.parts import summed
from hatebm.ops.noise import Purpose, normal

CHAINS, ROUNDS = 4, 24
REACH = (1e4, 1e3, 1e2, 1e1)


class Rays:
    r"""Rays x0 + r v from a few chains of a state, one unit direction v (n, D) over all the chain's elements each.

    The reach is 1e4 times the state's scale (root mean square, at least 1) per element, or as far as the gradient is
    finite.

    Args:
        energy: (n, \*sample) to (n,) or a scalar, called with every block.
        state: the blocks.
        kwargs: keyword arguments of the energy; a tensor with a row per chain is cut to the chains that are looked at.
        precisions: one number per block, which adds precision * |x|^2 / 2 to the energy; default 0.
        masks: for each block where the rays may go, bool and shaped like the block, or None for everywhere.
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        state: Sequence[Tensor],
        kwargs: dict[str, Any],
        precisions: Sequence[float] | None,
        masks: Sequence[Tensor | None] | None,
    ) -> None:
        masks = [
            torch.ones_like(x, dtype=torch.bool) if mask is None else mask
            for x, mask in zip(state, masks or [None] * len(state), strict=True)
        ]
        self.energy, self.precisions = energy, precisions or [0.0] * len(state)
        state, masks, self.kwargs = _few(energy, [x.detach() for x in state], masks, kwargs)
        self.blocks = state
        self.start, self.mask = _flat(state), _flat(masks)
        scale = max(1.0, float(self.start.square().mean().sqrt()))
        first = self._first_directions()
        for times in REACH:
            self.reach = times * scale * math.sqrt(self.start.shape[1])
            if self._gradient(first).isfinite().all():
                break

    def lowest(self) -> Tensor:
        r"""For each chain a unit v where the energy at distance r falls most steeply outward, v . grad E(x0 + r v).

        Conjugate gradients descend E on the sphere |x - x0| = r from random starts. The step along the great circle
        v cos a + p sin a is exact for a quadratic energy, whose v then tends to the lowest eigenvector.
        """
        v = self._first_directions()
        best, lowest = v, torch.full_like(v[:, :1], math.inf)
        p, before = torch.zeros_like(v), torch.zeros_like(v)
        for _ in range(min(ROUNDS, 2 * v.shape[1])):
            g = self._gradient(v)
            slope = _dot(g, v)
            best, lowest = torch.where(slope < lowest, v, best), lowest.fmin(slope)
            tangent = g - slope * v
            beta = (_dot(tangent, tangent - before) / _dot(before, before)).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)
            p = beta * (p - _dot(p, v) * v) - tangent
            length, u = p.norm(dim=1, keepdim=True), _unit(p)
            h = self._gradient((v + u) / math.sqrt(2))
            angle = (torch.atan2(_dot(g, u), -_dot(h, u - v) / math.sqrt(2)) + math.pi) / 2
            p = length * (u * angle.cos() - v * angle.sin())
            v, before = _unit(v * angle.cos() + u * angle.sin()), tangent
        slope = _dot(self._gradient(v), v)
        return torch.where(slope < lowest, v, best)

    def along(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The energies at r / 8, r / 4, r / 2 and r, (4, n), and on which rays they fall at least linearly, (n,).

        A scalar energy is one ray, n = 1.
        """
        radii = [self.reach / 8, self.reach / 4, self.reach / 2, self.reach]
        with torch.no_grad():
            energies = torch.stack([self._energies(self.start + r * directions) for r in radii])
        slopes = energies.diff(dim=0) / energies.new_tensor(radii).diff()[:, None]
        falls = (slopes < 0).all(0) & (slopes[1:] <= 0.8 * slopes[:-1]).all(0)
        return energies, falls & energies.isfinite().all(0)

    def _first_directions(self) -> Tensor:
        place = {"seed": 0, "step": 0, "purpose": Purpose.INITIAL_STATE, "device": self.start.device}
        return _unit(normal(self.start.shape, **place).to(self.start.dtype) * self.mask)

    def _gradient(self, directions: Tensor) -> Tensor:
        with torch.enable_grad():
            x = (self.start + self.reach * directions).requires_grad_()
            (grad,) = torch.autograd.grad(self._energies(x).sum(), x)
        return grad * self.mask

    def _energies(self, x: Tensor) -> Tensor:
        parts = x.split([block[0].numel() for block in self.blocks], 1)
        prior = sum(p / 2 * part.square().sum(1) for p, part in zip(self.precisions, parts, strict=True))
        state = [part.view_as(block).to(block.dtype) for part, block in zip(parts, self.blocks, strict=True)]
        energies, _ = summed("langevin", "energy's result", self.energy(*state, **self.kwargs), len(x))
        return energies.reshape(len(x)) + prior if energies.dim() else (energies + prior.sum())[None]


def _few(
    energy: Callable[..., Tensor], state: Sequence[Tensor], masks: Sequence[Tensor], kwargs: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor], dict[str, Any]]:
    """The first chains, or all of them where the energy holds something with a row per chain, as a partial may."""
    n = len(state[0])
    few = [x[:CHAINS] for x in state], [mask[:CHAINS] for mask in masks], _rows(kwargs, n)
    try:
        with torch.no_grad():
            energy(*few[0], **few[2])
    except Exception:
        return list(state), list(masks), kwargs
    return few


def _rows(value: Any, n: int) -> Any:
    if isinstance(value, dict):
        return {key: _rows(entry, n) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(_rows(entry, n) for entry in value)
    return value[:CHAINS] if isinstance(value, Tensor) and value.dim() and len(value) == n else value


def _flat(blocks: Sequence[Tensor]) -> Tensor:
    return torch.cat([block.flatten(1) if block.dim() > 1 else block[:, None] for block in blocks], 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
