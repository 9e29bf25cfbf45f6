"""The unadjusted Langevin step: gradient, move."""

import torch
from torch import Tensor

from hatebm.dynamics.blocks import Blocks, Ready
from hatebm.dynamics.facts import StepFacts, Told
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.laws import Now


class Overdamped:
    """x <- clamp(x - step_size * clip(grad E / T + prior_precision * x) + noise_std * eps)."""

    def __init__(self, blocks: Blocks, potential: Potential, watch: Watch) -> None:
        self.blocks, self.potential, self.watch = blocks, potential, watch
        self._ready: list[Ready | None] | None = None  # of blocks in place, None where a step is more

    def __call__(self, t: int, state: list[Tensor], gather: bool) -> Told:
        """Step t; ``gather`` returns what is told of it."""
        now, groups = self.blocks.laws.at(t, learning=self.potential.differentiable)
        if gather or self.potential.differentiable or not self._is_ready(state):
            return self._step(t, state, gather, now, groups)
        for group in groups:
            for k in group:
                if self._ready[k].kick is not None:
                    self._ready[k].kick(None, t, **now[k].arguments)
            energies, grads = self.potential.gradient(t, state, group)
            self.watch.see_energy(t, energies)
            for k, grad in zip(group, grads, strict=True):
                self._ready[k].move(grad, t, **now[k].arguments)
        return {}

    def arrive(self, t: int, state: list[Tensor], moving: list[int]) -> None:
        """Nothing is to be seen beforehand."""

    def handed_on(self, moving: list[int]) -> dict[tuple[str, int], Tensor]:
        """A step hands on nothing but the state."""
        return {}

    def take_up(self, handed: dict[tuple[str, int], Tensor]) -> None:
        """Nothing was handed on."""

    def _is_ready(self, state: list[Tensor]) -> bool:
        if self._ready is None:
            self._ready = [self.blocks.ready(k, x, self.watch.first) for k, x in enumerate(state)]
        return None not in self._ready

    def _step(self, t: int, state: list[Tensor], gather: bool, now: list[Now], groups: list[list[int]]) -> Told:
        noise = self.blocks.noise.at(t, state)
        facts = self._facts(state) if gather else None
        energies = None
        for group in groups:
            for k in group:
                state[k] = self.blocks.kick(t, k, self._own(state[k]), now[k], noise[k])
            energies, grads = self.potential.gradient(t, state, group)
            self.watch.see_energy(t, of_moving(energies, [now[k].resting for k in group]))
            for k, grad in zip(group, grads, strict=True):
                written = (facts.written(k) if facts else {}) | {"diverged": self.watch.first}
                state[k] = self.blocks.move(t, k, self._own(state[k]), grad, now[k], noise[k], **written)
                if facts:
                    facts.pulled(k, grad, now[k])
        if facts and not groups:
            energies = self.potential.gradient(t, state, [])[0]
        return facts.told(state, energies, self.potential.parts) if facts else {}

    def _facts(self, state: list[Tensor]) -> StepFacts:
        if self.potential.differentiable:
            return StepFacts(self.blocks, state)
        return StepFacts(self.blocks, state, [k for k in range(len(state)) if self.blocks.in_one_pass(k)])

    def _own(self, x: Tensor) -> Tensor:
        """What may be written to: the graph of another block's gradient may hold the state itself."""
        return x.clone() if self.potential.differentiable else x


def of_moving(energies: Tensor | None, resting: list[Tensor | None]) -> Tensor | None:
    """Energies with 0 for chains none of whose blocks moves: nobody looks at theirs."""
    if energies is None or None in resting or not energies.dim():
        return energies
    return torch.where(torch.stack(resting).all(0), 0, energies)
