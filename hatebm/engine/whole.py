"""Runs of steps that an energy takes in one kernel of its own, where a chain may."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.facts import Gathering, Told, over_blocks
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.transitions.form import Form, Transition
from hatebm.energies.perceptron import Perceptron
from hatebm.energies.steps import Facts, Steps
from hatebm.engine import proposals
from hatebm.engine.prepare.precision import REDUCED
from hatebm.engine.prepare.recognition import Terms, sum_of, terms_of
from hatebm.engine.prepare.tracing import is_hooked
from hatebm.ops.backend import kernels_for
from hatebm.ops.scalars import OPEN, sides_of

STRETCH = 4096  # steps that a kernel takes at most before Python can be interrupted
LISTENED = "hooks, or a forward of its own"


def steps_of(blocks: Blocks, first_step: int, n_steps: int, watched: bool, k: int = 0) -> Steps:
    """What a kernel is told of the next steps of a block of a state."""
    law, noise = blocks.laws.each[k], blocks.noise
    schedule = blocks.laws.schedule(k, first_step, n_steps)
    mask, bounded = blocks.region.masks[k], law.clamp_at != "final"
    box = dict(zip(("low", "high"), sides_of(law.reflect), strict=True)) if law.reflect else {}
    return Steps(
        schedule.numbers,
        schedule.noisy,
        schedule.prior,
        **blocks.laws.settings[k] | (box if bounded else OPEN),
        clamp_noise=law.clamp_at == "noise+step",
        noise_at=law.noise_at,
        seed=noise.seed,
        first_step=first_step,
        chain_ids=noise.chain_ids,
        watched=watched,
        backend=blocks.backend,
        mask=None if mask is None else mask.reshape(len(mask), mask[:1].numel()).contiguous(),
        reflect=bounded and law.reflect is not None,
        block=k,
    )


def facts_of(x: Tensor, every: int, kept: int) -> Facts:
    """Room for what a kernel tells of so many steps."""
    columns = (torch.empty(kept, len(x), dtype=torch.float32, device=x.device) for _ in Facts._fields[1:])
    return Facts(every, *columns)


def rows_of(facts: Sequence[Facts], total: bool) -> Told:
    """What kernels told of the blocks of a state, as single steps tell it; ``total``: of the sum of all energies."""
    energy = functools.reduce(torch.add, [of_block.energy for of_block in facts])
    of_energy = [of_block.grad_norm_energy for of_block in facts]
    return {
        "energy": torch.stack([row.sum() for row in energy])[:, None] if total else energy,
        "grad_norm": over_blocks([of_block.grad_norm for of_block in facts]),
        "grad_norm_energy": of_energy[0][..., None] if len(of_energy) == 1 else torch.stack(of_energy, -1),
        "displacement": over_blocks([of_block.displacement for of_block in facts]),
    }


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
        self.tells = blocks.laws.joint or len(state) == 1  # the energies of blocks in turns are those between them
        self.taken, self.refusal = 0, "" if energy is None else _obstacle(form, blocks, potential, state, energy)
        self.renew(energy)
        self.longest = min(STRETCH, max(16, 2**22 // max(state[0].numel(), 1)))

    def renew(self, energy: Any | None) -> None:
        """Go on in the kernel of an energy, where none was refused; None: in no kernel."""
        terms = terms_of(energy)
        if self.precision in REDUCED and any(isinstance(term, Perceptron) for term in terms):
            self.refusal = self.refusal or f"precision={self.precision!r}, its kernel is float32"
        if terms and _is_listened_to(self.given):
            self.refusal = self.refusal or LISTENED
        self.terms = [] if self.refusal else terms
        if any(hasattr(type(term), "in_kernel") for term in self.terms):  # a module takes its time to miss an attribute
            self._keep_bits()

    def _keep_bits(self) -> None:
        """Let single steps have the bits of the kernel."""
        backend, pairs = self.blocks.backend, list(zip(self.terms, self.state, strict=True))
        own = [term.in_kernel(x, backend) if hasattr(type(term), "in_kernel") else term for term, x in pairs]
        if len(own) == 1:
            self.potential.prepared = own[0] or self.potential.prepared
        elif None not in own:
            self.potential.prepared = lambda *state: sum_of([f(x) for f, x in zip(own, state, strict=True)])

    @property
    def refused(self) -> bool:
        """Whether no step will be taken here."""
        return not self.terms

    def __call__(self, t: int, n_steps: int) -> int:
        """Advance the state by at most ``n_steps`` from step t; returns by how many, 0 where a step is a step."""
        n_steps = n_steps if self.tells else self.gathering.untold(t, n_steps)
        if self.refused or n_steps == 0:
            return 0
        n_steps = min(n_steps, self.longest, self.blocks.laws.longest)
        kept = self.gathering.kept(t, n_steps)
        steps = [self._steps(t, n_steps, len(kept), k) for k in range(len(self.terms))]
        if reason := self._why_not(steps):
            self.refusal = reason
            if kept and not self._why_not([of_block._replace(facts=None) for of_block in steps]):
                self.tells = False
                return self(t, n_steps)
            self.terms = []
            return 0
        began = time.perf_counter()
        for term, x, of_block in zip(self.terms, self.state, steps, strict=True):
            self.watch.see_first(term.advance_(x, of_block))
        if steps[0].proposals is not None:
            self.watch.see_refused(steps[0].proposals.refused)
            self.transition.forget()
        if time.perf_counter() - began < 0.1:  # an interrupt waits for the kernel
            self.longest = min(2 * self.longest, STRETCH)
        if kept:
            rows = rows_of([of_block.facts for of_block in steps], getattr(self.terms[0], "total", False))
            self.gathering.add(kept, rows | proposals.decisions(steps[0]))
        self.taken += n_steps
        return n_steps

    def _why_not(self, steps: Sequence[Steps]) -> str | None:
        """Why the kernel does not take these steps; a callback may have changed the energy since those before."""
        if self.taken > 0 and _is_listened_to(self.given):
            return LISTENED
        each = zip(self.terms, self.state, steps, strict=True)
        reasons = (term.can_advance(x, of_block) or proposals.pause(of_block) for term, x, of_block in each)
        return next(filter(None, reasons), None)

    def _steps(self, t: int, n_steps: int, kept: int, k: int) -> Steps:
        """What the kernel is told of so many steps of block k from step t on, of which some are told of."""
        x = self.state[k]
        facts = facts_of(x, self.gathering.every, kept) if kept else None
        steps = steps_of(self.blocks, t, n_steps, self.watch.wanted, k)._replace(facts=facts)
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
    if len(state) > 1 and (reason := _obstacle_of_blocks(form, blocks, energy)):
        return reason
    if (form.corrected or form.friction) and (reason := proposals.obstacle(form, blocks, energy, x)):
        return reason
    if blocks.noise.given is not None:
        return "noise from outside"
    if potential.grad_fn is not None:
        return "the gradient is grad_fn's"
    if potential.changes or potential.kwargs(0):
        return "the energy takes keyword arguments"
    if any(block.dtype != torch.float32 for block in state):
        return "a float64 state"
    if isinstance(blocks.noise.seed, Tensor):
        return "a seed in a tensor"
    if kernels_for(blocks.backend, x.device) is None:
        return f"backend {blocks.backend!r} has no kernel for {x.device}"
    return ""


def _obstacle_of_blocks(form: Form, blocks: Blocks, energy: Any) -> str:
    """The same of a state of several blocks, each of which has a kernel of its own where the energy is their sum."""
    if not isinstance(energy, Terms) or form.corrected or form.friction:
        return f"a state of {len(blocks.laws.each)} blocks"
    return "a block may rest" if any(law.may_rest() for law in blocks.laws.each) else ""


def _is_listened_to(energy: Any) -> bool:
    """Whether a call of a module is more than its class says: hooks, or a forward of its own."""
    return isinstance(energy, nn.Module) and any(map(is_hooked, energy.modules()))
