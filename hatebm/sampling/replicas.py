"""The replicas of a ladder, n chains each: all rows of one chain, or a chain for each replica."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hatebm.dynamics.gradient import Potential
from hatebm.sampling.chain import Chain
from hatebm.sampling.state import State, blocks_of, each_block, joined, parted


class Replicas:
    """Replicas that advance together, and exchange rows.

    Args:
        chains: one of all replicas' rows, the cold replica's first, or one for each replica, the cold one first.
        n: number of rows of a replica.
        potential: the energies that exchanges compare.
    """

    def __init__(self, chains: Sequence[Chain], n: int, potential: Potential) -> None:
        self.n = n
        self._chains, self._potential = chains, potential

    @property
    def step(self) -> int:
        """The step to be taken next."""
        return self._chains[0].step

    @property
    def states(self) -> list[State]:
        """A copy of the state of each replica."""
        return [part for chain in self._chains for part in parted(chain.state, self.n)]

    def run(
        self, n_steps: int, callback: Callable[[int, State], None] | None, every: int, return_info: bool
    ) -> tuple[State, dict[str, Tensor]]:
        """Advance all, and return the state of the cold replica and what there is to tell of it."""
        looks = {"callback": callback and self._of_cold(callback), "every": every, "return_info": return_info}
        found = self._chains[0].run(n_steps, **looks)
        for chain in self._chains[1:]:
            chain.run(n_steps)
        state, info = found if return_info else (found, {})
        return self._cold(state), {name: rows if name == "step" else rows[:, : self.n] for name, rows in info.items()}

    def energies(self, t: int) -> Tensor:
        """The energy of each row before step t, (replicas, n)."""
        found = [self._potential.energies(t, blocks_of(chain.state)).double() for chain in self._chains]
        return torch.cat(found).view(-1, self.n)

    def take(self, rows: Tensor) -> None:
        """Each row goes on from the state and the velocity of another; ``rows`` are numbers through all replicas."""
        saved = [chain.state_dict() for chain in self._chains]
        for name in {"state", "velocity"} & set(saved[0]):
            taken = each_block(lambda x: x[rows], joined([part[name] for part in saved]))
            for part, state in zip(saved, parted(taken, len(rows) // len(saved)), strict=True):
                part[name] = state
        for chain, part in zip(self._chains, saved, strict=True):
            chain.load_state_dict(part)

    def report(self) -> str:
        """:meth:`hatebm.Chain.report` of the chain with the cold replica."""
        return self._chains[0].report()

    def _cold(self, state: State) -> State:
        return each_block(lambda x: x[: self.n].clone(), state)

    def _of_cold(self, callback: Callable[[int, State], None]) -> Callable[[int, State], None]:
        return lambda t, state: callback(t, self._cold(state))
