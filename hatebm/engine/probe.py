"""A few chains on copies of the weights: in float64, where a rewrite is right or wrong beyond any rounding."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.gradient import energy_and_gradient

CHAINS = 3  # as a whole, and as a part of two and a part of one
TOLERANCE = 1e-5  # relative, L2, in float64
COARSE = 1e-2  # in float32, where a unit at its kink may fall to either side
Outcome = tuple[Tensor, list[Tensor]]


def probe_state(state: Sequence[Tensor]) -> list[Tensor]:
    """The first chains in float64, moved by a tenth of the spread so that no two are alike."""
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for x in state:
        first = x[:CHAINS].detach().double()
        spread = float(x.detach().double().std()) if x.numel() > 1 else 0.0
        noise = torch.randn(first.shape, generator=generator, dtype=torch.float64).to(x.device)
        blocks.append(first + 0.1 * (spread or 1.0) * noise)
    return blocks


def outcome(module: nn.Module, function: Callable[..., Tensor], state: Sequence[Tensor]) -> Outcome:
    r"""Energies and gradients of function(module, \*state) with the module's tensors copied to the state's type.

    Images (n, c, h, w) in place of energies stand for their products with fixed normals.
    """

    def energies(*blocks: Tensor) -> Tensor:
        found = call(function, *blocks)
        if found.dim() != 4:
            return found
        generator = torch.Generator().manual_seed(1)
        normals = torch.randn(found.shape[1:], generator=generator, dtype=torch.float64).to(found)
        return (found * normals).flatten(1).sum(1)

    with on_copies(module, state[0].dtype) as call:
        return energy_and_gradient(energies, state, range(len(state)), {})


@contextmanager
def on_copies(module: nn.Module, dtype: torch.dtype) -> Iterator[Callable[..., Any]]:
    r"""Yields call(function, \*args), which is function(module, \*args) while the module's tensors are copies.

    Random numbers start alike for each call, and the generators are put back at the end.
    """
    named = (*module.named_parameters(), *module.named_buffers())
    cuda = sorted({tensor.device for _, tensor in named if tensor.device.type == "cuda"}, key=str)
    copies = {f"module.{name}": _copied(tensor, dtype) for name, tensor in named}

    def call(function: Callable[..., Any], *args: Any) -> Any:
        torch.manual_seed(0)
        fresh = {name: tensor.clone() for name, tensor in copies.items()}
        return torch.func.functional_call(_Called(module, function), fresh, args)

    with torch.random.fork_rng(devices=cuda):
        yield call


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


def _copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)


class _Called(nn.Module):
    """A function of a module, as a module."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *args: Any) -> Any:
        r"""function(module, \*args)."""
        return self.function(self.module, *args)
