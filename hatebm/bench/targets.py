"""The energies that benchmark chains run on, as people write them: plain torch modules and functions."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10


class PublishedBlock(nn.Module):
    """Residual block of an SN-GAN discriminator in the published order: 3x3 convolutions, then the average pool."""

    def __init__(self, width_in: int, width: int, *, pool: bool, stem: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width_in, width, 1) if pool or width_in != width else nn.Identity()
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(2) if pool else nn.Identity()
        self.stem = stem

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.relu(self.conv1(x if self.stem else self.relu(x))))
        beside = self.shortcut(self.pool(x)) if self.stem else self.pool(self.shortcut(x))
        return self.pool(h) + beside


class PublishedEnergy(nn.Module):
    """The network of `hatebm.nets.ResidualEnergy` in the published order; it takes that one's weights."""

    def __init__(self, channels: int, widths: tuple[int, ...], pools: int) -> None:
        super().__init__()
        ends = enumerate(pairwise((channels, *widths)))
        self.blocks = nn.Sequential(*(PublishedBlock(a, b, pool=i < pools, stem=i == 0) for i, (a, b) in ends))
        self.head = nn.Linear(widths[-1], 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(x)).mean((2, 3))).squeeze(1)


class PublishedGeneratorBlock(nn.Module):
    """Residual block of a generator in the published order: upsample, then convolve, beside the path and on it."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.affine1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.affine2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(width_in, width, 1)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.upsample(F.relu(self.affine1(x))))
        return self.conv2(F.relu(self.affine2(h))) + self.shortcut(self.upsample(x))


class PublishedGenerator(nn.Module):
    """The network of `hatebm.nets.ResidualGenerator` in the published order, with batch norms; in eval mode."""

    def __init__(self, size: int, channels: int, latent_dim: int, widths: tuple[int, ...], output_scale: float) -> None:
        super().__init__()
        self.side, self.output_scale = size // 2 ** (len(widths) - 1), output_scale
        self.dense = nn.Linear(latent_dim, widths[0] * self.side**2)
        self.blocks = nn.Sequential(*(PublishedGeneratorBlock(a, b) for a, b in pairwise(widths)))
        self.affine = nn.BatchNorm2d(widths[-1])
        self.conv = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        h = self.blocks(self.dense(z).unflatten(1, (-1, self.side, self.side)))
        return self.output_scale * torch.tanh(self.conv(F.relu(self.affine(h))))


def small_conv() -> nn.Module:
    """Three convolutions on grey images of any side from 8 on."""
    layers = (nn.Conv2d(1, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.SiLU())
    last = (nn.Conv2d(64, 64, 4, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1))
    return nn.Sequential(*layers, *last, nn.Flatten(0))


def mlp(d: int = 100, width: int = 200) -> nn.Module:
    """Two hidden layers, as energies of latents have."""
    return nn.Sequential(
        nn.Linear(d, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1), nn.Flatten(0)
    )


def last_layer(net: nn.Module) -> nn.Linear:
    """The layer that makes an energy out of features."""
    return net.head if isinstance(net, PublishedEnergy) else net[-2]


class Conditional(nn.Module):
    """The features and the last layer of an energy, and a projection of the features on an embedding of the class.

    Source: Miyato and Koyama, "cGANs with projection discriminator" (2018), arXiv 1802.05637.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        pooled = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.features = nn.Sequential(net.blocks, *pooled) if isinstance(net, PublishedEnergy) else net[:-2]
        self.head = last_layer(net)
        self.classes = nn.Embedding(CLASSES, self.head.in_features)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.features(x)
        return self.head(h).squeeze(1) + (self.classes(y) * h).sum(1)


class Labelled(nn.Module):
    """The energy of states of one class, a tensor without dimensions."""

    def __init__(self, net: Conditional, y: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("y", y)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, self.y)


def double_well(x: Tensor) -> Tensor:
    """E = sum (x^2 - 1)^2."""
    return ((x * x - 1) ** 2).sum(1)


class Gaussian(nn.Module):
    """E = |x / sigma|^2 / 2, standard deviations log-spaced from 0.3 to 1."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.logspace(math.log10(0.3), 0, d, dtype=torch.float32, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.sigma).square().sum(1) / 2
