"""A few chains on copies of the weights: in float64, where a rewrite is right or wrong beyond any rounding."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.dynamics.gradient import energy_and_gradient
from hatebm.engine.prepare.arguments import like
from hatebm.engine.prepare.tracing import NothingDrawn
from hatebm.engine.prepare.twin import twin

CHAINS = 3  # as a whole, and as a part of two and a part of one
TOLERANCE = 1e-5  # relative, L2, in float64
COARSE = 1e-2  # in float32, where a unit at its kink may fall to either side
Outcome = tuple[Tensor, list[Tensor]]


def probe_state(state: Sequence[Tensor]) -> list[Tensor]:
    """The first chains in float64, moved by a tenth of the spread so that no two are alike."""
    generator = torch.Generator("cpu").manual_seed(0)
    blocks = []
    for x in state:
        first = x[:CHAINS].detach().double()
        spread = float(x.detach().double().std()) if x.numel() > 1 else 0.0
        noise = torch.randn(first.shape, generator=generator, dtype=torch.float64, device="cpu").to(x.device)
        blocks.append(first + 0.1 * (spread or 1.0) * noise)
    return blocks


def outcome(
    module: nn.Module, function: Callable[..., Tensor], state: Sequence[Tensor], given: dict[str, Any]
) -> Outcome:
    r"""Energies and gradients of function(module, \*state, \*\*given), all that is beside the state in its type.

    Images (n, c, h, w) in place of energies stand for their products with fixed normals.

    Raises:
        Refused: a function that draws random numbers, since another order of evaluation would draw others.
    """
    own, given = copied(module, state[0].dtype), like(given, state[0].dtype)

    def energies(*blocks: Tensor) -> Tensor:
        found = function(own, *blocks, **given)
        if isinstance(found, dict) or found.dim() != 4:
            return found
        generator = torch.Generator("cpu").manual_seed(1)
        normals = torch.randn(found.shape[1:], generator=generator, dtype=torch.float64, device="cpu").to(found)
        return (found * normals).flatten(1).sum(1)

    with NothingDrawn():
        return energy_and_gradient(energies, state, range(len(state)), {})


def same(one: Outcome, other: Outcome, tolerance: float = TOLERANCE) -> bool:
    """Whether two outcomes agree; NaN agrees with nothing."""
    pairs = [(one[0], other[0]), *zip(one[1], other[1], strict=True)]
    return all(a.shape == b.shape and bool((a - b).norm() <= tolerance * b.norm()) for a, b in pairs)


def joined(parts: Sequence[Outcome], sizes: Sequence[int]) -> Outcome | None:
    """The outcome of a batch from those of its parts; None where a part has no energy for each chain."""
    energies = [e.reshape(n) if e.numel() == n else None for (e, _), n in zip(parts, sizes, strict=True)]
    if any(e is None for e in energies):
        return None
    return torch.cat(energies), [torch.cat(grads) for grads in zip(*(g for _, g in parts), strict=True)]


def copied(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module on copies of its tensors, the floating-point ones in another type."""

    def copy(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    return twin(module, copy)
