"""The fields of a law, one by one: what each may be, and its number at a step."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hatebm.ops.checks import checked_choice, require
from hatebm.ops.law_tensors import LawTensor, check_listed
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

Schedule = float | list[float] | Tensor | Callable[[int], float] | LawTensor
NUMBERS = ("step_size", "noise_std", "eps", "temperature", "prior_precision")  # and the bound of a clip
LARGEST = sys.float_info.max
SCHEDULE = "a number, a list, a 1-D tensor or a callable of the step, or hatebm.per_chain(tensor) for a number a chain"
WANTED = {
    "step_size": "finite",
    "noise_std": "finite and >= 0",
    "eps": "finite and >= 0",
    "temperature": "finite and > 0",
    "prior_precision": "finite",
    "clip": "('value', c) or ('norm', c) with a number c > 0",
}
SIGNED = ("step_size", "prior_precision")
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


class TensorSchedule(list):
    """A schedule that was a tensor or an array: with an entry for each chain it may have been meant for those."""


def _checked_schedule(field: str, value: Any) -> Schedule | None:
    """A number, a list of numbers, numbers in a tensor or a callable; None where a field may be left out."""
    if (value is None and field != "temperature") or callable(value):
        return value
    if (held := _held(field, value, 1)) is not None:
        return held
    check_listed("Dynamics", field, value)
    found = plain(value)
    numbers = [as_number(number) for number in found] if isinstance(found, list) else [as_number(found)]
    require(None not in numbers, "Dynamics", field, SCHEDULE, value, TypeError)
    for number in numbers:
        check_number(field, number)
    if not isinstance(found, list):
        return numbers[0]
    return numbers if isinstance(value, list) else TensorSchedule(numbers)


def _held(field: str, value: Any, dims: int) -> LawTensor | None:
    """Numbers that stay in their tensor, of at most so many dimensions where they are learned."""
    if isinstance(value, Tensor) and value.requires_grad and value.dim() <= dims:
        value = LawTensor(value, each=False)
    if not isinstance(value, LawTensor):
        return None
    check_tensor(field, value)
    return value


def _checked_number(field: str, value: Any, wanted: str, fits: Callable[[float], bool]) -> float | LawTensor:
    """One number at all steps, or for each chain."""
    if (held := _held(field, value, 0)) is not None:
        return held
    value = value.detach() if isinstance(value, Tensor) and value.dim() else value  # refused for its shape
    try:
        return checked_number("Dynamics", field, value, wanted, fits)
    except (TypeError, ValueError) as error:
        if getattr(value, "shape", ()):
            error.args = (f"{error}; a number for each chain is hatebm.per_chain(tensor)",)
        raise


def _checked_prior(field: str, value: Any) -> float | LawTensor:
    if type(value) is float and math.isfinite(value):
        return value
    return _checked_number(field, value, "a finite number", math.isfinite)


def _checked_clip(field: str, value: Any) -> tuple[str, float | LawTensor] | None:
    return checked_clip("Dynamics", value, number=_checked_number)


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
    **dict.fromkeys(NUMBERS, _checked_schedule),
    "prior_precision": _checked_prior,
    **dict.fromkeys(CHOICES, _checked_word),
    "clip": _checked_clip,
    "clamp": _checked_box,
    "reflect": _checked_mirrors,
    "friction": _checked_friction,
}


def numbers_of(value: Schedule | None) -> Sequence[float]:
    """What is known of a schedule's numbers before a run."""
    if value is None or callable(value) or isinstance(value, LawTensor):
        return ()
    return value if isinstance(value, list) else (value,)


def is_zero(value: Schedule) -> bool:
    """Whether the number of a field is 0 at every step, and for all chains, as far as that is known."""
    numbers = numbers_of(value)
    return len(numbers) > 0 and not any(numbers)


def may_be_zero(value: Schedule) -> bool:
    """Whether the number of a field may be 0 at a step, for a chain."""
    if isinstance(value, LawTensor):
        return value.has_zero()
    return callable(value) or 0 in numbers_of(value)


def check_number(field: str, number: float, most: float = LARGEST) -> None:
    """Raise unless a number of a field is one that it may be, in a type whose largest is ``most``."""
    if field == "clip":
        fits = number > 0 and (number <= most or math.isinf(number))
    else:
        signed = field in SIGNED or number > 0 or (number == 0 and field != "temperature")
        fits = signed and abs(number) <= most
    if not fits:
        require(False, "Dynamics", field, WANTED[field] + in_range(most), number)
    if field == "eps" and number * number / 2 > most:
        require(False, "Dynamics", field, "so small that eps^2 / 2 is finite" + in_range(most), number)
    if field == "temperature" and 1 / number > most:
        require(False, "Dynamics", field, "so large that 1 / temperature is finite" + in_range(most), number)


def check_free(step_size: float) -> None:
    """Raise unless a step size tells the noise, which was left out."""
    require(step_size >= 0, "Dynamics", "step_size", "a number >= 0 when noise_std is left out", step_size)


def check_tensor(field: str, numbers: LawTensor, most: float = LARGEST) -> None:
    """The same for numbers in a tensor, where they can be looked at."""
    for end in numbers.ends() or ():
        check_number(field, end, most)


def _checked_entry(field: str, value: Any) -> float:
    check_unlearned("Dynamics", field, value)
    number = as_number(value)
    wanted = "a schedule of numbers, one a step (of one a chain too: hatebm.per_chain of (steps, n))"
    require(number is not None, "Dynamics", field, wanted, value, TypeError)
    return float(number)


def number_at(field: str, value: Schedule, t: int, most: float) -> float | Tensor:
    """The number of a field at step t; a tensor where it lies in one."""
    if isinstance(value, LawTensor):
        return value.at(t)
    if callable(value):
        number = value(t)
        if type(number) is not float:
            number = _checked_entry(field, number)
        check_number(field, number, most)
        return number
    return float(value[t] if isinstance(value, list) else value)
