"""The fields of a law, one by one: what each may be, and its number at a step."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hatebm.ops.checks import checked_choice, require
from hatebm.ops.native.extension import ADD
from hatebm.ops.scalars import (
    as_number,
    check_unlearned,
    checked_box,
    checked_clip,
    checked_number,
    in_range,
    plain,
    sides_of,
)

Schedule = float | list[float] | torch.Tensor | Callable[[int], float]
SCHEDULED = ("step_size", "noise_std", "eps", "temperature")
LARGEST = sys.float_info.max
SCHEDULE = "a number, a list, a 1-D tensor or a callable of the step"
WANTED = {
    "step_size": "finite",
    "noise_std": "finite and >= 0",
    "eps": "finite and >= 0",
    "temperature": "finite and > 0",
}
CHOICES = {
    "noise_at": ("after", "before"),
    "add": tuple(ADD),
    "clip_on": ("grad", "update"),
    "clamp_at": ("step", "noise+step", "final"),
    "blocks": ("joint", "sequential"),
}


def is_per_block(name: str, value: Any) -> bool:
    """Whether the value of a field is a tuple of one entry a block."""
    if not isinstance(value, tuple) or name == "blocks":
        return False
    if name == "clip":
        return not (value and isinstance(value[0], str))
    if name in ("clamp", "reflect"):
        return any(isinstance(entry, tuple | list) for entry in value)
    return True


def _checked_schedule(field: str, value: Any) -> Schedule | None:
    """A number, a list of numbers or a callable; None where a field may be left out."""
    if (value is None and field != "temperature") or callable(value):
        return value
    check_unlearned("Dynamics", field, value)
    found = plain(value)
    numbers = [as_number(number) for number in found] if isinstance(found, list) else [as_number(found)]
    require(None not in numbers, "Dynamics", field, SCHEDULE, value, TypeError)
    for number in numbers:
        check_number(field, number)
    return numbers if isinstance(found, list) else numbers[0]


def checked_finite(field: str, value: Any, most: float = LARGEST) -> float:
    """A number whose size is at most ``most``."""
    wanted = "a finite number" + in_range(most)
    return checked_number("Dynamics", field, value, wanted, lambda number: abs(number) <= most)


def _checked_clip(field: str, value: Any) -> tuple[str, float] | None:
    return checked_clip("Dynamics", value)


def _checked_box(field: str, value: Any) -> tuple[float | None, float | None] | None:
    return checked_box("Dynamics", field, value)


def _checked_mirrors(field: str, value: Any) -> tuple[float | None, float | None] | None:
    box = _checked_box(field, value)
    low, high = sides_of(box)
    require(low < high, "Dynamics", field, "(low, high) with low < high", value)
    return box


def _checked_friction(field: str, value: Any) -> float | None:
    if value is None:
        return None
    return checked_number("Dynamics", field, value, "a number > 0 or None", lambda v: v > 0)


def _checked_word(field: str, value: Any) -> str:
    checked_choice("Dynamics", field, value, CHOICES[field])
    return value


CHECKS = {
    **dict.fromkeys(SCHEDULED, _checked_schedule),
    "prior_precision": checked_finite,
    **dict.fromkeys(CHOICES, _checked_word),
    "clip": _checked_clip,
    "clamp": _checked_box,
    "reflect": _checked_mirrors,
    "friction": _checked_friction,
}


def numbers_of(value: Schedule | None) -> Sequence[float]:
    """What is known of a schedule's numbers before a run."""
    if value is None or callable(value):
        return ()
    return value if isinstance(value, list) else (value,)


def check_number(field: str, number: float, most: float = LARGEST) -> None:
    """Raise unless a number of a scheduled field is one that it may be, in a type whose largest is ``most``."""
    signed = field == "step_size" or number > 0 or (number == 0 and field != "temperature")
    if not (signed and abs(number) <= most):
        require(False, "Dynamics", field, WANTED[field] + in_range(most), number)
    if field == "eps" and number * number / 2 > most:
        require(False, "Dynamics", field, "so small that eps^2 / 2 is finite" + in_range(most), number)
    if field == "temperature" and 1 / number > most:
        require(False, "Dynamics", field, "so large that 1 / temperature is finite" + in_range(most), number)


def _checked_entry(field: str, value: Any) -> float:
    check_unlearned("Dynamics", field, value)
    number = as_number(value)
    require(number is not None, "Dynamics", field, "a schedule of numbers, one a step", value, TypeError)
    return float(number)


def number_at(field: str, value: Schedule, t: int, most: float) -> float:
    """The number of a scheduled field at step t."""
    if callable(value):
        number = value(t)
        if type(number) is not float:
            number = _checked_entry(field, number)
        check_number(field, number, most)
        return number
    return float(value[t] if isinstance(value, list) else value)
