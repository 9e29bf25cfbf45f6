"""What the steps of a graph read and write, on tensors that stay where they are."""

import math
from typing import Any

import torch
from torch import Tensor

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.facts import Gathering, Told, each
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.laws import Laws
from hatebm.dynamics.transitions.adjusted import Handed, check_noisy
from hatebm.dynamics.transitions.form import Form, Transition
from hatebm.dynamics.transitions.hamiltonian import forgets, kept_and_fresh
from hatebm.engine.graphs.arguments import Arguments
from hatebm.engine.graphs.images import Images
from hatebm.ops import langevin_step_
from hatebm.ops.checks import GRAD_DTYPES, STEPS
from hatebm.ops.native.chains import NEVER

MOST, ROOM = 256, 1 << 20  # steps of a schedule in buffers, and lines to tell of; numbers in a column of those


class Run:
    """What a graph takes over of a run, and hands back: where its chain is, how it moves, and who watches it."""

    def __init__(
        self,
        form: Form,
        blocks: Blocks,
        state: list[Tensor],
        transition: Transition,
        watch: Watch,
        gathering: Gathering,
    ) -> None:
        self.form, self.blocks, self.state, self.transition = form, blocks, state, transition
        self.watch, self.gathering, self.device = watch, gathering, state[0].device

    def moving_at(self, t: int) -> list[int]:
        """The blocks that move at step t."""
        return sorted(k for group in self.blocks.laws.groups_at(t) for k in group)

    @property
    def by_kernel_alone(self) -> bool:
        """Whether all of the law's numbers are read by one kernel, which takes them in float32."""
        return not self.form.corrected and not self.form.friction


class StaticBuffers:
    """What the steps of a graph read and write, at fixed addresses.

    That is the state, and what a step hands on to the next; the law's numbers at each step of a run, the seed, the
    step and its row among those numbers; the keyword arguments of the energy and the images of hat
    energies that rest; the first bad steps, and the chains that
    refused a NaN.
    """

    def __init__(self, run: Run, potential: Potential, t: int) -> None:
        blocks, state, watch = run.blocks, run.state, run.watch
        n, device, self.backend = len(state[0]), state[0].device, blocks.backend
        self.moving = run.moving_at(t)
        self.state = [x.clone() for x in state]
        self.handed = {name: v.clone() for name, v in run.transition.handed_on(self.moving).items()}
        self.arguments = Arguments(potential.kwargs(t), device)
        self.images = Images(potential, t, state, self.moving)
        self.seed = torch.zeros((), dtype=torch.int64, device=device)
        self.place = torch.zeros(2, dtype=torch.int64, device=device)
        self.step, self.row = self.place[0], self.place[1:]
        self.lines, self.line = lines_of(run), torch.zeros(1, dtype=torch.int64, device=device)
        self.told: Told = {}
        self.first = torch.full((n,), NEVER, dtype=torch.int64, device=device) if watch.wanted else None
        refuses = watch.wanted and run.form.corrected
        self.refused = torch.zeros(n, dtype=torch.bool, device=device) if refuses else None
        self.unused = torch.zeros(n, 1, dtype=torch.float32, device=device)
        self.chain_ids = _cloned(blocks.noise.chain_ids)
        masks = blocks.region.masks
        self.masks = [_cloned(mask) for mask in masks]
        self.held = [None if mask is None else x.clone() for mask, x in zip(masks, state, strict=True)]
        shapes = table_shapes(blocks.laws)
        self.schedules = [torch.zeros(shape, dtype=torch.float32, device=device) for shape in shapes]
        exact = [] if run.by_kernel_alone else [(7, *shape[1:]) for shape in shapes]
        self.exact = [torch.ones(shape, dtype=torch.float64, device=device) for shape in exact]

    def load(self, run: Run, potential: Potential, t: int, n_steps: int) -> None:
        """Take over a chain at step t, for at most :func:`longest` steps, but for the energy's arguments."""
        blocks = run.blocks
        masks, seed = blocks.region.masks, blocks.noise.seed
        held = [None if mask is None else x for mask, x in zip(masks, blocks.region.held, strict=True)]
        mine = [*self.state, self.chain_ids, *self.masks, *self.held]
        for own, given in zip(mine, [*run.state, blocks.noise.chain_ids, *masks, *held], strict=True):
            if own is not None:
                own.copy_(given)
        handed = run.transition.handed_on(self.moving)
        for name, own in self.handed.items():
            own.copy_(handed[name])
        self.images.load(potential, t, run.state)
        self.step.fill_(t)
        self.row.zero_()
        self.line.zero_()
        self.seed.copy_(seed) if isinstance(seed, Tensor) else self.seed.fill_(seed)
        for k, table in enumerate(self.schedules):
            numbers = blocks.laws.schedule(k, t, min(n_steps, table.shape[1])).numbers
            table[:, : numbers.shape[1]].copy_(numbers.reshape(5, numbers.shape[1], -1))
        for k, table in enumerate(self.exact):
            numbers = _exact(run, k, t, min(n_steps, table.shape[1]), k in self.moving)
            table[: len(numbers), : numbers.shape[1]].copy_(numbers)
        if self.first is not None:
            self.first.fill_(NEVER)
        if self.refused is not None:
            self.refused.zero_()

    def go_on(self, steps: int, tells: bool) -> None:
        """Be so many steps further, or back, whether they tell of themselves or not."""
        self.place.add_(steps)
        if tells:
            self.line.add_(steps)

    def tell(self, told: Told) -> None:
        """Write what is told of a step to the next line of the tables, made where there is none yet."""
        self.told = self.told or each(lambda v: v.new_zeros(self.lines, *v.shape), told)
        _write(self.told, told, self.line)

    def unload(self, run: Run, t: int, n_steps: int, tells_all: bool) -> None:
        """Hand the chain back where it is after so many steps from t on; all told of, or those that are gathered."""
        for x, own in zip(run.state, self.state, strict=True):
            x.copy_(own)
        run.transition.take_up({name: own.clone() for name, own in self.handed.items()})
        if self.first is not None:
            run.watch.see_first(self.first)
        if self.refused is not None:
            run.watch.see_refused(self.refused.clone())
        kept = run.gathering.kept(t, n_steps)
        if kept:
            lines = slice(kept.start - t, None, run.gathering.every) if tells_all else slice(None)
            run.gathering.add(kept, each(lambda v: v[lines][: len(kept)].clone(), self.told))

    def written(self) -> tuple[list[Tensor], list[Tensor]]:
        """What a step moves, and what it writes anew."""
        velocity = [v for (name, _), v in self.handed.items() if name == "velocity"]
        seen = [v for (name, _), v in self.handed.items() if name != "velocity"]
        told = [v for value in self.told.values() for v in (value.values() if isinstance(value, dict) else [value])]
        return [*self.state, *velocity], [*seen, *told]

    def hand_on(self, handed: Handed) -> None:
        """Keep what a step hands on to the next."""
        for name, own in self.handed.items():
            own.copy_(handed[name])

    def see_energy(self, step: Tensor, energies: Tensor | None) -> None:
        """Mark the chains whose energy is not finite: the kernel's test of a gradient, on a state that is not used."""
        if self.first is None or energies is None:
            return
        if self.refused is not None:
            energies = torch.where(energies == math.inf, 0, energies)
        energies = energies if energies.dtype in GRAD_DTYPES else (energies - energies).float()
        column = energies.expand(len(self.first))[:, None]
        place = {"step": step, "diverged": self.first, "backend": self.backend}
        langevin_step_(self.unused, column, step_size=0.0, noise_std=0.0, **place)

    def see_refused(self, refused: Tensor) -> None:
        """Mark the chains, (n,) bool, that had a proposal refused for a NaN."""
        if self.refused is not None:
            self.refused.logical_or_(refused)


