"""Underdamped Langevin and Hamiltonian Monte Carlo: leapfrog steps of a state with velocities."""

import math

import torch
from torch import Tensor

from hatebm.dynamics.blocks import Blocks, column
from hatebm.dynamics.facts import StepFacts, Told
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch, surely_finite
from hatebm.dynamics.law import Number
from hatebm.dynamics.laws import Now
from hatebm.dynamics.transitions.adjusted import (
    Handed,
    Here,
    carried,
    check_noisy,
    chosen,
    decide,
    decisions,
    energy_difference,
    finite_rows,
    handed,
    look,
    rows,
    taken_up,
    without_nan,
)
from hatebm.energies.parts import Parts
from hatebm.ops.law_numbers import arguments_of, halves_of
from hatebm.ops.law_tensors import is_hidden
from hatebm.ops.library import langevin_ratio


class Hamiltonian:
    r"""Velocities v are refreshed, then move x along ``leapfrog_steps`` leapfrog steps of length h = noise_std.

    v <- a v + sqrt(1 - a^2) eps, a = exp(-friction h leapfrog_steps), 0 without friction; then, ``leapfrog_steps``
    times, v <- v - (step_size / h) g(x), x <- x + h v, v <- v - (step_size / h) g(x), with
    g = clip(grad E / T + prior_precision x); with eps as the step size, step_size / h = h / 2. The end is accepted with
    probability min(1, exp(H - H')), H = E / T + prior_precision |x|^2 / 2 + |v|^2 / 2, if ``corrected``; a refused
    velocity turns round. Any g that is a function of x keeps volume and returns, so a gradient in reduced precision
    leaves the law exact. Walls that reflect turn the velocity. Source: Horowitz, "A generalized guided Monte Carlo
    algorithm" (1991); Neal, "MCMC using Hamiltonian dynamics" (2011).
    """

    NOISY = "> 0 where velocities move x"  # what its noise has to be

    def __init__(
        self,
        blocks: Blocks,
        potential: Potential,
        watch: Watch,
        velocity: list[Tensor],
        leapfrog_steps: int,
        corrected: bool,
    ) -> None:
        self.blocks, self.potential, self.watch = blocks, potential, watch
        self.velocity, self.leapfrog_steps, self.corrected = velocity, leapfrog_steps, corrected
        self.energies: Tensor | None = None
        self.grads: dict[int, Tensor] | None = None
        self.parts: Parts = {}
        self.shares: dict[int, tuple[Now, Number, Number]] = {}  # of a velocity that stays, and of noise that comes

    def arrive(self, t: int, state: list[Tensor], moving: list[int]) -> None:
        """Look where step t begins, unless the step before has seen it."""
        if self.grads is None or self.grads.keys() != set(moving) or self.potential.changes:
            self.energies, self.grads, self.parts = self._look(t, state, moving, decides=self.corrected)
            self.watch.see_energy(t, self.energies)

    def handed_on(self, moving: list[int]) -> Handed:
        """What a step hands on to the next: velocities that live on, and what it saw, unless that one looks anew."""
        friction = self.blocks.laws.each[0].friction is not None
        velocity = {("velocity", k): v for k, v in enumerate(self.velocity) if friction}
        seen = Here(self.energies, self.grads, self.parts)
        return velocity if self.potential.changes else velocity | handed(seen, moving)

    def take_up(self, given: Handed) -> None:
        """Go on from what a step handed on."""
        for (name, k), value in given.items():
            if name == "velocity":
                self.velocity[k] = value
        if not self.potential.changes:
            self.energies, self.grads, self.parts = taken_up(given)

    def __call__(self, t: int, state: list[Tensor], gather: bool) -> Told:
        """Step t; ``gather`` returns what is told of it: energies and pulls before it, decisions."""
        now, groups = self.blocks.laws.at(t)
        moving = sorted(k for group in groups for k in group)
        noise = self.blocks.noise.at(t, state)
        self.arrive(t, state, moving)
        facts = StepFacts(self.blocks, state) if gather else None
        for k in moving if facts else ():
            at = self.blocks.region.free(k, state[k].clone())
            facts.pulls[k] = self.blocks.norm(k, at, self.grads[k], **now[k].arguments)
            facts.pulled(k, self.grads[k], now[k])
        before, parts, accepted, refused = self.energies, self.parts, [], []
        for group in groups:
            for k in group:
                self.velocity[k] = self._refreshed(t, k, state[k], now[k], noise[k])
            accept, nan = self._trajectory(t, state, now, group, moving)
            accepted.append(accept)
            refused.append(nan)
        if not facts:
            return {}
        told = facts.told(state, before, parts)
        return told | decisions(accepted, refused, before) if self.corrected else told

    def forget(self) -> None:
        """Look anew at the state, which somebody else has moved."""
        self.energies, self.grads = None, None

    def _trajectory(
        self, t: int, state: list[Tensor], now: list[Now], group: list[int], moving: list[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Who accepts, None where nothing is refused, and whose way met a NaN; None where nobody's."""
        x, v, grads, met = list(state), list(self.velocity), self.grads, None
        bounded, several = not self.corrected, self.leapfrog_steps > 1
        drifting = {k: self.blocks.drifting(k, x[k], now[k].noise_std, bounded) for k in group}
        half = {k: self.blocks.pushing(k, x[k], now[k], 1) for k in group}
        whole = {k: self.blocks.pushing(k, x[k], now[k], 2) for k in group} if several else half
        for k in group:
            first = {"diverged": self.watch.first}
            v[k] = self.blocks.push(t, k, v[k].clone(), x[k], grads[k], now[k], half[k], **first)
        for leap in range(self.leapfrog_steps):
            for k in group:
                x[k], v[k] = self.blocks.drift(t, k, x[k].clone(), v[k], drifting[k])
            last = leap + 1 == self.leapfrog_steps
            energies, grads, parts = self._look(t, x, moving, decides=self.corrected and last)
            if self.corrected and not last:
                met = _either(met, _nan_gradient(x, [grads[k] for k in group]))
            for k in group:
                v[k] = self.blocks.push(t, k, v[k], x[k], grads[k], now[k], (half if last else whole)[k])
        if not self.corrected:
            self.watch.see_energy(t, energies)
            state[:], self.velocity[:] = x, v
            self.energies, self.grads, self.parts = energies, grads, parts
            return None, None
        log_ratio = energy_difference(self.energies, energies, now[group[0]].temperature)
        for k in group:
            log_ratio = log_ratio + self._half_square(self.velocity[k], v[k], 1.0)
            if now[k].arguments["prior_precision"] != 0:
                log_ratio = log_ratio + self._half_square(state[k], x[k], now[k].prior_precision)
        energies, nan = without_nan(energies, grads, log_ratio, group)
        self.watch.see_energy(t, energies)
        if nan is not None:
            log_ratio = torch.where(nan, -math.inf, log_ratio)
            met = _either(met, nan & finite_rows(x)) & self.energies.isfinite()
            self.watch.see_refused(met)
        accept = decide(self.blocks, log_ratio, t, group[0])
        for k in group:
            state[k], self.velocity[k] = chosen(accept, x[k], state[k]), chosen(accept, v[k], -self.velocity[k])
        here = Here(self.energies, self.grads, self.parts)
        self.energies, self.grads, self.parts = carried(accept, Here(energies, grads, parts), here)
        return accept, met

    def _look(self, t: int, state: list[Tensor], moving: list[int], decides: bool) -> Here:
        if decides:
            return look(self.potential, self.blocks, t, state, moving)
        energies, grads = self.potential.gradient(t, state, moving)
        return Here(energies, dict(zip(moving, grads, strict=True)), self.potential.parts or {})

    def _refreshed(self, t: int, k: int, x: Tensor, now: Now, noise: Tensor | None) -> Tensor:
        friction = self.blocks.laws.each[k].friction
        friction = math.inf if friction is None else friction
        if self.shares.get(k, (None,))[0] is not now:  # the same one at every step of a constant law
            check_noisy(now.noise_std, self.NOISY)
            self.shares[k] = now, *kept_and_fresh(friction, now.noise_std, self.leapfrog_steps)
        _, keep, fresh = self.shares[k]
        forgotten = forgets(friction) or (not isinstance(keep, Tensor) and keep == 0)
        v = torch.zeros_like(x) if forgotten else self.velocity[k] * column(keep, x)
        return self.blocks.refresh(t, k, v, fresh, noise)

    def _half_square(self, old: Tensor, new: Tensor, precision: Number) -> Tensor:
        """Precision (|old|^2 - |new|^2) / 2 of each chain."""
        numbers = arguments_of((0.0, 1.0, 1.0, precision, 0.0), old)
        law = numbers | {"halves": halves_of(1.0, precision, old), "clip": None, "clip_on": "grad"}
        return langevin_ratio(old, old, new, new, self.blocks.backend, **law)


def forgets(friction: float | None) -> bool:
    """Whether a velocity is drawn afresh at each step."""
    return friction is None or math.isinf(friction)


def kept_and_fresh(friction: float, length: Number, leapfrog_steps: int) -> tuple[Number, Number]:
    """What of a velocity stays after a way, exp(-friction * way), and how much noise comes, sqrt(1 - that squared)."""
    if isinstance(length, Tensor) and is_hidden(length):
        way = friction * length * leapfrog_steps
        return torch.exp(-way), torch.sqrt(-torch.expm1(-2 * way))
    if isinstance(length, Tensor):
        pairs = [kept_and_fresh(friction, h, leapfrog_steps) for h in length.flatten().tolist()]
        keep, fresh = torch.tensor(pairs, dtype=length.dtype, device=length.device).view(-1, 2).unbind(1)
        return keep.reshape(length.shape), fresh.reshape(length.shape)
    way = friction * length * leapfrog_steps
    return math.exp(-way), math.sqrt(-math.expm1(-2 * way))


def _nan_gradient(state: list[Tensor], grads: list[Tensor]) -> Tensor | None:
    """(n,) where a gradient is NaN at a finite state, which no trajectory survives; None where surely nowhere."""
    if all(map(surely_finite, grads)):
        return None
    return torch.stack([rows(grad).isnan().any(1) for grad in grads]).any(0) & finite_rows(state)


def _either(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one | other
