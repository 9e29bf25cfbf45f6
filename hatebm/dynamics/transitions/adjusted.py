"""Metropolis-adjusted Langevin: exact at any step size."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.facts import StepFacts, Told
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch, surely_finite
from hatebm.dynamics.law import Number
from hatebm.dynamics.laws import Now
from hatebm.energies.parts import Parts
from hatebm.ops.checks import require
from hatebm.ops.law_numbers import as_column
from hatebm.ops.law_tensors import LawTensor
from hatebm.ops.library import langevin_ratio, metropolis
from hatebm.ops.noise import Purpose
from hatebm.ops.scalars import OPEN

Handed = dict[tuple[str, Any], Tensor]  # by kind, and block or name


class Here(NamedTuple):
    """What is known of a state: energies, the gradient of each moving block, the parts of the energies."""

    energies: Tensor
    grads: dict[int, Tensor]
    parts: Parts


class Adjusted:
    """The unadjusted step proposes x', and x' is accepted with probability min(1, p(x') q(x | x') / p(x) q(x' | x)).

    p = exp(-E / T - prior_precision |x|^2 / 2), zero outside a clamp's box; q is the law of the unadjusted step, with
    its clip; a proposal with a NaN in its energy or gradient is refused. Energies and gradients are carried along, so
    that a step costs one evaluation. Any function of x may stand for the gradient in q, so one in reduced precision
    leaves the law exact. Source: Roberts and
    Tweedie, "Exponential convergence of Langevin distributions and their discrete approximations" (1996).
    """

    NOISY = "> 0 with correct='mala'"  # what its noise has to be

    def __init__(self, blocks: Blocks, potential: Potential, watch: Watch) -> None:
        self.blocks, self.potential, self.watch = blocks, potential, watch
        self.energies: Tensor | None = None
        self.grads: dict[int, Tensor] = {}
        self.parts: Parts = {}
        self.checked: list[Now] | None = None  # numbers that are known to be those of a proposal

    def arrive(self, t: int, state: list[Tensor], moving: list[int]) -> None:
        """Look where step t begins, unless the step before has seen it."""
        if self.energies is None or self.potential.changes or set(moving) - set(self.grads):
            self.energies, self.grads, self.parts = look(self.potential, self.blocks, t, state, moving)
            self.watch.see_energy(t, self.energies)

    def handed_on(self, moving: list[int]) -> Handed:
        """What a step hands on to the next, unless that one looks anew."""
        return {} if self.potential.changes else handed(Here(self.energies, self.grads, self.parts), moving)

    def take_up(self, given: Handed) -> None:
        """Go on from what a step handed on."""
        if given:
            self.energies, self.grads, self.parts = taken_up(given)

    def __call__(self, t: int, state: list[Tensor], gather: bool) -> Told:
        """Step t; ``gather`` returns what is told of it: energies and pulls before it, decisions."""
        now, groups = self.blocks.laws.at(t)
        moving = sorted(k for group in groups for k in group)
        noise = self.blocks.noise.at(t, state)
        self.arrive(t, state, moving)
        for k in moving if now is not self.checked else ():
            check_noisy(now[k].noise_std, self.NOISY)
        self.checked = now
        facts = StepFacts(self.blocks, state) if gather else None
        energies, parts, accepted, refused = self.energies, self.parts, [], []
        for group in groups:
            proposal = list(state)
            for k in group:
                open_box = OPEN | (facts.written(k) if facts else {}) | {"diverged": self.watch.first}
                proposal[k] = self.blocks.move(t, k, state[k].clone(), self.grads[k], now[k], noise[k], **open_box)
                if facts:
                    facts.pulled(k, self.grads[k], now[k])
            accept, nan = self._choose(t, state, proposal, now, group, moving)
            accepted.append(accept)
            refused.append(nan)
        return facts.told(state, energies, parts) | decisions(accepted, refused, energies) if facts else {}

    def forget(self) -> None:
        """Look anew at the state, which somebody else has moved."""
        self.energies, self.grads = None, {}

    def _choose(
        self, t: int, state: list[Tensor], proposal: list[Tensor], now: list[Now], group: list[int], moving: list[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Who accepts, and whose proposal had a NaN; None where nobody's."""
        there, grads, parts = look(self.potential, self.blocks, t, proposal, moving)
        log_ratio = energy_difference(self.energies, there, now[group[0]].temperature)
        for k in group:
            at = (
                self.blocks.region.free(k, state[k]),
                self.grads[k],
                self.blocks.region.free(k, proposal[k]),
                grads[k],
            )
            log_ratio = log_ratio + langevin_ratio(*at, self.blocks.backend, **self.blocks.laws.proposal(k, now[k]))
        there, nan = without_nan(there, grads, log_ratio, group)
        self.watch.see_energy(t, there)
        if nan is not None:
            log_ratio = torch.where(nan, -math.inf, log_ratio)
            nan = nan & finite_rows(proposal) & self.energies.isfinite()
            self.watch.see_refused(nan)
        accept = decide(self.blocks, log_ratio, t, group[0])
        for k in group:
            state[k] = chosen(accept, proposal[k], state[k])
        here = Here(self.energies, self.grads, self.parts)
        self.energies, self.grads, self.parts = carried(accept, Here(there, grads, parts), here)
        return accept, nan


def check_noisy(noise_std: Number, wanted: str) -> None:
    """Raise unless there is noise to propose with."""
    if isinstance(noise_std, Tensor):
        LawTensor(noise_std, each=noise_std.dim() > 0).check("langevin", "noise_std", wanted, lambda number: number > 0)
    else:
        require(noise_std > 0, "langevin", "noise_std", wanted, noise_std)


def energy_difference(here: Tensor, there: Tensor, temperature: Number) -> Tensor:
    """(E(here) - E(there)) / T of each chain, in float64."""
    own = isinstance(temperature, Tensor) or not here.is_cpu  # a GPU would multiply by the reciprocal of a float
    return (here.double() - there.double()) / (as_column(temperature, len(here), here.device) if own else temperature)


def look(potential: Potential, blocks: Blocks, t: int, state: list[Tensor], moving: list[int]) -> Here:
    """One evaluation: energies, infinite outside the box, and the gradients of every moving block."""
    energies, grads = potential.energies_and_gradient(t, state, moving)
    for k in moving:
        inside = blocks.region.inside(k, state[k])
        if inside is not None:
            energies = torch.where(inside, energies, math.inf)
    return Here(energies, dict(zip(moving, grads, strict=True)), potential.parts)


def handed(here: Here, moving: list[int]) -> Handed:
    """What is known of a state with these moving blocks, by name."""
    named = {("grad", k): here.grads[k] for k in moving} | {("part", name): v for name, v in here.parts.items()}
    return named if here.energies is None else named | {("energies", 0): here.energies}


def taken_up(given: Handed) -> Here:
    """The same of what was handed on."""
    grads, parts = ({k: v for (name, k), v in given.items() if name == kind} for kind in ("grad", "part"))
    return Here(given.get(("energies", 0)), grads, parts)


def carried(accept: Tensor, there: Here, here: Here) -> Here:
    """The energies and gradients from which the next step goes on."""
    grads = {k: chosen(accept, grad, here.grads[k]) for k, grad in there.grads.items()}
    parts = {name: torch.where(accept, part, here.parts[name]) for name, part in there.parts.items()}
    return Here(torch.where(accept, there.energies, here.energies), grads, parts)


def without_nan(
    energies: Tensor, grads: dict[int, Tensor], log_ratio: Tensor, group: list[int]
) -> tuple[Tensor, Tensor | None]:
    """The energies of proposals, infinite where one or its gradient is NaN, and where that is; None if nowhere.

    Where the log ratio is finite, so is all that went into it: the energies, and the gradients of the group.
    """
    others = [grad for k, grad in grads.items() if k not in group]
    if surely_finite(log_ratio) and all(map(surely_finite, others)):
        return energies, None
    nan = energies.isnan()
    for grad in grads.values():
        nan |= rows(grad).isnan().any(1) & (energies < math.inf)
    return torch.where(nan, math.inf, energies), nan


def finite_rows(state: list[Tensor]) -> Tensor:
    """(n,) where every block of a state is finite."""
    return torch.stack([rows(x).isfinite().all(1) for x in state]).all(0)


def rows(x: Tensor) -> Tensor:
    """The elements of each chain side by side."""
    return x.reshape(len(x), x[:1].numel())


def decisions(accepted: list[Tensor], refused: list[Tensor | None], energies: Tensor) -> dict[str, Tensor]:
    """The share of each chain's proposals that were accepted, 1 where a step moves nothing, and refused for a NaN."""
    none = torch.zeros_like(energies, dtype=torch.float32)
    nan = [none if part is None else part for part in refused]
    return {
        "accept": torch.stack(accepted).float().mean(0) if accepted else none + 1,
        "nan_refused": torch.stack(nan).float().mean(0) if nan else none,
    }


def decide(blocks: Blocks, log_ratio: Tensor, t: int, block: int) -> Tensor:
    """Which chains accept: log u < log_ratio, u the uniform of (seed, chain, step, block)."""
    place = {"seed": blocks.noise.seed, "step": t, "block": block, "purpose": Purpose.METROPOLIS}
    return metropolis(log_ratio, blocks.backend, **place, chain_ids=blocks.noise.chain_ids)


def chosen(accept: Tensor, proposal: Tensor, x: Tensor) -> Tensor:
    """Row by row the proposal where it was accepted."""
    return torch.where(accept.view(len(x), *[1] * (x.dim() - 1)), proposal, x)
