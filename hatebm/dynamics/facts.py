"""What is told of steps: the energies and pulls where they took their gradients, and how far they went."""

import functools
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
        self._chunks: list[Told] = []
        self._steps: list[range] = []
        self._alone: list[Told] = []  # of steps one by one, since the last chunk

    def kept(self, t: int, n_steps: int) -> range:
        """Those of so many steps from t on that are told of."""
        return range(t + -t % self.every, t + n_steps, self.every) if self.wanted else range(0)

    def untold(self, t: int, n_steps: int) -> int:
        """How many of so many steps from t on come before the first that is told of."""
        return min(n_steps, -t % self.every) if self.wanted else n_steps

    def add(self, steps: range, rows: Told) -> None:
        """Keep what is told of these steps, a row each; every step that is told of tells the same names."""
        self._close()
        self._steps.append(steps)
        self._chunks.append(rows)

    def add_step(self, t: int, told: Told) -> None:
        """Keep what is told of one step."""
        self._steps.append(range(t, t + 1))
        self._alone.append(told)

    def joined(self) -> Told | None:
        """All that was told, a row for each step; None where it is nothing."""
        self._close()
        if not self._chunks:
            return None
        steps = torch.tensor([t for steps in self._steps for t in steps], dtype=torch.int64, device="cpu")
        return {"step": steps} | (self._chunks[0] if len(self._chunks) == 1 else joined(self._chunks))

    def _close(self) -> None:
        if self._alone:
            self._chunks.append(joined(self._alone, torch.stack))
            self._alone = []


def joined(parts: Sequence[Told], join: Callable[[list[Tensor]], Tensor] = torch.cat) -> Told:
    """What several parts tell, name by name: chunks of rows one after another, or rows that are stacked."""

    def of_name(found: list[Any]) -> Any:
        return joined(found, join) if isinstance(found[0], dict) else join(found)

    return {name: of_name([part[name] for part in parts]) for name in parts[0]}


def each(function: Callable[[Tensor], Tensor], told: Told) -> Told:
    """A function of every tensor that is told."""
    return {name: each(function, v) if isinstance(v, dict) else function(v) for name, v in told.items()}


class StepFacts:
    """Gathers, block by block, what is told of one step from ``state``.

    ``pulls`` are the norms of grad E / T + prior_precision * x of each block, and ``ways`` how far it goes; they stay 0
    for a block that stays. The step of a block in ``one_pass`` writes both, any other its pull.
    """

    def __init__(self, blocks: Blocks, state: list[Tensor], one_pass: Sequence[int] = ()) -> None:
        self.blocks, self.one_pass = blocks, one_pass
        self.before = [x if k in one_pass else x.detach().clone() for k, x in enumerate(state)]
        self.pulls = [x.new_zeros(len(x)) for x in state]
        self.ways = [x.new_zeros(len(x)) for x in state]
        self._of_energy = list(self.pulls)
        self._moving: dict[int, Tensor | None] = {}  # which chains rest, of each block that moves

    def written(self, k: int) -> dict[str, Tensor]:
        """What the step of block k writes."""
        return {"grad_norm": self.pulls[k]} | ({"displacement": self.ways[k]} if k in self.one_pass else {})

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
        for k in self._moving.keys() - set(self.one_pass):
            way = self.blocks.region.free(k, state[k].detach() - self.before[k])
            self.ways[k] = self.blocks.norm(k, torch.zeros_like(way), way)
            _silence(self._moving[k], self.ways[k])
        dtype = self.before[0].dtype
        told: Told = {} if energies is None else {"energy": (energies if energies.dim() else energies[None]).to(dtype)}
        told |= {"energy_parts": {name: part.to(dtype) for name, part in parts.items()}} if parts else {}
        alone = len(state) == 1
        return told | {
            "grad_norm": over_blocks(self.pulls),
            "grad_norm_energy": self._of_energy[0][:, None] if alone else torch.stack(self._of_energy, 1),
            "displacement": over_blocks(self.ways),
        }


def over_blocks(norms: Sequence[Tensor]) -> Tensor:
    """The norm of all blocks from those of each, number by number, so that a step has the bits of rows of steps."""
    return norms[0] if len(norms) == 1 else functools.reduce(torch.add, [norm * norm for norm in norms]).sqrt()


def _silence(resting: Tensor | None, norms: Tensor) -> None:
    """A chain that rests is not pulled and goes nowhere, whatever lies there."""
    if resting is not None:
        norms.masked_fill_(resting, 0)
