"""Which convolutions of a network the engine makes by minimal filtering, and what it takes along."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from engine_nets import (
    ROUNDING,
    Block,
    Computed,
    Head,
    apart,
    images,
    prepared,
    seeded,
    small_networks_are_worth_it,  # noqa: F401
)
from torch import nn

from hatebm import Chain
from hatebm.ops.native.extension import _C, has_vectors

pytestmark = pytest.mark.skipif(_C is None or not has_vectors(), reason="no SIMD build of the kernels")
FILTERED, ALONG = "convolutions by minimal filtering", "activations taken along"
MODULATED = "gains and shifts of channels made with their activations"
BEGUN, SLOPES = "convolutions of few channels", "activations with their slopes"


def conv(inputs=64, outputs=64, side=3, stride=1, **how):
    return nn.Conv2d(inputs, outputs, side, stride, 1, **how)


class OfClass(nn.Module):
    """A layer and an activation between biases and a gain of a class, as keyword arguments give it."""

    def __init__(self, layer, activation):
        super().__init__()
        self.layer, self.activation = layer, activation
        self.gains = nn.Parameter(1 + torch.rand(3, 64, 1, 1))
        self.biases = nn.Parameter(torch.randn(3, 64, 1, 1))

    def forward(self, x, y):
        h = self.layer(x)
        return self.activation(h * self.gains[y]) + self.biases[y]


class Classed(nn.Module):
    """Two such layers, and a gate of channels that depends on the state and must be left where it is."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.second = (OfClass(conv(), activation) for _ in range(2))

    def forward(self, x, y):
        h = self.second(self.first(x, y), y) * x.mean((2, 3), keepdim=True)
        return torch.tanh(h).flatten(1).sum(1)


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.LeakyReLU(0.2), nn.Tanh(), nn.ReLU()], ids=str)
def test_gains_and_biases_of_classes_are_made_with_activations(activation):
    net, x, law = seeded(lambda: Classed(activation)), images(5), {"eps": 0.1, "seed": 0}
    chain = Chain(net, x, energy_kwargs={"y": torch.tensor([0, 2, 1, 1, 0])}, **law)
    got = chain.run(2)
    if isinstance(activation, nn.ReLU):
        assert MODULATED not in chain.report()
    else:
        assert f"4 {MODULATED}" in chain.report()
    want = Chain(net, x, energy_kwargs={"y": torch.tensor([0, 2, 1, 1, 0])}, compile="off", **law).run(2)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


class Wide(nn.Module):
    """A network of the body's layers on 64 channels, and a smooth head; its units are far from the kink of a relu."""

    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)
        for layer, after in pairwise(layers):
            if isinstance(layer, nn.Conv2d) and isinstance(after, nn.ReLU | nn.LeakyReLU):
                nn.init.constant_(layer.bias[::2], 6)
                nn.init.constant_(layer.bias[1::2], -6)

    def forward(self, x):
        return F.silu(self.body(x)).flatten(1).mean(1)


@pytest.mark.parametrize(
    ("layers", "filters", "along"),
    [
        (lambda: (conv(), nn.ReLU(), conv()), 2, 1),
        (lambda: (nn.ReLU(), conv(), nn.Tanh(), conv(side=4, stride=2)), 2, 2),
        (lambda: (nn.ReLU(), conv(), nn.AvgPool2d(2)), 1, 1),
        (lambda: (conv(), nn.ReLU(inplace=True), conv()), 2, 0),
        (lambda: (conv(), nn.LeakyReLU(), conv()), 2, 1),
        (lambda: (conv(), nn.SiLU(), conv(), nn.GELU(), nn.AvgPool2d(2), conv()), 3, 1),
        (lambda: (conv(outputs=40), nn.ReLU(), conv(inputs=40, outputs=64), conv()), 1, 0),
        (lambda: (conv(groups=2), conv()), 1, 0),
        (lambda: (conv(padding_mode="circular"), conv()), 1, 0),
        (lambda: (conv(bias=False), conv(side=4, stride=2, bias=False)), 2, 0),
        (lambda: (Computed(conv()), nn.Tanh(), Computed(conv(side=4, stride=2, bias=False)), nn.AvgPool2d(2)), 2, 1),
        (lambda: (nn.Tanh(), Computed(conv(bias=False)), nn.AvgPool2d(2)), 1, 1),
    ],
)
def test_convolutions_that_are_filtered_and_their_activations(layers, filters, along):
    net, x = seeded(lambda: Wide(*layers())), images(8)
    energy, notes = prepared(net, x)
    assert f"{filters} {FILTERED}" in notes
    assert (f"{along} {ALONG}" in notes) == (along > 0) == (ALONG in notes)
    assert apart(energy, net, x) < ROUNDING


