"""The energy networks of IGEBM as people write them in plain torch: weights normalised at each call, pools last.

Source: Du and Mordatch, "Implicit generation and modeling with energy-based models" (2019), arXiv 1903.08689, and the
code published with it.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"leaky": lambda x: F.leaky_relu(x, 0.2), "swish": F.silu}
MADE = {"dtype": torch.float32, "device": "cpu"}


class Normalised(nn.Module):
    """A weight divided by its largest singular value, or by 1 where that is larger and it is capped."""

    def __init__(self, *shape: int, capped: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, **MADE))
        self.register_buffer("u", F.normalize(torch.randn(shape[0], **MADE), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(self.weight[0].numel(), **MADE), dim=0))
        self.capped = capped
        self.held: Tensor | None = None  # what a loop keeps that normalises once

    def forward(self) -> Tensor:
        if self.held is not None:
            return self.held
        sigma = torch.dot(self.u, self.weight.flatten(1) @ self.v)
        return self.weight / (sigma.clamp(min=1) if self.capped else sigma)

    @torch.no_grad()
    def iterate(self) -> None:
        """One power iteration."""
        matrix = self.weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0, eps=1e-20))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=1e-20))


class Conv(Normalised):
    """A convolution with such a weight, padded by 1."""

    def __init__(self, width_in: int, width: int, kernel: int = 3, stride: int = 1, **how: bool) -> None:
        super().__init__(width, width_in, kernel, kernel, **how)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, super().forward(), stride=self.stride, padding=1)


class Dense(Normalised):
    """A dense layer with such a weight, and a bias."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(width, width_in)
        self.bias = nn.Parameter(torch.zeros(width, **MADE))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, super().forward(), self.bias)


class OfClass(nn.Module):
    """A number for each channel, by a one-hot class."""

    def __init__(self, classes: int, width: int, start: float) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.full((classes, width), start, **MADE))

    def forward(self, one_hot: Tensor) -> Tensor:
        return (one_hot @ self.values)[:, :, None, None]


class PublishedBlock(nn.Module):
    """Residual block with class biases before its convolutions and a class gain behind them, then the pool."""

    def __init__(self, width_in: int, width: int, classes: int, pool: bool, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.bias1, self.bias2 = OfClass(classes, width_in, 0.0), OfClass(classes, width, 0.0)
        self.conv1, self.conv2 = Conv(width_in, width), Conv(width, width, capped=True)
        self.gain = OfClass(classes, width, 1.0)
        self.shortcut = Conv(width_in, width) if width_in != width else nn.Identity()
        self.pool, self.act = pool, act

    def forward(self, x: Tensor, one_hot: Tensor) -> Tensor:
        h = self.act(self.conv1(x + self.bias1(one_hot)))
        h = self.conv2(h + self.bias2(one_hot)) * self.gain(one_hot) + self.shortcut(x)
        return self.act(F.avg_pool2d(h, 2) if self.pool else h)


class PublishedResNet(nn.Module):
    """`hatebm.nets.SpectralResNet` in the published order, after a stem of `widths[0]`; it takes that one's weights."""

    def __init__(
        self, channels: int, widths: Sequence[int], depths: Sequence[int], classes: int, activation: str
    ) -> None:
        super().__init__()
        act, self.classes = ACTIVATIONS[activation], classes
        self.stem, self.end = Conv(channels, widths[0]), F.silu if activation == "swish" else F.relu
        self.blocks = nn.ModuleList()
        for (before, width), depth in zip(pairwise(widths), depths, strict=True):
            ends = [(before, width), *[(width, width)] * (depth - 1)]
            self.blocks += [PublishedBlock(a, b, classes, i == 0, act) for i, (a, b) in enumerate(ends)]
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        one_hot, h = F.one_hot(labels, self.classes).float(), self.stem(x)
        for block in self.blocks:
            h = block(h, one_hot)
        return self.head(self.end(h).sum((2, 3))).squeeze(1)


class PublishedConvNet(nn.Module):
    """`hatebm.nets.SpectralConvNet` for images whose side halves evenly; it takes that one's weights."""

    def __init__(
        self, size: int, channels: int, widths: Sequence[int], hidden: int, classes: int, activation: str
    ) -> None:
        super().__init__()
        self.act, self.classes, ends = ACTIVATIONS[activation], classes, list(pairwise((channels, *widths)))
        self.convs = nn.ModuleList(Conv(a, b, 4 if i else 3, 2 if i else 1) for i, (a, b) in enumerate(ends))
        self.biases = nn.ModuleList(OfClass(classes, a, 0.0) for a, _ in ends)
        self.gains = nn.ModuleList(OfClass(classes, b, 1.0) for _, b in ends)
        self.dense = Dense(widths[-1] * (size >> len(widths) - 1) ** 2, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, self.classes).float()
        for conv, bias, gain in zip(self.convs, self.biases, self.gains, strict=True):
            x = self.act(conv(x + bias(one_hot)) * gain(one_hot))
        return self.head(self.act(self.dense(x.flatten(1)))).squeeze(1)


def normalised_in(net: nn.Module) -> list[Normalised]:
    """All normalised layers of a network."""
    return [layer for layer in net.modules() if isinstance(layer, Normalised)]


@torch.no_grad()
def hold(net: nn.Module) -> None:
    """Normalise all weights once, until they are let go."""
    for layer in normalised_in(net):
        layer.held = Normalised.forward(layer)


def let_go(net: nn.Module) -> None:
    """Normalise at each call again."""
    for layer in normalised_in(net):
        layer.held = None
