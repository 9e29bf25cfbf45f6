"""What a run keeps of its steps, for a callback and for the caller."""

from collections.abc import Callable

import torch
from torch import Tensor

from hatebm.dynamics.facts import Gathering, Told
from hatebm.sampling.state import State

Transition = Callable[[int, list[Tensor], bool], Told]
COLUMNS = ("energy", "grad_norm", "displacement")
DECISIONS = ("accept", "nan_refused")  # of a corrected chain


class Info:
    """Looks at each step that ``every`` divides: calls ``callback`` with it, and gathers what is to be told of it."""

    def __init__(
        self,
        transition: Transition,
        every: int,
        callback: Callable[[int, State], None] | None,
        gathers: bool,
        shaped: Callable[[list[Tensor]], State],
    ) -> None:
        self.transition, self.every, self.callback = transition, every, callback
        self.shaped, self.gathering = shaped, Gathering(every, gathers)

    def stretch(self, t: int, end: int) -> int:
        """How many steps from t on, of those before ``end``, are taken before a callback."""
        return end - t if self.callback is None else min(end - t, -t % self.every + 1)

    def step(self, t: int, state: list[Tensor]) -> None:
        """Take step t, and gather what is to be told of it."""
        gathers = len(self.gathering.kept(t, 1)) > 0
        told = self.transition(t, state, gathers)
        if gathers:
            self.gathering.add_step(t, told)

    def call(self, t: int, state: list[Tensor]) -> bool:
        """Call the callback where it is to see the state after step t; whether it was called."""
        called = self.callback is not None and t % self.every == 0
        if called:
            self.callback(t, self.shaped([x.detach().clone() for x in state]))
        return called

    def gathered(self, state: list[Tensor], corrected: bool) -> Told:
        """What was gathered, (kept, ...); where it is nothing, as many columns of no rows."""
        if told := self.gathering.joined():
            return told
        columns = (*COLUMNS, *DECISIONS) if corrected else COLUMNS
        empty = state[0].new_empty(0, len(state[0]), len(state))
        nothing = {"step": torch.empty(0, dtype=torch.int64, device="cpu"), "grad_norm_energy": empty}
        return nothing | dict.fromkeys(columns, empty[..., 0])
