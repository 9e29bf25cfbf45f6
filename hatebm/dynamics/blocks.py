"""How each block of a state moves: one fused step of its law, or the parts of a step that velocities take."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.dynamics.law import Number
from hatebm.dynamics.laws import Laws, Now
from hatebm.dynamics.noise import Noise
from hatebm.dynamics.region import Region
from hatebm.ops.adjoint import LangevinStep
from hatebm.ops.law_numbers import NUMBERS, arguments_of, divided
from hatebm.ops.library import langevin_step_, ready_step
from hatebm.ops.noise import Purpose
from hatebm.ops.scalars import OPEN

NOTHING = {"gz": None, "image": None, "grad_norm": None, "displacement": None, "diverged": None}
STILL = dict.fromkeys(NUMBERS, 0.0) | {"inverse_temperature": 1.0, "numbers": None}
UNCLIPPED = {"clip": None, "clip_on": "grad"}


class Ready(NamedTuple):
    """What takes the steps of a run in place: the noise that comes before the gradient, and the move."""

    kick: Callable[..., None] | None
    move: Callable[..., None]


class Blocks:
    """The blocks of a state: their laws, the region that they move in, the noise that moves them."""

    def __init__(self, laws: Laws, region: Region, noise: Noise, backend: str | None) -> None:
        self.laws, self.region, self.noise, self.backend = laws, region, noise, backend

    def kick(self, t: int, k: int, x: Tensor, now: Now, noise: Tensor | None) -> Tensor:
        """The noise of a law that adds it before the gradient is taken."""
        law = self.laws.each[k]
        walls = law.clamp_at == "noise+step"
        if law.noise_at == "after" or (now.arguments["noise_std"] == 0 and not walls):
            return x
        return self._unless_resting(now, x, lambda x: self._step(t, k, x, None, noise, walls, **now.arguments))

    def move(self, t: int, k: int, x: Tensor, grad: Tensor, now: Now, noise: Tensor | None, **changes: Any) -> Tensor:
        """The law's step: clamp(x - step_size * clip(grad / T + prior_precision * x) + noise_std * eps)."""
        law = self.laws.each[k]
        numbers = now.arguments if law.noise_at == "after" else now.arguments | {"noise_std": 0.0}
        walls = law.clamp_at != "final"
        if now.resting is not None:
            grad = torch.where(beside(now.resting, grad), 0, grad)  # nobody looks at what a chain that rests has there

        def step(x: Tensor) -> Tensor:
            return self._step(t, k, self.region.free(k, x), grad, noise, walls, **numbers | changes)

        return self._unless_resting(now, x, step)

    def ready(self, k: int, x: Tensor, diverged: Tensor | None) -> Ready | None:
        """:meth:`kick` and :meth:`move` for the steps of a run that all write x in place, or None.

        Both take a gradient, None for a kick, the step and ``now.arguments``.
        """
        law = self.laws.each[k]
        if not self._is_free(k) or self.noise.given is not None or x.requires_grad:
            return None
        settings = self.laws.settings[k] | self.noise.place(k)
        move = ready_step(x, self.backend, **settings | self._box(law.clamp_at != "final"), diverged=diverged)
        if law.noise_at == "after" or move is None:
            return None if move is None else Ready(None, move)
        walls = law.clamp_at == "noise+step"
        kick = ready_step(x, self.backend, **settings | self._box(walls), diverged=None)

        def noised(grad: None, t: int, **numbers: Any) -> None:
            if walls or numbers["noise_std"] != 0:
                kick(grad, t, **numbers)

        return Ready(noised, lambda grad, t, **numbers: move(grad, t, **numbers | {"noise_std": 0.0}))

    def in_one_pass(self, k: int) -> bool:
        """Whether one step of the ops is all that happens to a block."""
        return self._is_free(k) and self.laws.each[k].noise_at == "after"

    def _is_free(self, k: int) -> bool:
        """Whether nothing but steps of the ops happens to a block."""
        return self.region.masks[k] is None and self.laws.each[k].reflect is None and not self.laws.may_rest[k]

    def _box(self, bounded: bool) -> dict[str, float]:
        return {} if bounded else OPEN

    def drifting(self, k: int, x: Tensor, length: Number, bounded: bool) -> dict[str, Any]:
        """What moves a state by length * v, at every drift of a step."""
        box = {} if bounded and self.laws.each[k].clamp_at != "final" else OPEN
        return self._still(0, k, x, step_size=-length) | UNCLIPPED | box

    def drift(self, t: int, k: int, x: Tensor, v: Tensor, drifting: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The state moved by its velocity, in place, and the velocity: walls that reflect turn it."""
        langevin_step_(x, v, self.backend, **drifting | {"step": t})
        x, v = self.region.bounce(k, x, v)
        return self.region.hold(k, x), v

    def pushing(self, k: int, x: Tensor, now: Now, halves: int) -> dict[str, Any]:
        """What makes so many half kicks of a force, at every push of a step."""
        numbers = {"inverse_temperature": 1.0 / now.temperature, "bound": now.bound}
        numbers["step_size"] = divided(halves * now.step_size, now.noise_std)
        clip_on = self.laws.settings[k]["clip_on"]
        if isinstance(now.prior_precision, Tensor):  # the bits of a chain alone, which may have none
            inverse = torch.as_tensor(numbers["inverse_temperature"], dtype=torch.float64, device=x.device)
            numbers["inverse_temperature"] = torch.where(now.prior_precision == 0, inverse, 1.0)
        elif now.prior_precision != 0:
            numbers["inverse_temperature"] = 1.0
        if clip_on == "update":
            clip_on, numbers["bound"] = "grad", divided(now.bound, abs(now.step_size))
        return self._still(0, k, x, **numbers) | OPEN | {"clip_on": clip_on}

    def push(
        self, t: int, k: int, v: Tensor, x: Tensor, grad: Tensor, now: Now, pushing: dict[str, Any], **changes: Any
    ) -> Tensor:
        """The velocity after its half kicks, in place: v - halves (step_size / noise_std) clip(grad / T + p x)."""
        if isinstance(now.prior_precision, Tensor):
            free = beside(now.prior_precision == 0, x)
            grad = torch.where(free, grad.to(x.dtype), self.force(k, x, grad, now))
        elif now.prior_precision != 0:
            grad = self.force(k, x, grad, now)
        langevin_step_(v, grad, self.backend, **pushing | {"step": t} | changes)
        return v

    def force(self, k: int, x: Tensor, grad: Tensor, now: Now) -> Tensor:
        """What pulls: grad E / T + prior_precision * x, 0 where the state is held."""
        temperature, prior_precision = (column(v, x) for v in (now.temperature, now.prior_precision))
        return self.region.free(k, grad.to(x.dtype) / temperature + prior_precision * x)

    def norm(self, k: int, x: Tensor, grad: Tensor, **numbers: Any) -> Tensor:
        """(n,) the L2 norm of grad / T + prior_precision * x, summed as in a step, which an x given up for it takes."""
        norm = x.new_zeros(len(x))
        settings = self._still(0, k, x) | numbers | UNCLIPPED | OPEN | {"noise_std": 0.0, "grad_norm": norm}
        langevin_step_(x, grad.detach(), self.backend, **settings)
        return norm

    def refresh(
        self, t: int, k: int, v: Tensor, noise_std: Number, noise: Tensor | None, purpose: int = Purpose.LANGEVIN
    ) -> Tensor:
        """The velocity with noise_std * eps added in place, 0 where the state is held."""
        settings = self._still(t, k, v, noise_std=noise_std) | UNCLIPPED | OPEN
        langevin_step_(v, None, self.backend, **settings | {"noise": noise, "purpose": purpose})
        return self.region.free(k, v)

    def _step(
        self, t: int, k: int, x: Tensor, grad: Tensor | None, noise: Tensor | None, walls: bool, **changes: Any
    ) -> Tensor:
        box = {} if walls else OPEN
        here = self.noise.place(k) | {"step": t, "noise": noise}
        settings = self.laws.settings[k] | NOTHING | here | box | changes
        parts = (x, grad, settings["numbers"])
        if any([part is not None and part.requires_grad for part in parts]):
            x = LangevinStep.apply(*parts, self.backend, settings)
        else:
            langevin_step_(x, grad, self.backend, **settings)
        return self.region.hold(k, self.region.reflect(k, x) if walls else x)

    def _unless_resting(self, now: Now, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        if now.resting is None:
            return step(x)
        return torch.where(beside(now.resting, x), x.clone(), step(x))

    def _still(self, t: int, k: int, x: Tensor, **numbers: Number) -> dict[str, Any]:
        """A step's settings, with neither gradient nor noise but for what is given of either."""
        values = STILL | numbers
        if any([isinstance(value, Tensor) for value in numbers.values()]):
            values = arguments_of(tuple(values[name] for name in NUMBERS), x)
        place = self.noise.place(k) | {"step": t, "noise": None}
        return self.laws.settings[k] | place | NOTHING | values


def column(value: Number, x: Tensor) -> Tensor:
    """A number of a law, or one for each chain, as it meets the elements of x."""
    value = value if isinstance(value, Tensor) else torch.full((), value, dtype=x.dtype, device=x.device)
    return beside(value, x).to(x.dtype)


def beside(value: Tensor, x: Tensor) -> Tensor:
    """(n,) as a column beside x, (n, *sample); () as it is."""
    return value.view(-1, *[1] * (x.dim() - 1)) if value.dim() else value
