"""The generator G: a residual network from a latent vector to an image."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.errors import UsageError
from hatebm.nets.layers import Affine, init_glorot, upsample


class GeneratorBlock(nn.Module):
    """Residual block `affine, relu, upsample, conv3, affine, relu, conv3` beside `conv1, upsample`.

    Bilinear weights sum to 1, so a 1x1 convolution commutes exactly with the upsampling and runs at the low resolution.
    """

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.affine1 = Affine(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.affine2 = Affine(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(upsample(F.relu(self.affine1(x))))
        return self.conv2(F.relu(self.affine2(h))) + upsample(self.shortcut(x))


class ResidualGenerator(nn.Module):
    """Image of a latent vector, `G: (n, latent_dim) -> (n, channels, size, size)`, within +-output_scale.

    A dense layer makes `widths[0]` channels, each further width is a block that doubles the side, and
    `affine, relu, conv3, output_scale * tanh` ends it. Source: official code of Hat EBM (arXiv 2210.16486), whose
    generators all begin at 4x4: `widths=(256,) * 4` at 32 pixels, `(1024, 512, 256, 128, 64)` at 64 and
    `(1024, 1024, 512, 256, 128, 64)` at 128.
    An output scale of 2 keeps data in [-1, 1] away from the saturation of tanh.

    Raises UsageError when `size` is not a multiple of 2 to the number of blocks.
    """

    def __init__(self, size: int, channels: int, latent_dim: int, widths: Sequence[int], output_scale: float = 2.0):
        super().__init__()
        doublings = len(widths) - 1
        if size % 2**doublings:
            raise UsageError(
                f"ResidualGenerator: size must be a multiple of {2**doublings} (one doubling per width "
                f"after the first), got {size}"
            )
        self.side = size // 2**doublings
        self.output_scale = output_scale
        self.dense = nn.Linear(latent_dim, widths[0] * self.side**2)
        self.blocks = nn.Sequential(*(GeneratorBlock(a, b) for a, b in pairwise(widths)))
        self.affine = Affine(widths[-1])
        self.conv = nn.Conv2d(widths[-1], channels, 3, padding=1)
        init_glorot(self)

    def forward(self, z: Tensor) -> Tensor:
        h = self.blocks(self.dense(z).unflatten(1, (-1, self.side, self.side)))
        return self.output_scale * torch.tanh(self.conv(F.relu(self.affine(h))))
