"""Dropout in an energy that chains walk on: half of the units in the middle of each residual block, drawn by counter.

Unit e of block b is kept at step t of chain c where bit e mod 32 of word e // 32 of the noise contract is 1, of which
seed, step, chain and block are a function: a chain meets the same masks in any batch and after a restart. Units are
counted row by row, the channels of a place together.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hatebm.nets.igebm import SpectralResNet
from hatebm.ops.noise import Purpose, words

WORD = 32
Units = Mapping[str, tuple[int, int, int]]  # name -> (width, h, w)


class Use(IntEnum):
    """What masks are for; each has blocks of the noise of its own."""

    CHAIN = 0
    DATA = 1
    SAMPLES = 2


def masks(
    units: Units,
    n: int,
    *,
    use: Use,
    seed: int,
    step: int,
    chain_ids: Tensor | Sequence[int] | None = None,
    device: torch.device,
) -> dict[str, Tensor]:
    """For n chains, which units stay: name -> (n, width, h, w) float32, 2 with probability 1/2, else 0."""
    place = {"seed": seed, "step": step, "chain_ids": chain_ids, "device": device}
    return {name: _mask(n, *shape, block=len(Use) * b + use, **place) for b, (name, shape) in enumerate(units.items())}


def in_a_chain(energy: SpectralResNet, n: int, given: dict[str, Tensor], seed: int) -> Callable[[int], dict]:
    """The keyword arguments of E as a function of the step: those given, and masks for n chains."""
    device = energy.head.weight.device
    return lambda step: given | masks(energy.units, n, use=Use.CHAIN, seed=seed, step=step, device=device)


def in_an_update(energy: SpectralResNet, n: int, *, seed: int, iteration: int) -> dict[str, Tensor]:
    """Masks for n images of the data, then n samples, in an iteration: name -> (2 n, width, h, w)."""
    place = {"seed": seed, "step": iteration, "device": energy.head.weight.device}
    data, samples = (masks(energy.units, n, use=use, **place) for use in (Use.DATA, Use.SAMPLES))
    return {name: torch.cat((data[name], samples[name])) for name in energy.units}


def _mask(n: int, width: int, height: int, along: int, **place: Any) -> Tensor:
    """One block's mask, in channels_last order."""
    count = width * height * along
    drawn = words((n, -(-count // WORD)), purpose=Purpose.DROPOUT, **place)
    in_bytes = drawn.int().view(torch.uint8)
    byte = torch.arange(256, dtype=torch.uint8, device=drawn.device)
    bits = byte[:, None] >> torch.arange(8, dtype=torch.uint8, device=drawn.device) & 1
    kept = F.embedding(in_bytes.int(), 2 * bits.float()).flatten(1)[:, :count]
    return kept.view(n, height, along, width).permute(0, 3, 1, 2)
