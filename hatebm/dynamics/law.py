"""The law of a chain as a value: what presets, configurations and checkpoints carry."""

import math
from dataclasses import dataclass, fields
from typing import Any

from hatebm.dynamics.fields import (
    CHECKS,
    LARGEST,
    SCHEDULED,
    Schedule,
    check_number,
    checked_finite,
    is_per_block,
    number_at,
    numbers_of,
)
from hatebm.ops.checks import require
from hatebm.ops.scalars import checked_box, checked_clip, sides_of

CONSTANT = (int, float, type(None))  # a tuple, which isinstance takes faster than a union


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """The law x <- clamp(x - step_size * clip(grad E / temperature + prior_precision * x) + noise_std * eps).

    A tuple gives one entry per block of the state. ``step_size``, ``noise_std``, ``eps`` and ``temperature`` take a
    number or a schedule: a list, a 1-D tensor or a callable, each indexed by the absolute step. NumPy's numbers and
    arrays and tensors are kept as Python's numbers and lists. A block whose step and noise are 0 is frozen and not
    clamped.

    Args:
        step_size: factor of the gradient; required, unless ``eps`` is given.
        noise_std: standard deviation of the noise; default sqrt(2 * step_size), 0 is gradient descent.
        eps: shorthand for step_size = eps^2 / 2 and noise_std = eps.
        temperature: divides the energy, so that exp(-E / temperature) is sampled.
        prior_precision: adds prior_precision * x to the gradient, after the temperature and before the clip.
        noise_at: "after" the gradient step, or "before" the gradient is taken (Du & Mordatch 2019).
        add: order of rounding: "sequential" (x - s g) + n, "increment" x + (n - s g), or "fma".
        clip: ("value", c) elementwise, ("norm", c) for the L2 norm of each sample, or None.
        clip_on: what is clipped: the "grad", or the "update" step_size * grad.
        clamp: box (low, high) or None.
        clamp_at: after each "step"; after the noise too ("noise+step", needs noise_at="before"); or "final": only
            what a run returns.
        reflect: box (low, high) whose walls fold a move back inside, in place of a clamp that stops it there; when,
            says clamp_at.
        friction: None is overdamped; gamma > 0 gives each element a velocity v that keeps exp(-gamma * noise_std) of
            itself: v <- a v + sqrt(1 - a^2) eps, then a leapfrog step of length noise_std (Horowitz 1991). With
            gamma = inf the law is the overdamped one.
        blocks: "joint": all blocks move from one gradient; "sequential": block k sees blocks < k already moved.

    Raises:
        TypeError, ValueError: naming the field, what was wanted and what came.
    """

    step_size: Schedule | tuple[Schedule, ...] | None = None
    noise_std: Schedule | tuple[Schedule | None, ...] | None = None
    eps: Schedule | tuple[Schedule, ...] | None = None
    temperature: Schedule | tuple[Schedule, ...] = 1.0
    prior_precision: float | tuple[float, ...] = 0.0
    noise_at: str | tuple[str, ...] = "after"
    add: str | tuple[str, ...] = "sequential"
    clip: Any = None
    clip_on: str | tuple[str, ...] = "grad"
    clamp: Any = None
    clamp_at: str | tuple[str, ...] = "step"
    reflect: Any = None
    friction: float | tuple[float, ...] | None = None
    blocks: str = "joint"

    def __post_init__(self) -> None:
        for name, checked in CHECKS.items():
            value = getattr(self, name)
            per_block = is_per_block(name, value)
            plain_value = tuple(checked(name, entry) for entry in value) if per_block else checked(name, value)
            object.__setattr__(self, name, plain_value)
        counts = {len(value) for _, value in self._per_block()}
        require(
            len(counts) <= 1 and 0 not in counts,
            "Dynamics",
            "tuples",
            "one entry per block in every field",
            sorted(counts),
        )
        for part in [self] if not counts else [self._entry(k) for k in range(counts.pop())]:
            part._check()

    @property
    def is_scheduled(self) -> bool:
        """Whether one block's numbers may be others at another step."""
        return any(not isinstance(getattr(self, name), CONSTANT) for name in SCHEDULED)

    def for_blocks(self, count: int) -> tuple["Dynamics", ...]:
        """The law of each of ``count`` blocks."""
        per_block = self._per_block()
        for name, value in per_block:
            require(len(value) == count, "Dynamics", name, f"a tuple of {count} entries, one per block", value)
        return tuple(self._entry(k) for k in range(count)) if per_block else (self,) * count

    def at(self, t: int, most: float = LARGEST) -> tuple[float, float, float]:
        """step_size, noise_std and temperature of one block at step t, in a type whose largest number is ``most``."""
        temperature = number_at("temperature", self.temperature, t, most)
        if self.eps is not None:
            eps = number_at("eps", self.eps, t, most)
            return eps * eps / 2, eps, temperature
        step_size = number_at("step_size", self.step_size, t, most)
        if self.noise_std is not None:
            return step_size, number_at("noise_std", self.noise_std, t, most), temperature
        require(step_size >= 0, "Dynamics", "step_size", "a number >= 0 when noise_std is left out", step_size)
        return step_size, math.sqrt(2 * step_size), temperature

    def settings(self) -> dict[str, Any]:
        """What stays the same over the steps of one block, as the backends take it."""
        kind, bound = self.clip or (None, 0.0)
        low, high = sides_of(self.clamp)
        clip = {"clip": kind, "bound": float(bound), "clip_on": self.clip_on}
        return clip | {"prior_precision": float(self.prior_precision), "add": self.add, "low": low, "high": high}

    def check_range(self, most: float) -> None:
        """Raise unless each number of one block that is known is at most ``most``, or open where a wall may be."""
        for name in SCHEDULED:
            for number in numbers_of(getattr(self, name)):
                check_number(name, number, most)
        checked_finite("prior_precision", self.prior_precision, most)
        checked_clip("Dynamics", self.clip, most)
        for name in ("clamp", "reflect"):
            checked_box("Dynamics", name, getattr(self, name), most)

    def check_length(self, end: int) -> None:
        """Raise unless every schedule that is a list or a tensor reaches step ``end`` - 1."""
        for name in SCHEDULED if self.is_scheduled else ():
            values = getattr(self, name)
            if isinstance(values, list):
                wanted = f"a schedule of at least {end} entries: it is indexed by the absolute step, not by the chain"
                require(len(values) >= end, "Dynamics", name, wanted, f"{len(values)} entries")

    def _values(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in FIELDS]  # vars(self) is opaque to torch 2.10 when it compiles

    def _per_block(self) -> list[tuple[str, tuple]]:
        tuples = [(name, value) for name, value in self._values() if isinstance(value, tuple)]
        return [(name, value) for name, value in tuples if is_per_block(name, value)]

    def _entry(self, k: int) -> "Dynamics":
        entry = object.__new__(Dynamics)
        for name, value in self._values():
            object.__setattr__(entry, name, value[k] if is_per_block(name, value) else value)
        return entry

    def _check(self) -> None:
        """What the fields of one block have to do with one another."""
        name = "Dynamics"
        one = (self.step_size is None) != (self.eps is None)
        require(one, name, "step_size", "given, or eps instead", self.step_size)
        require(self.eps is None or self.noise_std is None, name, "noise_std", "left out beside eps", self.noise_std)
        require(self.reflect is None or self.clamp is None, name, "reflect", "left out beside clamp", self.reflect)
        smooth = self.friction is None or self.noise_at == "after"
        require(smooth, name, "noise_at", "'after' with friction", self.noise_at)
        fits = self.clamp_at != "noise+step" or self.noise_at == "before"
        require(fits, name, "clamp_at", "'step' or 'final' unless noise_at='before'", self.clamp_at)


FIELDS = tuple(field.name for field in fields(Dynamics))
