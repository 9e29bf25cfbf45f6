"""The region that a state may move in: what a mask holds, boxes that clamp, walls that reflect."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hatebm.dynamics.laws import Laws
from hatebm.ops.scalars import sides_of


class Region:
    """Where each block may be, by its mask and its law; ``held`` is the state that masked elements keep."""

    def __init__(self, laws: Laws, masks: Sequence[Tensor | None], held: Sequence[Tensor | None] = ()) -> None:
        self.laws, self.masks, self.held = laws, masks, held

    def hold(self, k: int, x: Tensor) -> Tensor:
        """A block, with what is held where it was."""
        return x if self.masks[k] is None else torch.where(self.masks[k], x, self.held[k])

    def free(self, k: int, x: Tensor) -> Tensor:
        """What may move of a block, 0 where it is held: no prior pulls there, and no norm counts it."""
        return x if self.masks[k] is None else torch.where(self.masks[k], x, 0)

    def reflect(self, k: int, x: Tensor) -> Tensor:
        """A block that has moved, folded back at its walls."""
        walls = self.laws.each[k].reflect
        return x if walls is None else folded(x, *walls)[0]

    def bounce(self, k: int, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """A block that has moved by its velocity, and the velocity: walls that reflect turn it."""
        law = self.laws.each[k]
        if law.reflect is None or law.clamp_at == "final":
            return x, v
        x, turned = folded(x, *law.reflect)
        return x, torch.where(turned, -v, v)

    def inside(self, k: int, x: Tensor) -> Tensor | None:
        """(n,) whether what may move of each sample lies in its box; None without one."""
        low, high = self._box(k)
        if self.laws.each[k].clamp_at == "final" or (math.isinf(low) and math.isinf(high)):
            return None
        within = (x >= low) & (x <= high)
        if self.masks[k] is not None:
            within |= ~self.masks[k]
        return within.reshape(len(x), x[:1].numel()).all(1)

    def unwalled(self, state: Sequence[Tensor]) -> list[Tensor]:
        """Where nothing keeps each block from running away: bool, shaped like the block."""
        free = []
        for k, (law, mask, x) in enumerate(zip(self.laws.each, self.masks, state, strict=True)):
            sides = sides_of(law.reflect) if law.reflect else self._box(k)
            walled = law.clamp_at != "final" and all(map(math.isfinite, sides))
            free.append(torch.full_like(x, not walled, dtype=torch.bool) if mask is None or walled else mask)
        return free

    def boxed(self, k: int, x: Tensor) -> Tensor:
        """What a run returns of a block."""
        law = self.laws.each[k]
        if law.clamp_at != "final":
            return x
        return self.hold(k, x.clamp(*self._box(k)) if law.reflect is None else self.reflect(k, x))

    def _box(self, k: int) -> tuple[float, float]:
        settings = self.laws.settings[k]
        return settings["low"], settings["high"]


def folded(x: Tensor, low: float | None, high: float | None) -> tuple[Tensor, Tensor]:
    """The state reflected at the walls until it is inside, and whether an odd number of walls was met."""
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    inside = (x >= low) & (x <= high) | x.isnan()
    if math.isinf(low) or math.isinf(high):
        wall = high if math.isinf(low) else low
        return torch.where(inside, x, 2 * wall - x), ~inside
    width = high - low
    way = (x - low).remainder(2 * width)
    back = low + torch.where(way > width, 2 * width - way, way)
    return torch.where(inside, x, back.clamp(low, high)), ~inside & (way > width)
