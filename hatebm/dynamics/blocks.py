"""How each block of a state steps: its law, its noise, and the region that it may move in."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.dynamics.law import Dynamics
from hatebm.ops.adjoint import LangevinStep
from hatebm.ops.checks import check_like, checked_blocks, require
from hatebm.ops.library import langevin_step_, ready_step
from hatebm.ops.noise import Purpose
from hatebm.ops.scalars import OPEN, largest, sides_of

NOTHING = {"gz": None, "image": None, "grad_norm": None, "displacement": None, "diverged": None}
Move = Callable[[Tensor, int, float, float, float], None]  # of gradient, step, step_size, noise_std and temperature
BARE = {"inverse_temperature": 1.0, "prior_precision": 0.0, "clip": None}


class Now(NamedTuple):
    """The numbers of one block's law at one step."""

    step_size: float
    noise_std: float
    temperature: float

    @property
    def moves(self) -> bool:
        """Whether the block moves at all."""
        return self.step_size != 0 or self.noise_std != 0


class Blocks:
    """The blocks of a state, each with its law; ``held`` is the state that masked elements keep."""

    def __init__(
        self,
        dynamics: Dynamics,
        dtypes: Sequence[torch.dtype],
        masks: Sequence[Tensor | None],
        noise: Callable[[int], Any] | None,
        backend: str | None,
    ) -> None:
        self.joint = dynamics.blocks == "joint"
        self.laws, self.most = dynamics.for_blocks(len(dtypes)), [largest(dtype) for dtype in dtypes]
        for law, most in zip(self.laws, self.most, strict=True):
            law.check_range(most)
        self.settings = [law.settings() for law in self.laws]
        self.constant = not any(law.is_scheduled for law in self.laws)
        self._now: tuple[list[Now], list[list[int]]] | None = None
        self.masks, self.given, self.backend = masks, noise, backend
        self.seed, self.chain_ids = 0, None
        self.held: list[Tensor] = []

    def at(self, t: int) -> tuple[list[Now], list[list[int]]]:
        """The numbers of every block at step t, and the groups of blocks that move together."""
        if self._now is None or not self.constant:
            now = [Now(*law.at(t, most)) for law, most in zip(self.laws, self.most, strict=True)]
            moving = [k for k, block in enumerate(now) if block.moves]
            self._now = now, [moving] if self.joint and moving else [[k] for k in moving]
        return self._now

    def noise(self, t: int, state: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The injected normals of step t, or None where the step draws its own."""
        if self.given is None:
            return [None] * len(state)
        drawn = self.given(t)
        noise = checked_blocks("langevin", "noise", drawn, len(state))
        for eps, x in zip(noise, state, strict=True):
            require(eps is not None, "langevin", "noise", "standard normals for each block", eps, TypeError)
            check_like("langevin", "noise", eps, x, (x.dtype,))
        return noise

    def kick(self, t: int, k: int, x: Tensor, now: Now, noise: Tensor | None) -> Tensor:
        """The noise of a law that adds it before the gradient is taken."""
        law = self.laws[k]
        walls = law.clamp_at == "noise+step"
        if law.noise_at == "after" or (now.noise_std == 0 and not walls):
            return x
        return self._step(t, k, x, None, noise, walls, step_size=0.0, noise_std=now.noise_std, **BARE)

    def move(self, t: int, k: int, x: Tensor, grad: Tensor, now: Now, noise: Tensor | None, **changes: Any) -> Tensor:
        """The law's step: clamp(x - step_size * clip(grad / T + prior_precision * x) + noise_std * eps)."""
        law = self.laws[k]
        noise_std = now.noise_std if law.noise_at == "after" else 0.0
        walls = law.clamp_at != "final"
        numbers = {"step_size": now.step_size, "noise_std": noise_std, "inverse_temperature": 1.0 / now.temperature}
        return self._step(t, k, self.free(k, x), grad, noise, walls, **numbers | changes)

    def ready(self, k: int, x: Tensor, diverged: Tensor | None) -> Move | None:
        """:meth:`move` for the steps of a run that all write x in place; None where they are more than that."""
        law = self.laws[k]
        alone = self.given is None and self.masks[k] is None and law.reflect is None and law.noise_at == "after"
        if not alone or x.requires_grad:
            return None
        box = OPEN if law.clamp_at == "final" else {}
        return ready_step(x, self.backend, **self.settings[k] | self._place(k) | box, diverged=diverged)

    def proposal_law(self, k: int, now: Now) -> dict[str, Any]:
        """What the density of a move from one state to another depends on."""
        law = {name: self.settings[k][name] for name in ("prior_precision", "clip", "clip_on", "bound")}
        return law | {
            "step_size": now.step_size,
            "noise_std": now.noise_std,
            "inverse_temperature": 1.0 / now.temperature,
        }

    def drift(self, t: int, k: int, x: Tensor, v: Tensor, length: float, bounded: bool) -> tuple[Tensor, Tensor]:
        """The state moved by length * v, in place, and the velocity: walls that reflect turn it."""
        box = {} if bounded and self.laws[k].clamp_at != "final" else OPEN
        langevin_step_(x, v, self.backend, **self._still(t, k) | box | {"step_size": -length, "noise_std": 0.0})
        if self.laws[k].reflect is not None and self.laws[k].clamp_at != "final":
            x, turned = folded(x, *self.laws[k].reflect)
            v = torch.where(turned, -v, v)
        return self._hold(k, x), v

    def push(
        self, t: int, k: int, v: Tensor, x: Tensor, grad: Tensor, now: Now, halves: int, diverged: Tensor | None
    ) -> Tensor:
        """The velocity after so many half kicks, in place: v - halves (step_size / noise_std) clip(grad / T + p x)."""
        settings = self._still(t, k) | {name: self.settings[k][name] for name in ("clip", "clip_on", "bound")}
        settings |= OPEN | {"diverged": diverged, "inverse_temperature": 1.0 / now.temperature}
        if self.settings[k]["prior_precision"]:
            settings["inverse_temperature"], grad = 1.0, self.force(k, x, grad, now)
        if settings["clip_on"] == "update" and now.step_size:
            settings |= {"clip_on": "grad", "bound": settings["bound"] / abs(now.step_size)}
        step_size = halves * now.step_size / now.noise_std
        langevin_step_(v, grad, self.backend, **settings | {"step_size": step_size, "noise_std": 0.0})
        return v

    def force(self, k: int, x: Tensor, grad: Tensor, now: Now) -> Tensor:
        """What pulls: grad E / T + prior_precision * x, 0 where the state is held."""
        force = grad.to(x.dtype) / now.temperature + self.settings[k]["prior_precision"] * x
        return force if self.masks[k] is None else torch.where(self.masks[k], force, 0)

    def refresh(
        self, t: int, k: int, v: Tensor, noise_std: float, noise: Tensor | None, purpose: int = Purpose.LANGEVIN
    ) -> Tensor:
        """The velocity with noise_std * eps added in place, 0 where the state is held."""
        settings = self._still(t, k) | OPEN | {"noise": noise, "step_size": 0.0, "noise_std": noise_std}
        langevin_step_(v, None, self.backend, **settings | {"purpose": purpose})
        return v if self.masks[k] is None else torch.where(self.masks[k], v, 0)

    def free(self, k: int, x: Tensor) -> Tensor:
        """What may move of a block, 0 where it is held: no prior pulls there, and no norm counts it."""
        return x if self.masks[k] is None else torch.where(self.masks[k], x, 0)

    def inside(self, k: int, x: Tensor) -> Tensor | None:
        """(n,) whether what may move of each sample lies in its box; None without one."""
        low, high = self.settings[k]["low"], self.settings[k]["high"]
        if self.laws[k].clamp_at == "final" or (math.isinf(low) and math.isinf(high)):
            return None
        within = (x >= low) & (x <= high)
        if self.masks[k] is not None:
            within |= ~self.masks[k]
        return within.reshape(len(x), x[:1].numel()).all(1)

    def unwalled(self, state: Sequence[Tensor]) -> list[Tensor]:
        """Where nothing keeps each block from running away: bool, shaped like the block."""
        free = []
        for law, settings, mask, x in zip(self.laws, self.settings, self.masks, state, strict=True):
            sides = sides_of(law.reflect) if law.reflect else (settings["low"], settings["high"])
            walled = law.clamp_at != "final" and all(map(math.isfinite, sides))
            free.append(torch.full_like(x, not walled, dtype=torch.bool) if mask is None or walled else mask)
        return free

    def boxed(self, k: int, x: Tensor) -> Tensor:
        """What a run returns of a block."""
        law = self.laws[k]
        if law.clamp_at != "final":
            return x
        if law.reflect is not None:
            return self._hold(k, folded(x, *law.reflect)[0])
        return self._hold(k, x.clamp(self.settings[k]["low"], self.settings[k]["high"]))

    def _step(
        self, t: int, k: int, x: Tensor, grad: Tensor | None, noise: Tensor | None, walls: bool, **changes: Any
    ) -> Tensor:
        box = {} if walls else OPEN
        settings = self.settings[k] | self._place(k) | NOTHING | {"step": t, "noise": noise} | box | changes
        if x.requires_grad or (grad is not None and grad.requires_grad):
            x = LangevinStep.apply(x, grad, self.backend, settings)
        else:
            langevin_step_(x, grad, self.backend, **settings)
        if walls and self.laws[k].reflect is not None:
            x = folded(x, *self.laws[k].reflect)[0]
        return self._hold(k, x)

    def _place(self, k: int) -> dict[str, Any]:
        return {"seed": self.seed, "block": k, "purpose": Purpose.LANGEVIN, "chain_ids": self.chain_ids}

    def _still(self, t: int, k: int) -> dict[str, Any]:
        return self.settings[k] | self._place(k) | NOTHING | BARE | {"step": t, "noise": None}

    def _hold(self, k: int, x: Tensor) -> Tensor:
        return x if self.masks[k] is None else torch.where(self.masks[k], x, self.held[k])


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
