"""The energy networks of IGEBM: spectrally normalised, unnormalised otherwise, with gains and biases of a class.

Source: Du and Mordatch, "Implicit generation and modeling with energy-based models" (2019), arXiv 1903.08689, and the
code published with it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.errors import UsageError
from hatebm.nets.layers import dense
from hatebm.nets.spectral import SpectralConv, SpectralLinear
from hatebm.ops.checks import require

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky": partial(F.leaky_relu, negative_slope=0.2),
    "swish": F.silu,
}


class OfClass(nn.Module):
    """A vector of numbers for each class, read as (n, width, 1, 1); without classes there is one, (1, width, 1, 1)."""

    def __init__(self, classes: int, width: int, start: float):
        super().__init__()
        made = {"dtype": torch.float32, "device": torch.get_default_device()}
        self.values = nn.Parameter(torch.full((max(classes, 1), width), start, **made))

    def forward(self, labels: Tensor | None) -> Tensor:
        rows = self.values if labels is None else self.values[labels]
        return rows[:, :, None, None]


class SpectralBlock(nn.Module):
    """Residual block `conv(act(conv(x + b1)) + b2) * g`, beside the identity or a convolution, then pool and act.

    b1, b2 and g are of a class. The second convolution starts at nearly 0 and its norm is only capped, so that a block
    starts as its shortcut.
    """

    def __init__(self, width_in: int, width: int, classes: int, activation: str, *, halves: bool):
        super().__init__()
        self.bias1, self.bias2 = OfClass(classes, width_in, 0.0), OfClass(classes, width, 0.0)
        self.conv1 = SpectralConv(width_in, width)
        self.conv2 = SpectralConv(width, width, std=1e-10, capped=True)
        self.gain = OfClass(classes, width, 1.0)
        self.shortcut = SpectralConv(width_in, width) if width_in != width else nn.Identity()
        self.act, self.halves = ACTIVATIONS[activation], halves

    def forward(self, x: Tensor, labels: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        """x: (n, width_in, h, w); labels: (n,); kept: (n, width, h, w), what dropout leaves, 0 or 2."""
        h = self.conv1(x + self.bias1(labels))
        h = h if kept is None else h * kept
        h = self.conv2(self.act(h) + self.bias2(labels)) * self.gain(labels) + self.shortcut(x)
        return self.act(F.avg_pool2d(h, 2) if self.halves else h)


class SpectralResNet(nn.Module):
    """Energy of an image, `E: (n, channels, size, size) -> (n,)`, low = likely; of a class where it has any.

    A convolution to `widths[0]`, then stages of `depths[i]` residual blocks of `widths[i]`, the first of which halves
    the image; relu (swish where that is the activation), the sum over space and a dense layer.

    Raises UsageError when the image cannot be halved once a stage, or without a depth for each width.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        classes: int = 0,
        activation: str = "leaky",
    ):
        super().__init__()
        op, times = type(self).__name__, len(widths)
        require(len(depths) == times > 0, op, "depths", f"a number of blocks for each of {widths}", depths, UsageError)
        halves = size > 0 and size % 2**times == 0
        require(halves, op, "size", f"a multiple of {2**times} (one halving a stage)", size, UsageError)
        self.stem = SpectralConv(channels, widths[0])
        self.blocks = nn.ModuleList()
        for before, width, depth in zip((widths[0], *widths), widths, depths, strict=False):
            self.blocks += [
                SpectralBlock(width if i else before, width, classes, activation, halves=i == 0) for i in range(depth)
            ]
        self.head = dense(widths[-1], 1)
        self.end = F.silu if activation == "swish" else F.relu

    def forward(self, x: Tensor, labels: Tensor | None = None, kept: Sequence[Tensor] | None = None) -> Tensor:
        h = self.stem(x)
        for i, block in enumerate(self.blocks):
            h = block(h, labels, None if kept is None else kept[i])
        return self.head(self.end(h).sum((2, 3))).squeeze(1)


class SpectralConvNet(nn.Module):
    """Energy of a small image, `E: (n, channels, size, size) -> (n,)`, low = likely; of a class where it has any.

    A 3x3 convolution to `widths[0]`, then one of 4x4 that halves the side, rounded up, for each further width; each
    takes its input plus a bias and ends in a gain, both of a class, and the activation. A dense layer to `hidden` and
    one to the energy.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        widths: Sequence[int],
        hidden: int,
        classes: int = 0,
        activation: str = "leaky",
    ):
        super().__init__()
        self.act = ACTIVATIONS[activation]
        ends = list(pairwise((channels, *widths)))
        self.convs = nn.ModuleList(
            SpectralConv(a, b, kernel=4 if i else 3, stride=2 if i else 1) for i, (a, b) in enumerate(ends)
        )
        self.biases = nn.ModuleList(OfClass(classes, a, 0.0) for a, _ in ends)
        self.gains = nn.ModuleList(OfClass(classes, b, 1.0) for _, b in ends)
        for _ in widths[1:]:
            size = (size + 1) // 2
        self.dense = SpectralLinear(widths[-1] * size**2, hidden)
        self.head = dense(hidden, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        for conv, bias, gain in zip(self.convs, self.biases, self.gains, strict=True):
            x = self.act(conv(x + bias(labels)) * gain(labels))
        return self.head(self.act(self.dense(x.flatten(1)))).squeeze(1)