@pytest.mark.parametrize(
    ("how", "begun"),
    [
        ({"kernel_size": 5, "stride": 2, "padding": 4}, 1),
        ({"kernel_size": 3, "padding": "same"}, 1),
        ({"kernel_size": 7, "stride": 2, "padding": "valid", "bias": False}, 1),
        ({"kernel_size": 3, "stride": (1, 2), "padding": 1}, 0),
        ({"kernel_size": 3, "padding": (1, 0)}, 0),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}, 0),
        ({"kernel_size": 3, "padding": 1, "padding_mode": "circular"}, 0),
        ({"kernel_size": 3, "stride": 3}, 0),
        ({"in_channels": 16, "kernel_size": 3, "stride": 2, "padding": 1}, 1),
        ({"in_channels": 16, "kernel_size": 5, "padding": 2}, 0),
        ({"in_channels": 16, "kernel_size": 3, "stride": 2, "groups": 2}, 0),
    ],
)
def test_convolutions_of_few_channels(how, begun):
    how = {"in_channels": 3, "out_channels": 16} | how
    net = seeded(lambda: Wide(nn.Conv2d(**how), nn.SiLU(), conv(16, 32)))
    x = images(8, channels=how["in_channels"], size=32)
    energy, notes = prepared(net, x)
    assert f"1 {FILTERED}" in notes  # whatever was done came out right
    assert (f"{begun} {BEGUN}" in notes) == (begun > 0) == (BEGUN in notes)
    assert apart(energy, net, x) < ROUNDING


class Gated(Head):
    """Products with a sigmoid; `gate` says of what."""

    def __init__(self, gate):
        super().__init__(conv())
        self.gate, self.sigmoid = gate, nn.Sigmoid()

    def forward(self, x):
        return self.head(self.gate(self, self.body(x)).mean((2, 3))).squeeze(1)


def shared(net, h):
    gate = net.sigmoid(h)
    return h * gate + gate


@pytest.mark.parametrize(
    ("gate", "slopes"),
    [
        (lambda _, h: h * torch.sigmoid(h), 1),
        (lambda _, h: F.sigmoid(h) * h, 1),
        (lambda _, h: torch.mul(h, h.sigmoid()), 1),
        (lambda net, h: h.mul(net.sigmoid(h)), 1),
        (lambda _, h: h * torch.sigmoid(2 * h), 0),
        (lambda _, h: h * torch.sigmoid(h.flip(1)), 0),
        (shared, 0),
    ],
)
def test_a_swish_that_is_written_out(gate, slopes):
    net, x = seeded(lambda: Gated(gate)), images(8)
    energy, notes = prepared(net, x)
    assert (f"{slopes} {SLOPES}" in notes) == (slopes > 0) == (SLOPES in notes)
    assert apart(energy, net, x) < ROUNDING


class SharedRelu(Head):
    """A relu that two layers read."""

    def __init__(self):
        super().__init__(conv())
        self.other = conv()

    def forward(self, x):
        h = F.relu(x)
        return self.head(F.silu(self.body(h) + self.other(h) + h).mean((2, 3))).squeeze(1)


class WrittenBetween(SharedRelu):
    """The argument of a relu is written after the relu, and before the convolution."""

    def forward(self, x):
        y = self.other(x)
        h = F.relu(y)
        y.mul_(2)
        return self.head(F.silu(self.body(h) + y).mean((2, 3))).squeeze(1)


@pytest.mark.parametrize("make", [SharedRelu, WrittenBetween])
def test_a_relu_that_others_depend_on_stays(make):
    net, x = seeded(make), images(8)
    energy, _ = prepared(net, x)
    assert apart(energy, net, x) < ROUNDING


def test_a_residual_network_is_filtered_whole():
    net, x = seeded(lambda: Head(Block(64, 64))), images(8)
    energy, notes = prepared(net, x)
    assert f"2 {FILTERED}" in notes
    assert apart(energy, net, x) < ROUNDING


def test_a_weight_that_changes_within_a_run_is_seen():
    net, x = seeded(lambda: Wide(conv(), nn.ReLU(), conv())), images(8)
    energy, notes = prepared(net, x)
    assert FILTERED in notes
    energy(x)
    with torch.no_grad():
        net.body[0].weight.mul_(1.5)
        net.body[2].bias.add_(0.5)
    assert apart(energy, net, x) < ROUNDING


def test_a_chain_has_the_same_bits_in_any_split():
    net, x = seeded(lambda: Wide(conv(), nn.ReLU(), conv(side=4, stride=2))), images(20, size=8)
    law = {"step_size": 0.1, "noise_std": 0.05, "seed": 3}
    whole = Chain(net, x, **law)
    state = whole.run(3)
    assert FILTERED in whole.report()
    parts = [Chain(net, x[i : i + 10], chain_ids=range(i, i + 10), **law).run(3) for i in (0, 10)]
    assert torch.equal(torch.cat(parts), state)


def test_reduced_precision_leaves_filters_aside():
    net, x = seeded(lambda: Wide(conv(), nn.ReLU(), conv())), images(8)
    chain = Chain(net, x, step_size=0.1, noise_std=0.0, seed=0, precision="bfloat16")
    plain = Chain(net, x, step_size=0.1, noise_std=0.0, seed=0, compile="off", precision="bfloat16")
    moves = [one.run(2) - x for one in (chain, plain)]
    want = Chain(net.double(), x.double(), step_size=0.1, noise_std=0.0, seed=0, compile="off").run(2) - x
    off, usual = (float((move - want).norm() / want.norm()) for move in moves)
    assert 2.0**-12 < usual < 2.0**-4  # of bfloat16, whichever way a processor rounds its products
    assert off < 1.5 * usual
