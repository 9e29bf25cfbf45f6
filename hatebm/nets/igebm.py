"""The energy networks of IGEBM: spectrally normalised, unnormalised otherwise, with gains and biases of a class.

Source: Du and Mordatch, "Implicit generation and modeling with energy-based models" (2019), arXiv 1903.08689, and the
code published with it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hatebm.errors import UsageError
from hatebm.nets.layers import dense
from hatebm.nets.spectral import SpectralConv, SpectralLinear
from hatebm.ops.checks import require

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"leaky": partial(nn.LeakyReLU, 0.2), "swish": nn.SiLU}


class OfClass(nn.Module):
    """Numbers of each class, one a channel: labels (n,) to (n, width, 1, 1); without classes (1, width, 1, 1)."""

    def __init__(self, classes: int, width: int, start: float):
        super().__init__()
        made = {"dtype": torch.float32, "device": torch.get_default_device()}
        self.values = nn.Parameter(torch.full((max(classes, 1), width), start, **made))

    def forward(self, labels: Tensor | None) -> Tensor:
        rows = self.values if labels is None else F.embedding(labels, self.values)
        return rows[:, :, None, None]


class SpectralBlock(nn.Module):
    """Residual block `conv(act(conv(x + b1)) + b2) * g`, beside the identity or a convolution, then pool and act.

    b1, b2 and g are of a class. The second convolution starts at nearly 0 and its norm is only capped, so that a block
    starts as its shortcut. A pool commutes with gain and sum, so each term is pooled, where that costs less.
    """

    def __init__(self, width_in: int, width: int, classes: int, activation: str, *, halves: bool):
        super().__init__()
        self.bias1, self.bias2 = OfClass(classes, width_in, 0.0), OfClass(classes, width, 0.0)
        self.conv1 = SpectralConv(width_in, width)
        self.conv2 = SpectralConv(width, width, std=1e-10, capped=True)
        self.gain = OfClass(classes, width, 1.0)
        self.shortcut = SpectralConv(width_in, width) if width_in != width else nn.Identity()
        self.act, self.halves = ACTIVATIONS[activation](), halves

    def forward(self, x: Tensor, labels: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        """x: (n, width_in, h, w); labels: (n,); kept: (n, width, h, w), what dropout leaves, 0 or 2."""
        h = self.conv1(x + self.bias1(labels))
        h = h if kept is None else h * kept
        h, gain = self.act(h) + self.bias2(labels), self.gain(labels)
        if not self.halves:
            return self.act(self.conv2(h) * gain + self.shortcut(x))
        beside = self.shortcut.pooled(x) if isinstance(self.shortcut, SpectralConv) else F.avg_pool2d(x, 2)
        return self.act(self.conv2.pooled(h) * gain + beside)


class SpectralResNet(nn.Module):
    """Energy of an image, `E: (n, channels, size, size) -> (n,)`, low = likely; of a class where it has any.

    A convolution to `stem` channels (`widths[0]` where none are said), then stages of `depths[i]` residual blocks of
    `widths[i]`, the first of which halves the image; relu (swish where that is the activation), the sum over space and
    a dense layer.

    units: name -> (width, h, w), the units in the middle of each block, of which dropout may leave some.

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
        stem: int | None = None,
    ):
        super().__init__()
        op, times = type(self).__name__, len(widths)
        require(len(depths) == times > 0, op, "depths", f"a number of blocks for each of {widths}", depths, UsageError)
        halves = size > 0 and size % 2**times == 0
        require(halves, op, "size", f"a multiple of {2**times} (one halving a stage)", size, UsageError)
        self.classes, width_in = classes, widths[0] if stem is None else stem
        self.stem, self.blocks = SpectralConv(channels, width_in), nn.ModuleList()
        self.units: dict[str, tuple[int, int, int]] = {}
        for width, depth in zip(widths, depths, strict=True):
            for i in range(depth):
                self.units[f"kept{len(self.blocks)}"] = (width, size, size)
                self.blocks.append(SpectralBlock(width_in, width, classes, activation, halves=i == 0))
                width_in, size = width, size // 2 if i == 0 else size
        self.head = dense(width_in, 1)
        self.end = nn.SiLU() if activation == "swish" else nn.ReLU()

    def forward(self, x: Tensor, labels: Tensor | None = None, **kept: Tensor) -> Tensor:
        """x: (n, channels, size, size); labels: int64 (n,); kept: for each of `units` (n, width, h, w), 0 or 2."""
        op, all_or_none = type(self).__name__, not kept or kept.keys() == self.units.keys()
        check_labels(op, labels, self.classes, x)
        require(all_or_none, op, "kept", f"masks of {', '.join(self.units)} or none", [*kept], TypeError)
        h = self.stem(x)
        for block, name in zip(self.blocks, self.units, strict=True):
            h = block(h, labels, kept.get(name))
        return self.head(self.end(h).sum((2, 3))).squeeze(1)


class SpectralConvNet(nn.Module):
    """Energy of a small image, `E: (n, channels, size, size) -> (n,)`, low = likely; of a class where it has any.

    A 3x3 convolution to `widths[0]`, then one of 4x4 that halves the side, rounded up, for each further width; each
    takes its input plus a bias and ends in a gain, both of a class, and the activation. A dense layer to `hidden` and
    one to the energy. Of the published ones dSprites' has the biases but one gain, on the fourth convolution, and
    MNIST's has neither.
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
        self.classes, self.act = classes, ACTIVATIONS[activation]()
        ends = list(pairwise((channels, *widths)))
        self.convs = nn.ModuleList([SpectralConv(channels, widths[0])])
        for a, b in ends[1:]:
            self.convs.append(SpectralConv(a, b, kernel=4, stride=2, odd=size % 2 == 1))
            size = (size + 1) // 2
        self.biases = nn.ModuleList(OfClass(classes, a, 0.0) for a, _ in ends)
        self.gains = nn.ModuleList(OfClass(classes, b, 1.0) for _, b in ends)
        self.dense = SpectralLinear(widths[-1] * size**2, hidden)
        self.head = dense(hidden, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """x: (n, channels, size, size); labels: int64 (n,)."""
        check_labels(type(self).__name__, labels, self.classes, x)
        for conv, bias, gain in zip(self.convs, self.biases, self.gains, strict=True):
            x = self.act(conv(x + bias(labels)) * gain(labels))
        return self.head(self.act(self.dense(x.flatten(1)))).squeeze(1)


def check_labels(op: str, labels: Tensor | None, classes: int, x: Tensor) -> None:
    """Refuse labels that are missing, or that stand for no class; the numbers in them are not looked at."""
    if any(isinstance(given, fx.Proxy) for given in (x, labels)):  # the engine follows it, then calls it with tensors
        return
    whole = isinstance(labels, Tensor) and labels.dtype == torch.int64
    fits = whole and labels.shape == x.shape[:1] if classes else labels is None
    wanted = f"int64 (n,), a class below {classes} for each image" if classes else "None, there are no classes"
    require(fits, op, "labels", wanted, labels, TypeError)
