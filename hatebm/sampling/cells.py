"""A box of values in 256 cells: floats as bytes, a quarter of the size, without moving a mean."""

import math
from typing import Any

import torch
from torch import Tensor

from hatebm.ops.noise import words

CELLS = 256
DITHER_BITS = 15  # (k + (j + 1/2) / 2^15) / 256 is an odd multiple of 2^-24: float32 holds it exactly

Box = tuple[float, float]


def to_cells(x: Tensor, box: Box) -> Tensor:
    """The cell of each value, uint8: floor(256 (x - low) / (high - low)), clipped to 0..255."""
    low, high = box
    return ((x - low) * (CELLS / (high - low))).clamp_(0, CELLS - 1).to(torch.uint8)  # the cast takes the floor


def from_cells(cells: Tensor, box: Box, **place: Any) -> Tensor:
    r"""A random value in each cell: low + (high - low) (k + u) / 256, u = (j + 1/2) / 2^15, j uniform in 0..2^15 - 1.

    Args:
        cells: (n, \*sample), uint8.
        box: (low, high); with (0, 1) and (-1, 1) nothing is rounded, and :func:`to_cells` gives the same cell again.
        place: where the numbers are drawn, arguments of :func:`hatebm.ops.noise.words`.
    """
    n, d = len(cells), math.prod(cells.shape[1:])
    halves = words((n, (d + 1) // 2), **place).int().view(torch.int16)  # two numbers from each word
    j = (halves & (1 << DITHER_BITS) - 1)[:, :d].reshape(cells.shape)
    return in_box(j.float().add_(0.5).mul_(2.0**-DITHER_BITS).add_(cells).div_(CELLS), box)


def in_box(unit: Tensor, box: Box) -> Tensor:
    """Numbers from [0, 1] as numbers from the box, in place."""
    low, high = box
    return unit.mul_(high - low).add_(low).clamp_(low, high)
