"""Lazy modules, which learn their sizes when they are first called."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hatebm.dynamics.gradient import Potential
from hatebm.energies.modes import in_mode


def settle(parts: Sequence[nn.Module], potential: Potential, t: int, state: Sequence[Tensor]) -> None:
    """Make the first call of lazy modules where a loop would, in eval mode: it moves nothing but their sizes."""
    if torch.compiler.is_compiling() or not _waits(parts):
        return
    with in_mode(parts, "eval"), torch.no_grad():
        potential.gradient(t, state, [])
        if potential.energy is not None and _waits(parts):  # the gradient was another function's
            potential.energies(t, state)


def _waits(parts: Sequence[nn.Module]) -> bool:
    held = (v for part in parts for v in (*part._parameters.values(), *part._buffers.values()) if v is not None)
    return any(map(is_lazy, held))
