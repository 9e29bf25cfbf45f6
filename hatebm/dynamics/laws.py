"""The laws of the blocks of a state, and their numbers at each step."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.dynamics.fields import number_at
from hatebm.dynamics.law import Dynamics, Number, do_move
from hatebm.dynamics.schedule import Schedule, exact_schedule, schedule_in_tensors, schedule_of
from hatebm.ops.checks import STEPS
from hatebm.ops.law_numbers import arguments_of, as_arguments, as_column, halves_of
from hatebm.ops.scalars import largest

FEWEST, ROOM = 16, 1 << 20  # steps of a table, and numbers of one field in it


class Now(NamedTuple):
    """The numbers of one block's law at one step: floats, or float64 tensors, (n,) or ()."""

    step_size: Number
    noise_std: Number
    temperature: Number
    prior_precision: Number
    bound: Number  # of the clip
    arguments: dict[str, Any]  # the same as a step of the ops takes them
    resting: Tensor | None = None  # (n,) which chains stay where they are; None where surely none does


class Laws:
    """A law for each block of a state like this one; ``settings`` are what of it is one for all steps and chains."""

    def __init__(self, dynamics: Dynamics, state: Sequence[Tensor]) -> None:
        self.joint = dynamics.blocks == "joint"
        self.each, self.most = dynamics.for_blocks(len(state)), [largest(x.dtype) for x in state]
        for law, most in zip(self.each, self.most, strict=True):
            law.check_range(most)
        self.settings = [law.settings() for law in self.each]
        self.constant = True not in [law.is_scheduled for law in self.each]
        self.in_tensors = True in [law.is_in_tensors for law in self.each]
        self.like: list[Tensor] = []
        self.may_rest = [False] * len(state)
        self._tables: dict[int, Schedule] = {}
        self._now: tuple[list[Now], list[list[int]]] | None = None
        self._read(state, self.each)

    @property
    def flags(self) -> list[tuple[bool, bool]]:
        """Of each block whether any noise, and any prior, may not be 0 at a step."""
        return [law.flags() for law in self.each]

    def check(self, state: Sequence[Tensor]) -> None:
        """Raise unless the numbers in tensors are those of a state's chains, as they are now."""
        self._check(state, self.each)

    def begin(self, state: Sequence[Tensor], first: int, end: int) -> None:
        """Read tensors anew for a run of this state from step ``first`` to before ``end``: they may have changed."""
        self._read(state, [law.of_steps(first, end) for law in self.each] if self.in_tensors else ())

    def _read(self, state: Sequence[Tensor], laws: Sequence[Dynamics]) -> None:
        if not self.like or len(self.like[0]) != len(state[0]):
            self.like = [x.new_empty(len(x), 0) for x in state]
        if self.in_tensors:
            self._check(state, laws)
            self.may_rest = [law.is_in_tensors and law.may_rest() for law in laws]
            self._now = self._at(0, False) if self.constant else None

    def _check(self, state: Sequence[Tensor], laws: Sequence[Dynamics]) -> None:
        for law, most, x in zip(laws, self.most, state, strict=True):
            law.check_tensors(x, most)

    def at(self, t: int, learning: bool = False) -> tuple[list[Now], list[list[int]]]:
        """The numbers of every block at step t, and the groups of blocks that move together.

        Where the step is ``learning`` they keep the graph of what they were made from.
        """
        if learning and self.in_tensors:
            return self._at(t, learning)
        if self._now is None or not self.constant:
            self._now = self._at(t, False)
        return self._now

    def groups_at(self, t: int) -> list[list[int]]:
        """The groups of blocks that move together at step t."""
        return self._grouped([law.moves_at(t, most) for law, most in zip(self.each, self.most, strict=True)])

    @property
    def longest(self) -> int:
        """Of how many steps a table should hold the numbers: it grows with the chains where theirs differ."""
        if self.constant or not any(law.tells_chains_apart for law in self.each):
            return STEPS
        return max(FEWEST, ROOM // max(len(self.like[0]), 1))

    def schedule(self, k: int, first: int, n_steps: int) -> Schedule:
        """The numbers of a block's steps from ``first`` on."""
        of_block = (self.most[k], self.like[k])
        if self.each[k].is_in_tensors and self.constant:  # what the steps take that go one by one
            numbers = self.at(first)[0][k].arguments["numbers"].float()
            numbers = numbers if self.each[k].tells_chains_apart else numbers[:, 0]
            return Schedule(numbers[:, None].expand(5, n_steps, *numbers.shape[1:]), *self.each[k].flags())
        if self.each[k].is_in_tensors:
            return schedule_in_tensors(self.each[k], first, n_steps, *of_block)
        if not self.constant:
            return schedule_of(self.each[k], first, n_steps, *of_block)
        if k not in self._tables:
            self._tables[k] = schedule_of(self.each[k], first, 1, *of_block)
        table = self._tables[k]
        return table._replace(numbers=table.numbers.expand(5, n_steps))

    def exact(self, k: int, first: int, n_steps: int) -> Tensor:
        """The same as a step's own numbers, see :func:`hatebm.dynamics.schedule.exact_schedule`."""
        return exact_schedule(self.each[k], first, n_steps, self.most[k], self.like[k])

    def fixed(self, now: Sequence[Now], groups: list[list[int]]) -> "Laws":
        """These laws with the same numbers at every step."""
        fixed = copy.copy(self)
        fixed._now, fixed.constant, fixed.in_tensors = (list(now), groups), True, False
        return fixed

    def proposal(self, k: int, now: Now) -> dict[str, Any]:
        """What the density of a block's move from one state to another depends on."""
        law = {name: self.settings[k][name] for name in ("clip", "clip_on")}
        return law | now.arguments | {"halves": halves_of(now.noise_std, now.prior_precision, self.like[k])}

    def _at(self, t: int, learning: bool) -> tuple[list[Now], list[list[int]]]:
        now = [self._now_of(k, t, learning) for k in range(len(self.each))]
        return now, self._grouped([do_move(block.step_size, block.noise_std) for block in now])

    def _grouped(self, moves: Sequence[bool]) -> list[list[int]]:
        moving = [k for k, one in enumerate(moves) if one]
        return [moving] if self.joint and moving else [[k] for k in moving]

    def _now_of(self, k: int, t: int, learning: bool) -> Now:
        if not self.in_tensors:
            found = self.each[k].at(t, self.most[k])
            step_size, noise_std, temperature, prior_precision, bound = found
            return Now(*found, as_arguments(step_size, noise_std, 1.0 / temperature, prior_precision, bound))
        x = self.like[k]

        def number(*asked: Any) -> Number:
            found = number_at(*asked)
            if not isinstance(found, Tensor):
                return found
            return (found if learning else found.detach()).to(device=x.device, dtype=torch.float64)

        found = self.each[k].at(t, self.most[k], number)
        step_size, noise_std, temperature, prior_precision, bound = found
        arguments = arguments_of((step_size, noise_std, 1.0 / temperature, prior_precision, bound), x)
        resting = None
        learned = any(isinstance(v, Tensor) and v.requires_grad for v in (step_size, noise_std))
        if self.may_rest[k] and not learned:  # a number that is learned may leave 0
            resting = (as_column(step_size, len(x), x.device) == 0) & (as_column(noise_std, len(x), x.device) == 0)
        return Now(*found, arguments, resting)