def longest(run: Run) -> int:
    """How many steps buffers serve at once: for all of which they have numbers, and lines to be told of."""
    gathering = run.gathering
    return min(_longest(run.blocks.laws), lines_of(run) * gathering.every if gathering.wanted else STEPS)


def lines_of(run: Run) -> int:
    """Of how many steps there is room to tell."""
    return max(3, min(MOST, ROOM // len(run.state[0])))


def _longest(laws: Laws) -> int:
    """Of how many steps buffers hold the numbers; of any number where all have the same."""
    return STEPS if laws.constant else min(MOST, laws.longest)


def table_shapes(laws: Laws) -> list[tuple[int, int, int]]:
    """Rows, steps and columns of each block's schedule."""
    steps, n = 1 if laws.constant else _longest(laws), len(laws.like[0])
    return [(5, steps, n if law.tells_chains_apart else 1) for law in laws.each]


def _exact(run: Run, k: int, t: int, n_steps: int, moves: bool) -> Tensor:
    """A block's numbers, with what of a velocity stays and how much noise comes where velocities live on."""
    numbers, friction = run.blocks.laws.exact(k, t, n_steps), run.blocks.laws.each[k].friction
    if moves:
        check_noisy(float(numbers[1].min()), run.transition.NOISY)
    if not moves or forgets(friction):
        return numbers
    keep, fresh = kept_and_fresh(friction, numbers[1], run.form.leapfrog_steps or 1)
    return torch.cat([numbers, torch.stack([keep, fresh])])


def _write(tables: Told, told: Told, line: Tensor) -> None:
    for name, value in told.items():
        if isinstance(value, dict):
            _write(tables[name], value, line)
        else:
            tables[name].index_copy_(0, line, value[None])


def _cloned(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.clone()
