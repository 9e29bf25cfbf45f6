"""The engine: the gradient of a network as it was, to rounding, from fewer multiplications."""

import copy

import pytest
import torch
import torch.nn.functional as F
from engine_nets import (
    FOLDED,
    POOL_FIRST,
    ROUNDING,
    Block,
    Computed,
    Head,
    Scaled,
    apart,
    gradients,
    images,
    pooled,
    prepared,
    seeded,
    small_networks_are_worth_it,  # noqa: F401
)
from torch import nn
from torch.nn.utils import parametrizations

from hatebm.nets.discriminator import Discriminator
from hatebm.nets.energy import ResidualEnergy

SPLIT, UPSAMPLE_LAST = "pools brought through an addition", "1x1 convolutions moved before their upsampling"
COMPUTED = "computed weights kept for the run"


class UpsampleFirst(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode, self.conv = mode, nn.Conv2d(64, 64, 1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode=self.mode))


class Twice(nn.Module):
    """One convolution called twice, its weight tied to another's."""

    def __init__(self):
        super().__init__()
        self.conv, self.tied = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.tied.weight = self.conv.weight

    def forward(self, x):
        h = F.relu(F.avg_pool2d(self.conv(x), 2))
        return F.avg_pool2d(self.tied(h), 2) + self.conv(h).mean((2, 3), keepdim=True)


REWRITTEN = {
    "conv, pool": (lambda: pooled(3, padding=1), {FOLDED: 1}),
    "conv without bias, padding same": (lambda: pooled(3, padding="same", bias=False), {FOLDED: 1}),
    "1x1 conv, pool": (lambda: pooled(1), {POOL_FIRST: 1}),
    "grouped 1x1 conv, pool": (lambda: pooled(1, groups=4), {POOL_FIRST: 1}),
    "block": (lambda: Block(64, 64), {FOLDED: 1, POOL_FIRST: 1}),
    "block, in place": (lambda: Block(64, 64, inplace=True), {FOLDED: 1, POOL_FIRST: 1}),
    "pool of a sum": (lambda: Block(64, 64, "sum"), {SPLIT: 1, FOLDED: 1, POOL_FIRST: 1}),
    "pool of a sum with the input": (lambda: Block(64, 64, "identity"), {SPLIT: 1, FOLDED: 1}),
    "nearest": (lambda: UpsampleFirst("nearest"), {UPSAMPLE_LAST: 1}),
    "bilinear": (lambda: UpsampleFirst("bilinear"), {UPSAMPLE_LAST: 1}),
    "upsampling module": (lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 1)), {UPSAMPLE_LAST: 1}),
    "spectral norm": (lambda: Block(64, 64, wrap=parametrizations.spectral_norm), {FOLDED: 1, POOL_FIRST: 1}),
    "computed weights": (lambda: Block(64, 64, wrap=Computed), {FOLDED: 1, POOL_FIRST: 1, COMPUTED: 3}),
    "weight norm": (lambda: Block(64, 64, wrap=parametrizations.weight_norm), {FOLDED: 1, POOL_FIRST: 1}),
    "twice": (Twice, {FOLDED: 2}),
}


@pytest.mark.parametrize("size", [16, 15], ids=["even", "odd"])
@pytest.mark.parametrize(("make", "made"), REWRITTEN.values(), ids=REWRITTEN)
def test_a_rewritten_network_has_the_gradient_of_the_network(make, made, size):
    net, x = seeded(lambda: Head(make())), images(32, size=size)
    energy, notes = prepared(net, x)
    assert energy is not net, notes
    for name, count in made.items():
        assert f"{count} {name}" in notes
    assert apart(energy, net, x) < ROUNDING


@pytest.mark.parametrize("make", [ResidualEnergy, Discriminator])
def test_our_own_networks(make):
    net, x = seeded(lambda: make(16, 3, (64, 64), 1)), images(40, 3)
    energy, notes = prepared(net, x)
    assert "1 folded kernels kept for the run" in notes
    assert apart(energy, net, x) < ROUNDING


def test_numbers_are_read_anew(monkeypatch):
    net, x = seeded(Scaled), images(16)
    energy, notes = prepared(net, x)
    assert energy is not net, notes
    net.scale.mul_(2)
    assert apart(energy, net, x) < ROUNDING
    net.plain.mul_(2)
    assert apart(prepared(net, x)[0], net, x) < ROUNDING
    net.settings.scale = 3.0
    assert apart(prepared(net, x)[0], net, x) < ROUNDING
    monkeypatch.setattr("engine_nets.SCALE", 0.3)
    assert apart(prepared(net, x)[0], net, x) < ROUNDING


def test_weights_may_change_within_a_run():
    net, x = seeded(lambda: Head(pooled(3, padding=1))), images(32)
    energy, _ = prepared(net, x)
    first = gradients(energy, x)[1]
    net.body[0].weight.mul_(0.5)
    assert apart(energy, net, x) < ROUNDING
    assert not torch.allclose(gradients(energy, x)[1], first)


@pytest.mark.parametrize("change", ["size", "weight"])
def test_weights_are_computed_once_and_again_where_they_change(change):
    net, x = seeded(lambda: Head(Block(64, 64, wrap=Computed))), images(32)
    energy, _ = prepared(net, x)
    gradients(energy, x)
    kept = energy.values.found
    gradients(energy, x)
    assert energy.values.found is kept
    getattr(net.body.conv2, change)[...] = 3 + getattr(net.body.conv2, change)
    assert apart(energy, net, x) < ROUNDING
    assert energy.values.found is not kept


class Moving(Computed):
    """A weight of a size that each call moves first."""

    def forward(self, x):
        weight = self.size.mul_(0.5) * self.weight
        return F.conv2d(x, weight, self.bias, **self.how)


def test_weights_that_a_forward_moves_are_computed_at_each_call():
    net, x = seeded(lambda: Head(Block(64, 64, wrap=Moving))), images(32)
    other = copy.deepcopy(net)
    energy, notes = prepared(net, x)
    assert COMPUTED not in notes
    for _ in range(3):
        for got, want in zip(gradients(energy, x), gradients(other, x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert torch.equal(net.body.conv1.size, other.body.conv1.size)


def test_a_unit_at_its_kink_may_fall_to_either_side():
    """Rounding moves a pre-activation of 0 +- 1e-7: a few chains of many, and no more."""
    net, x = seeded(lambda: Head(nn.Sequential(Block(64, 64), nn.ReLU(inplace=True), Block(64, 64)))), images(32)
    energy, notes = prepared(net, x)
    assert f"2 {FOLDED}" in notes
    got, want = gradients(energy, x)[1].flatten(1), gradients(net, x)[1].flatten(1)
    errors = (got - want).norm(dim=1) / want.norm(dim=1)
    assert errors.median() < ROUNDING
    assert errors.max() < 0.05
