"""The compiled energies: one look at all chains, and the steps of whole chains."""

from typing import NamedTuple

import torch
from torch import Tensor

from hatebm.native import _C, ADD, CLIP, MASK64
from hatebm.whole import Steps

KINDS = ("diagonal", "full", "mixture", "double_well", "funnel")
LONGEST = 1024  # elements of a chain that whole runs take: beyond it a state leaves the first caches


class Formula(NamedTuple):
    """An energy of d elements a chain as the kernel takes it, see csrc/whole.h."""

    kind: str
    d: int
    where: Tensor | None = None
    weight: Tensor | None = None
    components: int = 1
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0

    def numbers(self, reach: float = 0.0, first_reach: float | None = None) -> tuple:
        """What crosses: addresses and numbers. Energy and gradient are finite for |x| <= reach."""
        where, weight = (0 if v is None else v.data_ptr() for v in (self.where, self.weight))
        reaches = (reach, reach if first_reach is None else first_reach)
        return KINDS.index(self.kind), self.d, self.components, where, weight, self.a, self.b, self.c, *reaches


def look(formula: Formula, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The energies (n,) and the gradient (n, d) at rows, (n, d) float32."""
    rows = rows.contiguous()
    energies, gradient = rows.new_empty(len(rows)), torch.empty_like(rows)
    if rows.numel():
        out = (energies.data_ptr(), gradient.data_ptr())
        _C.look(formula.numbers(), rows.data_ptr(), len(rows), *out, torch.get_num_threads())
    else:
        energies.zero_()
    return energies, gradient


def advance_(formula: Formula, reach: tuple[float, ...], x: Tensor, steps: Steps) -> Tensor:
    """Take the steps in place; the first bad step of each chain."""
    rows = x.contiguous()
    first_bad = torch.empty(len(x), dtype=torch.int64)
    schedule = (steps.step_size, steps.noise_std, steps.inverse_temperature)
    _C.whole(
        formula.numbers(*reach),
        *(rows.data_ptr(), len(x), steps.n_steps, *(v.data_ptr() for v in schedule), steps.prior_precision),
        *(ADD[steps.add], CLIP[steps.clip], steps.clip_on == "update", steps.bound, steps.low, steps.high),
        *(steps.noise_at == "before", steps.clamp_noise, steps.seed & MASK64, steps.first_step),
        *(0 if v is None else v.data_ptr() for v in (steps.chain_ids, first_bad)),
        torch.get_num_threads(),
    )
    if rows is not x:
        x.copy_(rows)
    else:
        torch.autograd.graph.increment_version(x)
    return first_bad
