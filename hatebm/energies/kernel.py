"""Energies as their kernels take them."""

from typing import NamedTuple

from torch import Tensor

LONGEST = 1024  # elements of a chain that whole runs take: beyond it a state leaves the first caches
MOST_COMPONENTS = 8192  # of a mixture on a GPU: a number each lies in shared memory


class Formula(NamedTuple):
    """An energy of d elements a chain, float32 tensors on the chains' device; see csrc/formulas/whole.h."""

    kind: str  # "diagonal", "full", "mixture", "double_well" or "funnel"
    d: int
    where: Tensor  # the mean (d,), the means (components, d), or the numbers of an energy that has but few
    weight: Tensor | None = None  # (d,), (d, d) or (3, components)
    components: int = 1
