"""The laws of the blocks of a state, and their numbers at each step."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from hatebm.dynamics.law import Dynamics
from hatebm.ops.scalars import largest


class Now(NamedTuple):
    """The numbers of one block's law at one step."""

    step_size: float
    noise_std: float
    temperature: float

    @property
    def moves(self) -> bool:
        """Whether the block moves at all."""
        return self.step_size != 0 or self.noise_std != 0


class Laws:
    """A law for each block of these dtypes; ``settings`` are what of it stays the same, as the backends take it."""

    def __init__(self, dynamics: Dynamics, dtypes: Sequence[torch.dtype]) -> None:
        self.joint = dynamics.blocks == "joint"
        self.each, self.most = dynamics.for_blocks(len(dtypes)), [largest(dtype) for dtype in dtypes]
        for law, most in zip(self.each, self.most, strict=True):
            law.check_range(most)
        self.settings = [law.settings() for law in self.each]
        self.constant = not any(law.is_scheduled for law in self.each)
        self._now: tuple[list[Now], list[list[int]]] | None = None

    def at(self, t: int) -> tuple[list[Now], list[list[int]]]:
        """The numbers of every block at step t, and the groups of blocks that move together."""
        if self._now is None or not self.constant:
            now = [Now(*law.at(t, most)) for law, most in zip(self.each, self.most, strict=True)]
            moving = [k for k, block in enumerate(now) if block.moves]
            self._now = now, [moving] if self.joint and moving else [[k] for k in moving]
        return self._now

    def always_at(self, t: int) -> "Laws":
        """These laws with the numbers of step t at every step."""
        fixed = copy.copy(self)
        fixed._now, fixed.constant = self.at(t), True
        return fixed

    def proposal(self, k: int, now: Now) -> dict[str, Any]:
        """What the density of a block's move from one state to another depends on."""
        law = {name: self.settings[k][name] for name in ("prior_precision", "clip", "clip_on", "bound")}
        return law | {
            "step_size": now.step_size,
            "noise_std": now.noise_std,
            "inverse_temperature": 1.0 / now.temperature,
        }
