"""What is told of steps: the energies and pulls where they took their gradients, and how far they went."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.laws import Now
from hatebm.energies.parts import Parts

Told = dict[str, Any]  # tensors by name, with a number a chain; "energy_parts" a dict of such


class Gathering:
    """What a run tells of its steps that ``every`` divides, if that is ``wanted``: chunks of rows, in order."""

    def __init__(self, every: int, wanted: bool) -> None:
        self.every, self.wanted = every, wanted
        self.chunks: list[Told] = []

    def kept(self, t: int, n_steps: int) -> range:
        """Those of so many steps from t on that are told of."""
        return range(t + -t % self.every, t + n_steps, self.every) if self.wanted else range(0)

    def untold(self, t: int, n_steps: int) -> int:
        """How many of so many steps from t on come before the first that is told of."""
        return min(n_steps, -t % self.every) if self.wanted else n_steps

    def add(self, steps: range, rows: Told) -> None:
        """Keep what is told of these steps, a row each; every step that is told of tells the same names."""
        at = torch.arange(steps.start, steps.stop, steps.step, dtype=torch.int64, device="cpu")
        self.chunks.append({"step": at} | rows)


def joined(chunks: Sequence[Told]) -> Told:
    """Chunks of rows, one after another."""
    return {name: _joined([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _joined(chunks: Sequence[Any]) -> Any:
    return joined(chunks) if isinstance(chunks[0], dict) else torch.cat(chunks)


def each(function: Callable[[Tensor], Tensor], told: Told) -> Told:
    """A function of every tensor that is told."""
    return {name: each(function, v) if isinstance(v, dict) else function(v) for name, v in told.items()}


class StepFacts:
    """Gathers, block by block, what is told of one step from ``state``.

    ``pulls`` are the norms of grad E / T + prior_precision * x of each block, which its step writes; they stay 0 for a
    block that stays.
    """

    def __init__(self, blocks: Blocks, state: list[Tensor]) -> None:
        self.blocks = blocks
        self.before = [x.detach().clone() for x in state]
        self.pulls = [x.new_zeros(len(x)) for x in state]
        self._of_energy = [x.new_zeros(len(x)) for x in state]
        self._moving: dict[int, Tensor | None] = {}  # which chains rest, of each block that moves

    def pulled(self, k: int, grad: Tensor, now: Now) -> None:
        """Block k has taken its step by a gradient of the energy."""
        self._moving[k] = now.resting
        _silence(now.resting, self.pulls[k])
        if now.arguments["prior_precision"] == 0:
            self._of_energy[k] = self.pulls[k]
            return
        still = torch.zeros_like(self.before[k])
        self._of_energy[k] = self.blocks.norm(k, still, grad, **now.arguments | {"prior_precision": 0.0})
        _silence(now.resting, self._of_energy[k])

    def told(self, state: list[Tensor], energies: Tensor | None, parts: Parts | None) -> Told:
        """All of it, the step having led to ``state``; energies where there are any, their parts where it has some."""
        dtype = self.before[0].dtype
        told: Told = {} if energies is None else {"energy": (energies if energies.dim() else energies[None]).to(dtype)}
        told |= {"energy_parts": {name: part.to(dtype) for name, part in parts.items()}} if parts else {}
        return told | {
            "grad_norm": _over_blocks(self.pulls),
            "grad_norm_energy": torch.stack(self._of_energy, 1),
            "displacement": _over_blocks([self._way(k, x.detach()) for k, x in enumerate(state)]),
        }

    def _way(self, k: int, x: Tensor) -> Tensor:
        """How far block k went, (n,)."""
        if k not in self._moving:
            return x.new_zeros(len(x))
        way = self.blocks.region.free(k, x - self.before[k])
        norm = self.blocks.norm(k, torch.zeros_like(way), way)
        _silence(self._moving[k], norm)
        return norm


def _silence(resting: Tensor | None, norms: Tensor) -> None:
    """A chain that rests is not pulled and goes nowhere, whatever lies there."""
    if resting is not None:
        norms.masked_fill_(resting, 0)


def _over_blocks(norms: list[Tensor]) -> Tensor:
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm(dim=0)
