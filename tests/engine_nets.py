"""Networks with something to rewrite, and how far a prepared one is from the network it was made of."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hatebm.dynamics.gradient import energy_and_gradient
from hatebm.engine.prepare import _cache, prepare

SCALE = 1.0
ROUNDING = 1e-5  # relative, L2
FOLDED, POOL_FIRST = "3x3 convolutions folded with their pool", "1x1 convolutions moved after their pool"


class Head(nn.Module):
    """Something of an image, then silu, a mean over pixels and a weighted sum: an energy."""

    def __init__(self, body, width=64):
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 1)

    def forward(self, x):
        return self.head(F.silu(self.body(x)).mean((2, 3))).squeeze(1)


class Block(nn.Module):
    """A residual block of an SN-GAN as it is written in public: pool(conv(...)) beside pool(conv1(x)), or their sum."""

    def __init__(self, channels, width, pool="each", inplace=False, wrap=lambda layer: layer):
        super().__init__()
        self.conv1 = wrap(nn.Conv2d(channels, width, 3, padding=1))
        self.conv2 = wrap(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = wrap(nn.Conv2d(channels, width, 1))
        self.act, self.pool = nn.SiLU(inplace), pool

    def forward(self, x):
        y = self.shortcut(x)
        h = self.conv2(self.act(self.conv1(self.act(x.clone()))))
        if self.pool == "each":
            return F.avg_pool2d(h, 2) + F.avg_pool2d(y, kernel_size=2)
        if self.pool == "sum":
            return F.avg_pool2d(h + y, 2)
        if self.pool == "identity":
            return F.avg_pool2d(h.add(x), 2)
        return h + y


class Computed(nn.Module):
    """A convolution whose weight is computed at each call, of one norm."""

    def __init__(self, conv):
        super().__init__()
        self.weight, self.bias, self.how = conv.weight, conv.bias, {"stride": conv.stride, "padding": conv.padding}
        self.register_buffer("size", torch.tensor(2.0))

    def forward(self, x):
        weight = self.size * self.weight / torch.linalg.vector_norm(self.weight)
        return F.conv2d(x, weight, self.bias, **self.how)


def pooled(*arguments, pool=None, **settings):
    return nn.Sequential(nn.Conv2d(64, 64, *arguments, **settings), pool or nn.AvgPool2d(2))


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


def images(n=4, channels=64, size=16):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def gradients(energy, *state):
    found = energy_and_gradient(energy, state, range(len(state)), {})
    return [found[0], *found[1]]


def apart(energy, other, *state):
    """The largest relative L2 difference of energies and gradients."""
    pairs = zip(gradients(energy, *state), gradients(other, *state), strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def prepared(net, *state):
    """The prepared energy and its notes, the network frozen as in a run."""
    net.requires_grad_(False)
    found = prepare(net, state)
    return found.energy, " | ".join(found.notes)


@pytest.fixture(autouse=True)
def small_networks_are_worth_it(monkeypatch):
    monkeypatch.setattr("hatebm.engine.prepare.rules.WORTH", 1e6)
    _cache.clear()


class Depends(nn.Module):
    """Control flow by the data."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x):
        h = self.conv(x)
        return (h.square() if h.mean() > 0 else h).flatten(1).sum(1)


class Scaled(Depends):
    """Numbers in a buffer, in a plain tensor, in an object and outside."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.plain, self.settings = torch.ones(()), SimpleNamespace(scale=1.0)

    def forward(self, x):
        scale = self.scale * self.plain.item() * self.settings.scale * SCALE
        return F.avg_pool2d(scale * self.conv(x) + F.silu(self.conv(x)), 2).flatten(1).sum(1)


def pickle_of(net):
    return {key: str(value) for key, value in vars(net).items()}, [tuple(p.shape) for p in net.parameters()]
