"""Runs of steps that an energy takes in one kernel of its own, where a chain may."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.facts import Gathering, Told
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.transitions.form import Form, Transition
from hatebm.energies.perceptron import Perceptron
from hatebm.energies.steps import Facts, Steps
from hatebm.engine import proposals
from hatebm.engine.prepare.precision import REDUCED
from hatebm.engine.prepare.tracing import is_hooked
from hatebm.ops.backend import kernels_for
from hatebm.ops.scalars import OPEN, sides_of

STRETCH = 4096  # steps that a kernel takes at most before Python can be interrupted
LISTENED = "hooks, or a forward of its own"


def steps_of(blocks: Blocks, first_step: int, n_steps: int, watched: bool) -> Steps:
    """What a kernel is told of the next steps of a state of one block."""
    law, noise = blocks.laws.each[0], blocks.noise
    schedule = blocks.laws.schedule(0, first_step, n_steps)
    mask, bounded = blocks.region.masks[0], law.clamp_at != "final"
    box = dict(zip(("low", "high"), sides_of(law.reflect), strict=True)) if law.reflect else {}
    return Steps(
        schedule.numbers,
        schedule.noisy,
        schedule.prior,
        **blocks.laws.settings[0] | (box if bounded else OPEN),
        clamp_noise=law.clamp_at == "noise+step",
        noise_at=law.noise_at,
        seed=noise.seed,
        first_step=first_step,
        chain_ids=noise.chain_ids,
        watched=watched,
        backend=blocks.backend,
        mask=None if mask is None else mask.reshape(len(mask), mask[:1].numel()).contiguous(),
        reflect=bounded and law.reflect is not None,
    )


def facts_of(x: Tensor, every: int, kept: int) -> Facts:
    """Room for what a kernel tells of so many steps."""
    columns = (torch.empty(kept, len(x), dtype=torch.float32, device=x.device) for _ in Facts._fields[1:])
    return Facts(every, *columns)


def rows_of(facts: Facts, total: bool) -> Told:
    """What a kernel told of a state of one block, as single steps tell it; ``total``: of the sum of all energies."""
    columns = {name: rows for name, rows in facts._asdict().items() if name != "every" and rows is not None}
    energies = {"energy": torch.stack([row.sum() for row in facts.energy])[:, None]} if total else {}
    return columns | energies | {"grad_norm_energy": facts.grad_norm_energy[..., None]}


class WholeRuns:
    """Takes runs of steps of a chain in the energy's own kernel, where it has one that can.

    Kernels are float32 whatever torch is set to, and so are the single steps of their chains.
    """

    def __init__(
        self,
        form: Form,
        blocks: Blocks,
        potential: Potential,
        state: list[Tensor],
        watch: Watch,
        transition: Transition,
        gathering: Gathering,
        energy: Any | None,
        precision: str | None,
    ) -> None:
        self.form, self.blocks, self.state, self.watch = form, blocks, state, watch
        self.transition, self.gathering = transition, gathering
        self.given, self.potential, self.precision = potential.energy, potential, precision
        self.tells = True
        self.taken, self.refusal = 0, "" if energy is None else _obstacle(form, blocks, potential, state, energy)
        self.renew(energy)
        self.longest = min(STRETCH, max(16, 2**22 // max(state[0].numel(), 1)))

    def renew(self, energy: Any | None) -> None:
        """Go on in the kernel of an energy, where none was refused; None: in no kernel."""
        if isinstance(energy, Perceptron) and self.precision in REDUCED:
            self.refusal = self.refusal or f"precision={self.precision!r}, its kernel is float32"
        if energy is not None and _is_listened_to(self.given):
            self.refusal = self.refusal or LISTENED
        self.energy = None if self.refusal else energy
        has_twin = hasattr(type(self.energy), "in_kernel")  # a module takes its time to miss an attribute
        twin = self.energy.in_kernel(self.state[0], self.blocks.backend) if has_twin else None
        self.potential.prepared = self.potential.prepared if twin is None else twin

    @property
    def refused(self) -> bool:
        """Whether no step will be taken here."""
        return self.energy is None

    def __call__(self, t: int, n_steps: int) -> int:
        """Advance the state by at most ``n_steps`` from step t; returns by how many, 0 where a step is a step."""
        n_steps = n_steps if self.tells else self.gathering.untold(t, n_steps)
        if self.energy is None or n_steps == 0:
            return 0
        n_steps = min(n_steps, self.longest, self.blocks.laws.longest)
        kept = self.gathering.kept(t, n_steps)
        steps = self._steps(t, n_steps, len(kept))
        if reason := self._why_not(steps):
            self.refusal = reason
            if kept and not self._why_not(steps._replace(facts=None)):
                self.tells = False
                return self(t, n_steps)
            self.energy = None
            return 0
        began = time.perf_counter()
        self.watch.see_first(self.energy.advance_(self.state[0], steps))
        if steps.proposals is not None:
            self.watch.see_refused(steps.proposals.refused)
            self.transition.forget()
        if time.perf_counter() - began < 0.1:  # an interrupt waits for the kernel
            self.longest = min(2 * self.longest, STRETCH)
        if kept:
            rows = rows_of(steps.facts, getattr(self.energy, "total", False))
            self.gathering.add(kept, rows | proposals.decisions(steps))
        self.taken += n_steps
        return n_steps

    def _why_not(self, steps: Steps) -> str | None:
        """Why the kernel does not take these steps; a callback may have changed the energy since those before."""
        listened = self.taken > 0 and _is_listened_to(self.given)
        return LISTENED if listened else self.energy.can_advance(self.state[0], steps) or proposals.pause(steps)

    def _steps(self, t: int, n_steps: int, kept: int) -> Steps:
        """What the kernel is told of so many steps from step t on, of which some are told of."""
        x = self.state[0]
        facts = facts_of(x, self.gathering.every, kept) if kept else None
        steps = steps_of(self.blocks, t, n_steps, self.watch.wanted)._replace(facts=facts)
        if self.form.corrected or self.form.friction:
            steps = steps._replace(proposals=proposals.of(steps, self.form, self.blocks, x, self.transition))
        return steps

    def note(self) -> str:
        """What to report, behind the number of steps."""
        if self.taken:
            return f", {self.taken} of them in one kernel"
        return f", not in one kernel: {self.refusal}" if self.refusal else ""


def _obstacle(form: Form, blocks: Blocks, potential: Potential, state: list[Tensor], energy: Any) -> str:
    """Why no kernel takes the steps of this chain, whatever its energy; empty where one may."""
    x = state[0]
    if len(state) > 1:
        return f"a state of {len(state)} blocks"
    if (form.corrected or form.friction) and (reason := proposals.obstacle(form, blocks, energy, x)):
        return reason
    if blocks.noise.given is not None:
        return "noise from outside"
    if potential.grad_fn is not None:
        return "the gradient is grad_fn's"
    if potential.changes or potential.kwargs(0):
        return "the energy takes keyword arguments"
    if x.dtype != torch.float32:
        return "a float64 state"
    if isinstance(blocks.noise.seed, Tensor):
        return "a seed in a tensor"
    if kernels_for(blocks.backend, x.device) is None:
        return f"backend {blocks.backend!r} has no kernel for {x.device}"
    return ""


def _is_listened_to(energy: Any) -> bool:
    """Whether a call of a module is more than its class says: hooks, or a forward of its own."""
    return isinstance(energy, nn.Module) and any(map(is_hooked, energy.modules()))
