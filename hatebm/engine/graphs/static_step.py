"""The step of a chain on static buffers: what a graph can be captured from."""

import copy

import torch
from torch import Tensor

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.gradient import Always, Potential
from hatebm.dynamics.laws import Now
from hatebm.dynamics.noise import Noise
from hatebm.dynamics.region import Region
from hatebm.dynamics.transitions import Adjusted, Hamiltonian, Overdamped, transition_of
from hatebm.dynamics.transitions.hamiltonian import forgets
from hatebm.engine.graphs.static_buffers import Run, StaticBuffers
from hatebm.engine.prepare import prepare
from hatebm.engine.prepare.callables import as_module
from hatebm.ops.law_numbers import NUMBERS


class Step:
    """One step on static buffers, each call the next: the chain's own transition, told where its numbers lie.

    It moves the blocks that move at step t, and writes down what is told of it where it ``tells``. It takes a prepared
    form of the energy of its own, so that whatever that form keeps from one evaluation to the next is made within the
    step.
    """

    def __init__(self, buffers: StaticBuffers, run: Run, potential: Potential, t: int, tells: bool = False) -> None:
        self.buffers, self.tells, blocks = buffers, tells, run.blocks
        self.numbers = [Numbers(blocks, k, buffers) for k in range(len(buffers.state))]
        now = [numbers.now for numbers in self.numbers]
        groups = blocks.laws.groups_at(t)
        laws, energy, self.turns = blocks.laws.fixed(now, groups), copy.copy(potential), len(groups)
        region = Region(laws, buffers.masks, buffers.held)
        twin = Blocks(laws, region, Noise(None, buffers.seed, buffers.chain_ids), blocks.backend)
        energy.masks, energy.differentiable = buffers.masks, False
        energy.kwargs = Always(buffers.arguments.kwargs)
        if potential.prepared is not None:
            given = (as_module(potential.energy), buffers.state, buffers.arguments.kwargs)
            energy.prepared = prepare(*given).energy
        self.energy = energy
        velocity = [None] * len(now)
        self.transition = transition_of(run.form, twin, energy, buffers, velocity)
        if isinstance(self.transition, Adjusted):
            self.transition.checked = laws.at(t)[0]
        if isinstance(self.transition, Hamiltonian):
            self.transition.shares = {k: (numbers.now, *numbers.shares) for k, numbers in enumerate(self.numbers)}

    @property
    def makes_images_again(self) -> bool:
        """Whether the loop would keep G(z) where blocks take turns, from the step before to this one."""
        return self.buffers.images.moves and isinstance(self.transition, Overdamped) and self.turns > 1

    def __call__(self) -> None:
        buffers = self.buffers
        for numbers in self.numbers:
            numbers.read(buffers.row)
        state = list(buffers.state)
        self.energy.kept = buffers.images.kept(self.energy, state)
        self.transition.take_up(buffers.handed)
        told = self.transition(buffers.step, state, self.tells)
        if self.tells:  # before what it was told of is written over
            buffers.tell(told)
        for own, moved in zip(buffers.state, state, strict=True):
            if moved is not own:
                own.copy_(moved)
        self.energy.kept = None  # nothing of it lives on
        buffers.hand_on(self.transition.handed_on(buffers.moving))
        buffers.go_on(1, self.tells)


class Numbers:
    """A block's numbers, which each step reads anew; host and kernel know which of them nobody has."""

    def __init__(self, blocks: Blocks, k: int, buffers: StaticBuffers) -> None:
        law, (noisy, prior), table = blocks.laws.each[k], blocks.laws.flags[k], buffers.schedules[k]
        n, here = len(buffers.state[0]), table.device
        values = (1.0, float(noisy), 1.0, float(prior), 1.0)
        self.columns = [(table, _column(table))]
        self.resting = torch.zeros(n, dtype=torch.bool, device=here) if blocks.laws.may_rest[k] else None
        arguments = dict(zip(NUMBERS, values, strict=True)) | {"numbers": self.columns[0][1]}
        self.shares = 0.0, 1.0
        if buffers.exact:
            exact = buffers.exact[k]
            self.columns.append((exact, _column(exact)))
            step_size, noise_std, temperature, own_prior, bound, *shares = _rows(self.columns[1][1])
            values = step_size, noise_std, temperature, own_prior if prior else 0.0, bound if law.clip else 0.0
            self.shares = self.shares if forgets(law.friction) else tuple(shares)
        self.now = Now(*values, arguments, self.resting)

    def read(self, row: Tensor) -> None:
        """Take the numbers of the step whose row this is."""
        for table, column in self.columns:
            if table.shape[1] > 1:
                column.copy_(table.index_select(1, row)[:, 0])
        if self.resting is not None:
            numbers = self.columns[0][1]
            self.resting.copy_((numbers[0] == 0) & (numbers[1] == 0))


def _column(table: Tensor) -> Tensor:
    return table[:, 0] if table.shape[1] == 1 else table[:, 0].clone()


def _rows(column: Tensor) -> tuple[Tensor, ...]:
    """The number of all chains, (), or of each."""
    return (column[:, 0] if column.shape[1] == 1 else column).unbind()
