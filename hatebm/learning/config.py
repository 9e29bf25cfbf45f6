"""All numbers of a training in one frozen value, checked when it is made."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar

from hatebm.errors import UsageError

CROPS = ("center", "random")
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a word", tuple: "a tuple"}
Drops = tuple[tuple[int, float], ...]  # (iteration, factor): the rate is multiplied by it from there on


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every system has: its images, and how long and on how many it trains.

    Raises UsageError for a value of another kind than the field's default, and for a number out of range. Whole numbers
    and rates must be positive, but for those named in MAY_BE_ZERO; fractions lie in [0, 1), words are of CHOICES.
    """

    MAY_BE_ZERO: ClassVar[frozenset[str]] = frozenset({"iterations"})
    FRACTIONS: ClassVar[frozenset[str]] = frozenset({"average"})
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {"crop": CROPS}
    LEAST: ClassVar[dict[str, int]] = {}  # of whole numbers that 1 is too few for

    size: int = 32
    channels: int = 3
    iterations: int = 50_000
    batch: int = 128
    crop: str = "center"  # how pictures become square: "center", or "random" along the longer side
    average: float = 0.9999  # decay of the averaged weights that samples and scores use; 0: the last weights
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check(field.name, getattr(self, field.name), type(field.default))

    def _check(self, name: str, value: object, kind: type) -> None:
        if not _is(value, kind):
            raise self._refused(name, f"be {KINDS[kind]}", value)
        if name in self.CHOICES:
            if value not in self.CHOICES[name]:
                raise self._refused(name, f"be one of {', '.join(self.CHOICES[name])}", value)
        elif name == "seed":
            if not -(1 << 63) <= value < (1 << 63) - 1:  # the samples are drawn with the next seed
                raise self._refused(name, "fit 64 bits", value)
        elif name in self.FRACTIONS:
            if not 0 <= value < 1:
                raise self._refused(name, "lie in [0, 1)", value)
        elif name.endswith(("_widths", "_depths", "_shape")):
            if (not name.endswith("_shape") and not value) or not all(_is(side, int) and side > 0 for side in value):
                raise self._refused(name, "be positive whole numbers", value)
        elif name.endswith("_drops"):
            if not all(_is_drop(drop) for drop in value):
                raise self._refused(name, "be pairs (iteration, factor)", value)
        elif kind in (int, float):
            if name in self.MAY_BE_ZERO and not 0 <= value < math.inf:
                raise self._refused(name, "not be negative", value)
            if name not in self.MAY_BE_ZERO and not 0 < value < math.inf:
                raise self._refused(name, "be positive", value)
            if value < self.LEAST.get(name, value):
                raise self._refused(name, f"be {self.LEAST[name]} or more", value)

    def _refused(self, name: str, wanted: str, value: object) -> UsageError:
        return UsageError(f"{type(self).__name__}: {name} must {wanted}, got {value}")


def dropped(lr: float, drops: Drops, iteration: int) -> float:
    """The learning rate of an iteration: `lr` times the factor of the last drop before it."""
    return lr * next((factor for start, factor in sorted(drops, reverse=True) if iteration >= start), 1.0)


def _is(value: object, kind: type) -> bool:
    """Whether a value is of a kind; a whole number is a number too, and True is none."""
    return isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _is_drop(drop: object) -> bool:
    if not (isinstance(drop, tuple) and len(drop) == 2):
        return False
    start, factor = drop
    return _is(start, int) and start >= 0 and _is(factor, float) and 0 < factor < math.inf
