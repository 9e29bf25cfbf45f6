"""The hat network H: a residual network without any normalisation, from an image to one scalar energy."""

from collections.abc import Container, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.errors import UsageError
from hatebm.nets.layers import conv1, conv3, conv_then_pool, dense, init_glorot
from hatebm.ops.checks import require


class EnergyBlock(nn.Module):
    """Residual block `[relu,] conv3, relu, conv3[, pool]` beside `[pool,] conv1`; the stem has no leading relu.

    Without a pool and with equal widths the shortcut is the identity. A 1x1 convolution commutes exactly with average
    pooling, so the shortcut always pools first.
    """

    def __init__(self, width_in: int, width: int, *, pool: bool, stem: bool = False):
        super().__init__()
        self.conv1 = conv3(width_in, width)
        self.conv2 = conv3(width, width)
        self.shortcut = conv1(width_in, width) if pool or width_in != width else nn.Identity()
        self.pool = pool
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x if self.stem else F.relu(x)))
        if self.pool:
            return conv_then_pool(self.conv2, h) + self.shortcut(F.avg_pool2d(x, 2))
        return self.conv2(h) + self.shortcut(x)


class ResidualEnergy(nn.Module):
    """Scalar energy of an image, `H: (n, channels, size, size) -> (n,)`, low = likely.

    One residual block per entry of `widths`; the first `pools` of them halve the image. The head is relu, global
    average pool and a dense layer without bias. Source: official code of Hat EBM (arXiv 2210.16486), whose networks are
    `widths=(256,) * 4, pools=2` at 32 pixels, `(64, 128, 256, 512, 1024), 5` at 64 and
    `(64, 128, 256, 512, 1024, 1024), 5` at 128.

    Raises UsageError when the image cannot be halved `pools` times.
    """

    def __init__(self, size: int, channels: int, widths: Sequence[int], pools: int):
        super().__init__()
        check_halvings("ResidualEnergy", size, widths, pools)
        self.blocks = energy_blocks(channels, widths, pooled=range(pools))
        self.head = dense(widths[-1], 1, bias=False)
        init_glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(x)).mean((2, 3))).squeeze(1)


def energy_blocks(channels: int, widths: Sequence[int], pooled: Container[int]) -> nn.Sequential:
    """One block per width, the first of them a stem; the blocks whose numbers are in `pooled` halve the image."""
    ends = enumerate(pairwise((channels, *widths)))
    return nn.Sequential(*(EnergyBlock(a, b, pool=i in pooled, stem=i == 0) for i, (a, b) in ends))


def check_halvings(op: str, size: int, widths: Sequence[int], pools: int) -> None:
    """Raise UsageError in the name of `op` unless the first `pools` of the blocks can halve the image."""
    require(1 <= pools <= len(widths), op, "pools", f"1 to {len(widths)} (the number of widths)", pools, UsageError)
    halves = size > 0 and size % 2**pools == 0
    require(halves, op, "size", f"a multiple of 2**pools = {2**pools}", size, UsageError)
