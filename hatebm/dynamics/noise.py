"""The noise of a chain's steps: given from outside, or drawn by each step at its place."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hatebm.ops.checks import check_like, checked_blocks, require
from hatebm.ops.noise import Purpose


class Noise:
    """Standard normals of each step and block: those that ``given`` returns, or functions of (seed, chain, step)."""

    def __init__(
        self, given: Callable[[int], Any] | None, seed: int | Tensor = 0, chain_ids: Tensor | None = None
    ) -> None:
        self.given, self.seed, self.chain_ids = given, seed, chain_ids

    def at(self, t: int, state: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The given normals of step t, or None where the step draws its own."""
        if self.given is None:
            return [None] * len(state)
        drawn = self.given(t)
        noise = checked_blocks("langevin", "noise", drawn, len(state))
        for eps, x in zip(noise, state, strict=True):
            require(eps is not None, "langevin", "noise", "standard normals for each block", eps, TypeError)
            check_like("langevin", "noise", eps, x, (x.dtype,))
        return noise

    def place(self, k: int) -> dict[str, Any]:
        """Where the steps of block k draw."""
        return {"seed": self.seed, "block": k, "purpose": Purpose.LANGEVIN, "chain_ids": self.chain_ids}
