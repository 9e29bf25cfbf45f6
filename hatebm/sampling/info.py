"""What a run keeps of its steps, for a callback and for the caller."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hatebm.sampling.state import State

Transition = Callable[[int, list[Tensor], bool], dict[str, Tensor]]
COLUMNS = ("step", "energy", "grad_norm", "displacement")
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
        self.gathers, self.shaped = gathers, shaped
        self.looks = gathers or callback is not None
        self.rows: list[dict[str, Tensor]] = []

    def stretch(self, t: int, end: int) -> int:
        """How many steps from t on, of those before ``end``, nobody looks at."""
        return min(end - t, -t % self.every) if self.looks else end - t

    def step(self, t: int, state: list[Tensor]) -> None:
        """Take step t, and look at it where it is one of those."""
        if not self.looks or t % self.every:
            self.transition(t, state, False)
            return
        before = [x.detach().clone() for x in state] if self.gathers else []
        facts = self.transition(t, state, self.gathers)
        if self.gathers:
            at = torch.tensor(t, dtype=torch.int64, device="cpu")
            self.rows.append({"step": at, **facts, "displacement": _distance(before, state)})
        if self.callback is not None:
            self.callback(t, self.shaped([x.detach().clone() for x in state]))

    def gathered(self, like: Tensor, corrected: bool) -> dict[str, Tensor]:
        """What was gathered, (kept, ...); where it is nothing, as many columns of no rows, (0, n)."""
        if self.rows:
            return {name: torch.stack([row[name] for row in self.rows]) for name in self.rows[0]}
        columns = (*COLUMNS, *DECISIONS) if corrected else COLUMNS
        empty = dict.fromkeys(columns, like.new_empty(0, len(like)))
        return empty | {"step": torch.empty(0, dtype=torch.int64, device="cpu")}


def _distance(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    moved = [(x.detach() - old).reshape(len(x), x[:1].numel()) for x, old in zip(after, before, strict=True)]
    return torch.cat(moved, 1).norm(dim=1)
