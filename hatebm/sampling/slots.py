"""The slots of a replay buffer: where new states go, and which row of several for one slot stays there."""

from typing import Any

import torch
from torch import Tensor

from hatebm.ops.noise import words

REPLACEMENTS = ("ring", "uniform", "reservoir")
STARTED, START, DITHER, PLACED = range(4)  # the noise's blocks of a buffer: what each number is drawn for


def slots_of_new(new: Tensor, seen: int, capacity: int, replacement: str, place: dict[str, Any]) -> Tensor:
    """The slot of each row that is new, -1 for one that the reservoir lets go, after ``seen`` states."""
    before = seen + new.cumsum(0) - 1  # how many states came before this one
    if replacement == "ring":
        return before % capacity
    drawn = words(tuple(new.shape), block=PLACED, **place)
    if replacement == "uniform":
        slots = below(drawn, capacity)
    else:
        slots = below(drawn, before + 1)
        slots = torch.where(slots < capacity, slots, -1)
    return torch.where(before < capacity, before, slots)


def below(drawn: Tensor, n: int | Tensor) -> Tensor:
    """Integers in [0, n) from 32-bit words."""
    return drawn * n >> 32


def last_rows(slots: Tensor) -> Tensor:
    """Of the rows that share a slot the last one; none of slot -1."""
    order = slots.argsort(stable=True)
    ordered = slots[order]
    is_last = ordered.diff(append=ordered.new_full((1,), -2)) != 0
    return order[is_last & (ordered >= 0)]
