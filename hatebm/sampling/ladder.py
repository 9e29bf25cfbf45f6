"""The temperatures of a ladder, and the law at each of them."""

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hatebm.dynamics.law import Dynamics
from hatebm.ops.checks import require
from hatebm.ops.law_tensors import LawTensor, per_chain
from hatebm.ops.scalars import checked_numbers

NAME = "tempering"
REPLICAS = 256
HEATED = {"step_size": float, "noise_std": math.sqrt, "eps": math.sqrt}  # what of the heat multiplies each


def checked_ladder(temperatures: Sequence[float] | Tensor) -> list[float]:
    """The temperatures as Python's numbers."""
    wanted = "finite, > 0 and increasing, the wanted one first"
    ladder = checked_numbers(NAME, "temperatures", temperatures, wanted, lambda value: 0 < value < math.inf)
    require(0 < len(ladder) <= REPLICAS, NAME, "temperatures", f"of 1 to {REPLICAS} entries", temperatures)
    rises = all(low < high for low, high in pairwise(ladder))
    require(rises, NAME, "temperatures", wanted, temperatures)
    return [float(value) for value in ladder]


def checked_law(dynamics: Dynamics | None, law: dict[str, Any]) -> Dynamics:
    """The law, whole or of its fields, without a temperature."""
    require(dynamics is None or not law, NAME, "dynamics", f"given alone, without {sorted(law)}", dynamics)
    require(isinstance(dynamics, Dynamics | None), NAME, "dynamics", "a Dynamics", dynamics, TypeError)
    law = Dynamics(**law) if dynamics is None else dynamics
    untouched = isinstance(law.temperature, int | float) and law.temperature == 1
    require(untouched, NAME, "temperature", "left to temperatures", law.temperature)
    return law


def heated(law: Dynamics, ladder: list[float]) -> list[Dynamics]:
    """The law at each temperature: all of them drift along grad E as the first one does."""
    laws = []
    for temperature in ladder:
        heat = temperature / ladder[0]
        scaled = {name: _scaled(getattr(law, name), of_heat(heat)) for name, of_heat in HEATED.items()}
        laws.append(dataclasses.replace(law, temperature=temperature, **scaled))
    return laws


def as_one(laws: Sequence[Dynamics], n: int) -> Dynamics | None:
    """The law of n chains at each temperature in turn; None where it does not lie in numbers."""
    fields = {name: [getattr(law, name) for law in laws] for name in ("temperature", *HEATED)}
    if any(callable(entry) for values in fields.values() for entry in _entries(values[0])):
        return None
    everyone = laws[0].for_chains(torch.arange(n, dtype=torch.int64, device="cpu").repeat(len(laws)))
    return dataclasses.replace(everyone, **{name: _as_one(values, n) for name, values in fields.items()})


def _scaled(value: Any, factor: float) -> Any:
    """A schedule times a factor, or each entry of a tuple of them."""
    if value is None:
        return None
    if isinstance(value, LawTensor):
        return LawTensor(value.tensor.detach().double() * factor, value.each)
    if isinstance(value, tuple | list):
        scaled = [_scaled(entry, factor) for entry in value]
        return tuple(scaled) if isinstance(value, tuple) else scaled
    return (lambda t: value(t) * factor) if callable(value) else value * factor


def _as_one(values: Sequence[Any], n: int) -> Any:
    """A field's values in the laws of all replicas as one value for n chains of each."""
    first = values[0]
    if isinstance(first, tuple):
        return tuple(_as_one(entries, n) for entries in zip(*values, strict=True))
    if not isinstance(first, LawTensor) and all(value == first for value in values):
        return first  # None, or 0 at every step
    return per_chain(torch.cat([_columns(value, n) for value in values], -1))


def _columns(value: Any, n: int) -> Tensor:
    """Numbers for each of n chains, (n,) or (steps, n)."""
    if isinstance(value, LawTensor):
        numbers = value.tensor if value.each else value.tensor[..., None]
    else:
        numbers = torch.tensor(value, dtype=torch.float64, device="cpu")[..., None]
    return numbers.expand(*numbers.shape[:-1], n)


def _entries(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)
