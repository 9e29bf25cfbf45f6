"""The generator G: a residual network from a latent vector to an image."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.errors import UsageError
from hatebm.nets.layers import NORMS, Affine, Norm, conv1, conv3, dense, init_glorot, init_sngan, upsample
from hatebm.ops.checks import require


class GeneratorBlock(nn.Module):
    """Residual block `[norm, relu,] [upsample,] conv3, norm, relu, conv3` beside `conv1[, upsample]`.

    A stem has no leading norm and relu. Without upsampling and with equal widths the shortcut is the identity. Bilinear
    weights sum to 1, so a 1x1 convolution commutes exactly with the upsampling and runs at the low resolution.
    """

    def __init__(self, width_in: int, width: int, norm: Norm = Affine, *, doubles: bool = True, stem: bool = False):
        super().__init__()
        if not stem:
            self.affine1 = norm(width_in)
        self.conv1 = conv3(width_in, width)
        self.affine2 = norm(width)
        self.conv2 = conv3(width, width)
        self.shortcut = conv1(width_in, width) if doubles or width_in != width else nn.Identity()
        self.resize = upsample if doubles else nn.Identity()
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.stem else F.relu(self.affine1(x))
        h = self.conv1(self.resize(h))
        return self.conv2(F.relu(self.affine2(h))) + self.resize(self.shortcut(x))


class ResidualGenerator(nn.Module):
    """Image of a latent vector, `G: (n, latent_dim) -> (n, channels, size, size)`, within +-output_scale.

    A dense layer makes `widths[0]` channels, each further width is a block that doubles the side, and
    `norm, relu, conv3, output_scale * tanh` ends it. Source: official code of Hat EBM (arXiv 2210.16486), whose
    generators all begin at 4x4: `widths=(256,) * 4` at 32 pixels, `(1024, 512, 256, 128, 64)` at 64 and
    `(1024, 1024, 512, 256, 128, 64)` at 128.
    An output scale of 2 keeps data in [-1, 1] away from the saturation of tanh.

    Args:
        norm: `"affine"`, a scale and a shift per channel; or `"batch"`, batch norm with its statistics, as in an SN-GAN
            of the mimicry library, whose random start it then takes too.

    Raises UsageError when `size` is not a multiple of 2 to the number of blocks, or for another norm.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        latent_dim: int,
        widths: Sequence[int],
        output_scale: float = 2.0,
        norm: str = "affine",
    ):
        super().__init__()
        op, doublings = "ResidualGenerator", len(widths) - 1
        require(doublings >= 0, op, "widths", "at least one width", widths, UsageError)
        wanted = f"a multiple of {2**doublings} (one doubling per width after the first)"
        require(size > 0 and size % 2**doublings == 0, op, "size", wanted, size, UsageError)
        require(norm in NORMS, op, "norm", " or ".join(map(repr, NORMS)), norm, UsageError)
        self.latent_shape = (latent_dim,)
        self.side = size // 2**doublings
        self.output_scale = output_scale
        self.dense = dense(latent_dim, widths[0] * self.side**2)
        self.blocks = nn.Sequential(*(GeneratorBlock(a, b, NORMS[norm]) for a, b in pairwise(widths)))
        self.affine = NORMS[norm](widths[-1])
        self.conv = conv3(widths[-1], channels)
        if norm == "batch":
            init_sngan(self)
        else:
            init_glorot(self)

    def forward(self, z: Tensor) -> Tensor:
        h = self.blocks(self.dense(z).unflatten(1, (-1, self.side, self.side)))
        return self.output_scale * torch.tanh(self.conv(F.relu(self.affine(h))))
