"""How each block of a state moves: one fused step of its law, or the parts of a step that velocities take."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hatebm.dynamics.laws import Laws, Now
from hatebm.dynamics.noise import Noise
from hatebm.dynamics.region import Region
from hatebm.ops.adjoint import LangevinStep
from hatebm.ops.library import langevin_step_, ready_step
from hatebm.ops.noise import Purpose
from hatebm.ops.scalars import OPEN

NOTHING = {"gz": None, "image": None, "grad_norm": None, "displacement": None, "diverged": None}
Move = Callable[[Tensor, int, float, float, float], None]  # of gradient, step, step_size, noise_std and temperature
BARE = {"inverse_temperature": 1.0, "prior_precision": 0.0, "clip": None}


class Blocks:
    """The blocks of a state: their laws, the region that they move in, the noise that moves them."""

    def __init__(self, laws: Laws, region: Region, noise: Noise, backend: str | None) -> None:
        self.laws, self.region, self.noise, self.backend = laws, region, noise, backend

    def kick(self, t: int, k: int, x: Tensor, now: Now, noise: Tensor | None) -> Tensor:
        """The noise of a law that adds it before the gradient is taken."""
        law = self.laws.each[k]
        walls = law.clamp_at == "noise+step"
        if law.noise_at == "after" or (now.noise_std == 0 and not walls):
            return x
        return self._step(t, k, x, None, noise, walls, step_size=0.0, noise_std=now.noise_std, **BARE)

    def move(self, t: int, k: int, x: Tensor, grad: Tensor, now: Now, noise: Tensor | None, **changes: Any) -> Tensor:
        """The law's step: clamp(x - step_size * clip(grad / T + prior_precision * x) + noise_std * eps)."""
        law = self.laws.each[k]
        noise_std = now.noise_std if law.noise_at == "after" else 0.0
        walls = law.clamp_at != "final"
        numbers = {"step_size": now.step_size, "noise_std": noise_std, "inverse_temperature": 1.0 / now.temperature}
        return self._step(t, k, self.region.free(k, x), grad, noise, walls, **numbers | changes)

    def ready(self, k: int, x: Tensor, diverged: Tensor | None) -> Move | None:
        """:meth:`move` for the steps of a run that all write x in place; None where they are more than that."""
        law = self.laws.each[k]
        free = self.region.masks[k] is None and law.reflect is None
        if not free or self.noise.given is not None or law.noise_at != "after" or x.requires_grad:
            return None
        box = OPEN if law.clamp_at == "final" else {}
        settings = self.laws.settings[k] | self.noise.place(k) | box
        return ready_step(x, self.backend, **settings, diverged=diverged)

    def drift(self, t: int, k: int, x: Tensor, v: Tensor, length: float, bounded: bool) -> tuple[Tensor, Tensor]:
        """The state moved by length * v, in place, and the velocity: walls that reflect turn it."""
        box = {} if bounded and self.laws.each[k].clamp_at != "final" else OPEN
        langevin_step_(x, v, self.backend, **self._still(t, k) | box | {"step_size": -length, "noise_std": 0.0})
        x, v = self.region.bounce(k, x, v)
        return self.region.hold(k, x), v

    def push(
        self, t: int, k: int, v: Tensor, x: Tensor, grad: Tensor, now: Now, halves: int, diverged: Tensor | None
    ) -> Tensor:
        """The velocity after so many half kicks, in place: v - halves (step_size / noise_std) clip(grad / T + p x)."""
        law = self.laws.settings[k]
        settings = self._still(t, k) | {name: law[name] for name in ("clip", "clip_on", "bound")}
        settings |= OPEN | {"diverged": diverged, "inverse_temperature": 1.0 / now.temperature}
        if law["prior_precision"]:
            settings["inverse_temperature"], grad = 1.0, self.force(k, x, grad, now)
        if settings["clip_on"] == "update" and now.step_size:
            settings |= {"clip_on": "grad", "bound": settings["bound"] / abs(now.step_size)}
        step_size = halves * now.step_size / now.noise_std
        langevin_step_(v, grad, self.backend, **settings | {"step_size": step_size, "noise_std": 0.0})
        return v

    def force(self, k: int, x: Tensor, grad: Tensor, now: Now) -> Tensor:
        """What pulls: grad E / T + prior_precision * x, 0 where the state is held."""
        force = grad.to(x.dtype) / now.temperature + self.laws.settings[k]["prior_precision"] * x
        return self.region.free(k, force)

    def refresh(
        self, t: int, k: int, v: Tensor, noise_std: float, noise: Tensor | None, purpose: int = Purpose.LANGEVIN
    ) -> Tensor:
        """The velocity with noise_std * eps added in place, 0 where the state is held."""
        settings = self._still(t, k) | OPEN | {"noise": noise, "step_size": 0.0, "noise_std": noise_std}
        langevin_step_(v, None, self.backend, **settings | {"purpose": purpose})
        return self.region.free(k, v)

    def _step(
        self, t: int, k: int, x: Tensor, grad: Tensor | None, noise: Tensor | None, walls: bool, **changes: Any
    ) -> Tensor:
        box = {} if walls else OPEN
        here = self.noise.place(k) | {"step": t, "noise": noise}
        settings = self.laws.settings[k] | NOTHING | here | box | changes
        if x.requires_grad or (grad is not None and grad.requires_grad):
            x = LangevinStep.apply(x, grad, self.backend, settings)
        else:
            langevin_step_(x, grad, self.backend, **settings)
        return self.region.hold(k, self.region.reflect(k, x) if walls else x)

    def _still(self, t: int, k: int) -> dict[str, Any]:
        """A step's settings with neither gradient nor noise yet."""
        return self.laws.settings[k] | self.noise.place(k) | NOTHING | BARE | {"step": t, "noise": None}
