"""The replicas of a ladder, n chains each: all rows of one chain, or a chain for each replica."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hatebm.dynamics.facts import each
from hatebm.dynamics.gradient import Potential
from hatebm.sampling.chain import Chain
from hatebm.sampling.state import State, blocks_of, each_block, joined, parted


class Replicas:
    """Replicas that advance together, and exchange rows.

    Args:
        chains: one of the rows of all replicas, the cold replica's first, or one for each replica, the cold one first.
        count: number of replicas.
        potential: the energies that exchanges compare.
    """

    def __init__(self, chains: Sequence[Chain], count: int, potential: Potential) -> None:
        self._chains, self._count, self._potential = chains, count, potential
        self._each = count // len(chains)  # replicas in a chain

    @property
    def states(self) -> list[State]:
        """A copy of the state of each replica."""
        return [part for chain in self._chains for part in parted(chain.state, self._each)]

    def run(
        self, n_steps: int, callback: Callable[[int, State], None] | None, every: int, return_info: bool
    ) -> tuple[State, dict[str, Tensor]]:
        """Advance all, and return the state of the cold replica and what there is to tell of it."""
        shown = None if callback is None else lambda t, state: callback(t, self._cold(state))
        found = self._chains[0].run(n_steps, callback=shown, every=every, return_info=return_info)
        for chain in self._chains[1:]:
            chain.run(n_steps)
        state, info = found if return_info else (found, {})
        columns = {name: rows for name, rows in info.items() if name != "step"}
        return self._cold(state), info | each(lambda rows: rows.tensor_split(self._each, 1)[0], columns)

    def energies(self, t: int) -> Tensor:
        """The energy of each row before step t, (replicas, n)."""
        found = [self._potential.energies(t, blocks_of(chain.state)).double() for chain in self._chains]
        return torch.cat(found).view(self._count, -1)

    def take(self, rows: Tensor) -> None:
        """Each row goes on from the state and the velocity of another; ``rows`` are numbers through all replicas."""
        saved = [chain.state_dict() for chain in self._chains]
        for name in [name for name in ("state", "velocity") if name in saved[0]]:
            taken = each_block(lambda x: x[rows], joined([part[name] for part in saved]))
            for part, state in zip(saved, parted(taken, len(saved)), strict=True):
                part[name] = state
        for chain, part in zip(self._chains, saved, strict=True):
            chain.load_state_dict(part)

    def report(self) -> str:
        """:meth:`hatebm.Chain.report` of the chain with the cold replica."""
        return self._chains[0].report()

    def _cold(self, state: State) -> State:
        return parted(state, self._each)[0]
