"""The step of a chain on tensors that stay where they are: what a graph can be captured from."""

import copy
from typing import Any

import torch
from torch import Tensor

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.laws import Laws, Now
from hatebm.dynamics.noise import Noise
from hatebm.dynamics.region import Region
from hatebm.dynamics.transitions import Overdamped
from hatebm.engine.prepare import prepare
from hatebm.ops import langevin_step_
from hatebm.ops.checks import GRAD_DTYPES, STEPS
from hatebm.ops.law_numbers import NUMBERS
from hatebm.ops.native.chains import NEVER

MOST = 256  # steps of a schedule in buffers


class StaticBuffers:
    """What the steps of a graph read and write, at fixed addresses.

    That is the state, the law's numbers at each step of a run, the seed, the step and its row among those numbers, and
    the first bad steps.
    """

    def __init__(self, blocks: Blocks, state: list[Tensor], watched: bool) -> None:
        n, device, self.backend = len(state[0]), state[0].device, blocks.backend
        self.state = [x.clone() for x in state]
        self.seed = torch.zeros((), dtype=torch.int64, device=device)
        self.place = torch.zeros(2, dtype=torch.int64, device=device)
        self.step, self.row = self.place[0], self.place[1:]
        self.first = torch.full((n,), NEVER, dtype=torch.int64, device=device) if watched else None
        self.unused = torch.zeros(n, 1, dtype=torch.float32, device=device)
        self.chain_ids = _cloned(blocks.noise.chain_ids)
        masks = blocks.region.masks
        self.masks = [_cloned(mask) for mask in masks]
        self.held = [None if mask is None else x.clone() for mask, x in zip(masks, state, strict=True)]
        self.schedules = [torch.zeros(shape, dtype=torch.float32, device=device) for shape in table_shapes(blocks.laws)]

    def load(self, blocks: Blocks, state: list[Tensor], t: int, n_steps: int) -> None:
        """Take over a chain at step t, for at most :func:`longest` steps."""
        masks, seed = blocks.region.masks, blocks.noise.seed
        held = [None if mask is None else x for mask, x in zip(masks, blocks.region.held, strict=True)]
        mine = [*self.state, self.chain_ids, *self.masks, *self.held]
        for own, given in zip(mine, [*state, blocks.noise.chain_ids, *masks, *held], strict=True):
            if own is not None:
                own.copy_(given)
        self.step.fill_(t)
        self.row.zero_()
        self.seed.copy_(seed) if isinstance(seed, Tensor) else self.seed.fill_(seed)
        for k, table in enumerate(self.schedules):
            numbers = blocks.laws.schedule(k, t, min(n_steps, table.shape[1])).numbers
            table[:, : numbers.shape[1]].copy_(numbers.reshape(5, numbers.shape[1], -1))
        if self.first is not None:
            self.first.fill_(NEVER)

    def go_on(self, steps: int) -> None:
        """Be so many steps further, or back."""
        self.place.add_(steps)

    def unload(self, state: list[Tensor], watch: Watch) -> None:
        """Hand the chain back where it is."""
        for x, own in zip(state, self.state, strict=True):
            x.copy_(own)
        if self.first is not None:
            watch.see_first(self.first)

    def see_energy(self, step: Tensor, energies: Tensor | None) -> None:
        """Mark the chains whose energy is not finite: the kernel's test of a gradient, on a state that is not used."""
        if self.first is None or energies is None:
            return
        energies = energies if energies.dtype in GRAD_DTYPES else (energies - energies).float()
        column = energies.expand(len(self.first))[:, None]
        place = {"step": step, "diverged": self.first, "backend": self.backend}
        langevin_step_(self.unused, column, step_size=0.0, noise_std=0.0, **place)


class Step:
    """One step on static buffers, each call the next: the chain's own transition, told where its numbers lie.

    It moves the blocks that move at step t, and takes a prepared form of the energy of its own, so that whatever that
    form keeps from one evaluation to the next is made within the step.
    """

    def __init__(self, buffers: StaticBuffers, blocks: Blocks, potential: Potential, t: int) -> None:
        self.buffers = buffers
        self.now = [_now_of(blocks, k, table) for k, table in enumerate(buffers.schedules)]
        laws, energy = blocks.laws.fixed(self.now, blocks.laws.groups_at(t)), copy.copy(potential)
        region = Region(laws, buffers.masks, buffers.held)
        twin = Blocks(laws, region, Noise(None, buffers.seed, buffers.chain_ids), blocks.backend)
        energy.masks, energy.differentiable = buffers.masks, False
        if potential.prepared is not None:
            energy.prepared = prepare(potential.energy, buffers.state).energy
        self.transition = Overdamped(twin, energy, buffers)

    def __call__(self) -> None:
        for now, table in zip(self.now, self.buffers.schedules, strict=True):
            self._read(now, table)
        state = list(self.buffers.state)
        self.transition(self.buffers.step, state, False)
        for own, moved in zip(self.buffers.state, state, strict=True):
            if moved is not own:
                own.copy_(moved)
        self.buffers.go_on(1)

    def _read(self, now: Now, table: Tensor) -> None:
        """Take the numbers of this step from a schedule."""
        numbers = now.arguments["numbers"]
        if table.shape[1] > 1:
            numbers.copy_(table.index_select(1, self.buffers.row)[:, 0])
        if now.resting is not None:
            now.resting.copy_((numbers[0] == 0) & (numbers[1] == 0))


def longest(laws: Laws) -> int:
    """Of how many steps buffers hold the numbers; of any number where all have the same."""
    return STEPS if laws.constant else min(MOST, laws.longest)


def table_shapes(laws: Laws) -> list[tuple[int, int, int]]:
    """Rows, steps and columns of each block's schedule."""
    steps, n = 1 if laws.constant else longest(laws), len(laws.like[0])
    return [(5, steps, n if law.tells_chains_apart else 1) for law in laws.each]


def _now_of(blocks: Blocks, k: int, table: Tensor) -> Now:
    """Numbers that each step reads anew; host and kernel know which of them nobody has."""
    noisy, prior = blocks.laws.flags[k]
    numbers = table[:, 0] if table.shape[1] == 1 else table[:, 0].clone()
    values = (1.0, float(noisy), 1.0, float(prior), 1.0)
    n = len(blocks.laws.like[k])
    resting = torch.zeros(n, dtype=torch.bool, device=table.device) if blocks.laws.may_rest[k] else None
    return Now(*values, dict(zip(NUMBERS, values, strict=True)) | {"numbers": numbers}, resting)


def _cloned(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.clone()
