"""The retrofit's deterministic autoencoder: an image to a code on a sphere, and back."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.errors import UsageError
from hatebm.nets.energy import energy_blocks
from hatebm.nets.generator import GeneratorBlock
from hatebm.nets.layers import Affine, conv3, init_glorot
from hatebm.ops.checks import require


class Encoder(nn.Module):
    """Code of an image, `I: (n, channels, size, size) -> (n, 1, code_side, code_side)`, on a sphere.

    One residual block of the energy per entry of `widths`: the stem keeps the size, the next
    `log2(size / code_side)` blocks halve it; then relu, conv3 to one channel and `to_sphere`. Source: official code of
    Hat EBM (arXiv 2210.16486), whose network is `widths=(256,) * 4` from 32 pixels to a code of side 16.

    Raises UsageError when the sizes do not fit.
    """

    def __init__(self, size: int, channels: int, code_side: int, widths: Sequence[int]):
        super().__init__()
        halvings = octaves("Encoder", size, code_side, widths)
        self.blocks = energy_blocks(channels, widths, pooled=range(1, 1 + halvings))
        self.conv = conv3(widths[-1], 1)
        init_glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        return to_sphere(self.conv(F.relu(self.blocks(x))))


class Decoder(nn.Module):
    """Image of a code, `G: (n, 1, code_side, code_side) -> (n, channels, size, size)`, within +-output_scale.

    One residual block of the generator per entry of `widths`: the stem keeps the side, the next
    `log2(size / code_side)` blocks double it; `affine, relu, conv3, output_scale * tanh` ends it. Source: official code
    of Hat EBM (arXiv 2210.16486), whose network is `widths=(256,) * 4` from a code of side 16 to 32 pixels.

    Raises UsageError when the sizes do not fit.
    """

    def __init__(self, size: int, channels: int, code_side: int, widths: Sequence[int], output_scale: float = 2.0):
        super().__init__()
        doubled = range(1, 1 + octaves("Decoder", size, code_side, widths))
        self.latent_shape = (1, code_side, code_side)
        self.output_scale = output_scale
        ends = enumerate(pairwise((1, *widths)))
        self.blocks = nn.Sequential(*(GeneratorBlock(a, b, doubles=i in doubled, stem=i == 0) for i, (a, b) in ends))
        self.affine = Affine(widths[-1])
        self.conv = conv3(widths[-1], channels)
        init_glorot(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.output_scale * torch.tanh(self.conv(F.relu(self.affine(self.blocks(z)))))


def to_sphere(x: Tensor) -> Tensor:
    """`x sqrt(d) / (|x| + 1e-6)` of each sample, d its number of elements: codes as far out as those of N(0, I)."""
    norm = torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), keepdim=True)
    return x * (x[0].numel() ** 0.5 / (norm + 1e-6))


def octaves(op: str, size: int, code_side: int, widths: Sequence[int]) -> int:
    """`log2(size / code_side)`; raises UsageError in the name of `op` unless the blocks after the stem can give it."""
    require(len(widths) > 0, op, "widths", "at least one width", widths, UsageError)
    sides = [size // 2**i for i in range(len(widths)) if size > 0 and size % 2**i == 0]
    wanted = f"one of {sides}, size = {size} halved at most once per width after the first"
    require(code_side in sides, op, "code_side", wanted, code_side, UsageError)
    return sides.index(code_side)
