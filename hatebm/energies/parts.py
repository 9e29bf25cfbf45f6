"""Energies told in parts: a dict of (n,) tensors, whose sum in the dict's order is the energy."""

import functools
from typing import Any

import torch
from torch import Tensor

from hatebm.ops.checks import require

Parts = dict[str, Tensor]


def summed(op: str, argument: str, found: Any, n: int) -> tuple[Any, Parts]:
    """The energy of n chains and its parts; what is no dict comes back as it is, without parts.

    Raises:
        ValueError: a dict of anything else than a tensor (n,), or (n, 1), for each part.
    """
    if not isinstance(found, dict):
        return found, {}
    require(len(found) > 0, op, argument, f"a tensor, or a dict of parts of shape ({n},)", found)
    for name, part in found.items():
        fits = isinstance(part, Tensor) and part.shape in ((n,), (n, 1))
        require(fits, op, f"{argument}[{name!r}]", f"of shape ({n},), a part of each energy", part)
    parts = {name: part.reshape(n) for name, part in found.items()}
    return functools.reduce(torch.add, parts.values()), parts
