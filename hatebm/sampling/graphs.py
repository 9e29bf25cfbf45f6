"""Which steps of a run keep a graph, and the states that carry it."""

from collections.abc import Callable

import torch
from torch import Tensor

from hatebm.sampling.state import State, copied


class Graphs:
    """Steps from ``linked`` on keep the graph that leads through them; where a run ``keeps`` the state after each step,
    every step before has one of its own, that begins at a detached state. Where autograd is off, none has.
    """

    def __init__(self, linked: int, keeps: bool, returned: Callable[[list[Tensor]], State]) -> None:
        self.linked, self.keeps, self.returned = linked, keeps, returned
        self.each = keeps and torch.is_grad_enabled()
        self.outputs: list[State] = []

    def learning(self, t: int) -> bool:
        """Whether step t keeps its graph."""
        return t >= self.linked or self.each

    def after(self, t: int, state: list[Tensor]) -> list[Tensor]:
        """The state from which the step after t begins; the one after t is kept where they are wanted."""
        if not self.keeps:
            return state
        self.outputs.append(self.returned(state if self.learning(t) else copied(state)))
        return copied(state) if self.learning(t) and t < self.linked else state
