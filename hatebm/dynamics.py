"""The law of a chain as a value: what presets, configurations and checkpoints carry."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hatebm.checks import checked_box, checked_clip, require
from hatebm.native.extension import ADD

Schedule = float | list[float] | torch.Tensor | Callable[[int], float]
SCHEDULED = ("step_size", "noise_std", "eps", "temperature")
CONSTANT = (int, float, type(None))  # a tuple, which isinstance takes faster than a union
OPEN = {"low": -math.inf, "high": math.inf}  # a box without walls, as the backends take it
CHOICES = {
    "noise_at": ("after", "before"),
    "add": tuple(ADD),
    "clip_on": ("grad", "update"),
    "clamp_at": ("step", "noise+step", "final"),
    "blocks": ("joint", "sequential"),
}


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """The law x <- clamp(x - step_size * clip(grad E / temperature + prior_precision * x) + noise_std * eps).

    A tuple gives one entry per block of the state. ``step_size``, ``noise_std``, ``eps`` and ``temperature`` take a
    number or a schedule: a list, a 1-D tensor or a callable, each indexed by the absolute step.

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
        counts = {len(value) for _, value in self._per_block()}
        require(len(counts) <= 1, "Dynamics", "tuples", "one entry per block in every field", sorted(counts))
        _choice("blocks", self.blocks)
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

    def at(self, t: int) -> tuple[float, float, float]:
        """step_size, noise_std and temperature of one block at step t."""
        temperature = _at("temperature", self.temperature, t)
        if self.eps is not None:
            eps = _at("eps", self.eps, t)
            return eps * eps / 2, eps, temperature
        step_size = _at("step_size", self.step_size, t)
        if self.noise_std is not None:
            return step_size, _at("noise_std", self.noise_std, t), temperature
        require(step_size >= 0, "Dynamics", "step_size", "a number >= 0 when noise_std is left out", step_size)
        return step_size, math.sqrt(2 * step_size), temperature

    def settings(self) -> dict[str, Any]:
        """What stays the same over the steps of one block, as the backends take it."""
        kind, bound = checked_clip("Dynamics", self.clip) or (None, 0.0)
        low, high = checked_box("Dynamics", "clamp", self.clamp) or (-math.inf, math.inf)
        clip = {"clip": kind, "bound": float(bound), "clip_on": self.clip_on}
        return clip | {
            "prior_precision": float(self.prior_precision),
            "add": self.add,
            "low": float(low),
            "high": float(high),
        }

    def check_length(self, end: int) -> None:
        """Raise unless every schedule that is a list or a tensor reaches step ``end`` - 1."""
        for name in SCHEDULED if self.is_scheduled else ():
            values = getattr(self, name)
            if isinstance(values, list | torch.Tensor):
                wanted = f"a schedule of at least {end} entries: it is indexed by the absolute step"
                require(len(values) >= end, "Dynamics", name, wanted, f"{len(values)} entries")

    def _values(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in FIELDS]  # vars(self) is opaque to torch 2.10 when it compiles

    def _per_block(self) -> list[tuple[str, tuple]]:
        tuples = [(name, value) for name, value in self._values() if isinstance(value, tuple)]
        return [(name, value) for name, value in tuples if _is_per_block(name, value)]

    def _entry(self, k: int) -> "Dynamics":
        entry = object.__new__(Dynamics)
        for name, value in self._values():
            object.__setattr__(entry, name, value[k] if _is_per_block(name, value) else value)
        return entry

    def _check(self) -> None:
        name = "Dynamics"
        require(
            (self.step_size is None) != (self.eps is None), name, "step_size", "given, or eps instead", self.step_size
        )
        require(self.eps is None or self.noise_std is None, name, "noise_std", "left out beside eps", self.noise_std)
        require(self.temperature is not None, name, "temperature", "a number or a schedule", None, TypeError)
        for field in SCHEDULED:
            _check_schedule(field, getattr(self, field))
        finite = _is_number(self.prior_precision) and math.isfinite(self.prior_precision)
        require(finite, name, "prior_precision", "a finite number", self.prior_precision)
        for field in CHOICES:
            _choice(field, getattr(self, field))
        checked_clip(name, self.clip)
        checked_box(name, "clamp", self.clamp)
        low, high = checked_box(name, "reflect", self.reflect) or (-math.inf, math.inf)
        require(low < high, name, "reflect", "(low, high) with low < high", self.reflect)
        require(self.reflect is None or self.clamp is None, name, "reflect", "left out beside clamp", self.reflect)
        drags = self.friction is None or (_is_number(self.friction) and self.friction > 0)
        require(drags, name, "friction", "a number > 0 or None", self.friction)
        smooth = self.friction is None or self.noise_at == "after"
        require(smooth, name, "noise_at", "'after' with friction", self.noise_at)
        fits = self.clamp_at != "noise+step" or self.noise_at == "before"
        require(fits, name, "clamp_at", "'step' or 'final' unless noise_at='before'", self.clamp_at)


FIELDS = tuple(Dynamics.__dataclass_fields__)


def _is_per_block(name: str, value: Any) -> bool:
    if not isinstance(value, tuple):
        return False
    if name == "clip":
        return not (len(value) == 2 and isinstance(value[0], str))
    if name in ("clamp", "reflect"):
        return any(isinstance(entry, tuple | list) for entry in value)
    return True


def _choice(field: str, value: Any) -> None:
    require(value in CHOICES[field], "Dynamics", field, f"one of {CHOICES[field]}", value)


def _check_schedule(field: str, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        fits = value.dim() <= 1
        require(fits, "Dynamics", field, "a number, a list, a 1-D tensor or a callable of the step", value)
    for number in _numbers(value):
        require(
            _is_number(number),
            "Dynamics",
            field,
            "a number, a list, a 1-D tensor or a callable of the step",
            value,
            TypeError,
        )
        _check_number(field, number)


def _numbers(value: Any) -> Sequence[Any]:
    if value is None or callable(value):
        return ()
    if isinstance(value, torch.Tensor):
        return value.reshape(-1).tolist()
    return value if isinstance(value, list) else (value,)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_number(field: str, number: float) -> None:
    low = {"step_size": -math.inf, "temperature": 0.0}.get(field, 0.0)
    open_below = field == "temperature"
    fits = math.isfinite(number) and (number > low if open_below else number >= low)
    wanted = {"step_size": "finite", "temperature": "finite and > 0"}.get(field, "finite and >= 0")
    require(fits, "Dynamics", field, wanted, number)


def _at(field: str, value: Schedule, t: int) -> float:
    if callable(value):
        number = float(value(t))
        _check_number(field, number)
        return number
    if isinstance(value, list):
        return float(value[t])
    if isinstance(value, torch.Tensor):
        return float(value[t] if value.dim() else value)
    return float(value)
