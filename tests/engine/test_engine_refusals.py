"""What the engine leaves alone, and that it says why."""

import re

import pytest
import torch
import torch.nn.functional as F
from drop_in_nets import Critic
from engine_nets import (
    FOLDED,
    ROUNDING,
    Block,
    Depends,
    Head,
    Scaled,
    apart,
    gradients,
    images,
    pickle_of,
    pooled,
    prepared,
    seeded,
    small_networks_are_worth_it,  # noqa: F401
)
from torch import nn

import hatebm
from hatebm.engine.prepare import prepare
from hatebm.nets.energy import ResidualEnergy


class InPlaceBetween(nn.Module):
    """A term of a sum is written over between the sum and its pool."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x):
        y = x * 1
        h = self.conv(x) + y
        y.tanh_()
        return F.avg_pool2d(h, 2) + F.avg_pool2d(y, 2)


LEFT_ALONE = {
    "grouped": lambda: pooled(3, padding=1, groups=2),
    "dilated": lambda: pooled(3, padding=2, dilation=2),
    "strided": lambda: pooled(3, padding=1, stride=2),
    "no padding": lambda: pooled(3),
    "reflected": lambda: pooled(3, padding=1, padding_mode="reflect"),
    "other pool": lambda: pooled(3, padding=1, pool=nn.AvgPool2d(3)),
    "overlapping pool": lambda: pooled(3, padding=1, pool=nn.AvgPool2d(2, stride=1)),
    "padded pool": lambda: pooled(3, padding=1, pool=nn.AvgPool2d(2, padding=1)),
    "rounded up": lambda: pooled(3, padding=1, pool=nn.AvgPool2d(2, ceil_mode=True)),
    "max pool": lambda: pooled(3, padding=1, pool=nn.MaxPool2d(2)),
}


@pytest.mark.parametrize("make", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_other_convolutions_and_pools_are_left_alone(make):
    net, x = seeded(lambda: Head(nn.Sequential(pooled(3, padding=1), make()))), images(8, size=30)
    energy, notes = prepared(net, x)
    assert f"1 {FOLDED}" in notes
    assert apart(energy, net, x) < ROUNDING


def test_a_convolution_that_others_read_too_is_not_folded():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(64, 64, 3, padding=1)

        def forward(self, x):
            h = self.conv(x)
            return F.avg_pool2d(h, 2) + h[:, :, ::2, ::2]

    net, x = seeded(lambda: Head(Read())), images(16)
    energy, notes = prepared(net, x)
    assert FOLDED not in notes
    assert apart(energy, net, x) < ROUNDING


def test_our_own_networks_of_small_images_and_odd_widths_have_nothing_to_gain():
    net, x = seeded(lambda: ResidualEnergy(8, 1, (36, 60), 1)), images(64, 1, 8)
    energy, notes = prepared(net, x)
    assert energy is net
    assert "nothing found that would pay" in notes


class ReadsABuffer(Scaled):
    def forward(self, x):
        return float(self.scale) * super().forward(x)


class Draws(Depends):
    def forward(self, x):
        return self.conv(x).flatten(1).sum(1) * float(torch.rand(()))


class Writes(Depends):
    def forward(self, x):
        self.last = self.conv(x)
        return self.last.flatten(1).sum(1)


class Logs(Depends):
    def __init__(self):
        super().__init__()
        self.log = []

    def forward(self, x):
        self.log.append(x)
        return self.conv(x).flatten(1).sum(1)


def hooked():
    net = Head(pooled(3, padding=1))
    net.body.register_forward_hook(lambda module, args, result: None)
    return net


REFUSED = {
    "number of a buffer": (ReadsABuffer, "cannot follow its forward"),
    "control flow": (Depends, "cannot follow its forward"),
    "random numbers": (Draws, "draws random numbers"),
    "writes": (Writes, "writes to the module"),
    "logs": (Logs, "writes to the module"),
    "in place between": (lambda: Head(InPlaceBetween()), "rewritten form does not run"),
    "hooks": (hooked, "body has hooks"),
    "small": (lambda: Critic(1.0), "too small to pay"),
    "no convolution": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64 * 256, 1)), "no convolution"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_followed_is_left_alone_and_says_why(make, reason):
    torch.manual_seed(0)
    net = make()
    owner = getattr(net, "__self__", net).eval()
    before, state = pickle_of(owner), torch.get_rng_state()
    found = prepare(net, [images(1, 1, 6) if isinstance(net, Critic) else images(8)])
    assert found.energy is net
    assert re.search(reason, found.notes[0]), found.notes
    assert pickle_of(owner) == before
    assert torch.equal(torch.get_rng_state(), state)


class Attends(nn.Module):
    def forward(self, x):
        pixels = x.flatten(2)
        return F.scaled_dot_product_attention(pixels, pixels, pixels).view_as(x)


def test_dropout_that_drops_is_left_to_its_own_order_of_draws():
    net, x = seeded(lambda: Head(nn.Sequential(pooled(3, padding=1), nn.Dropout(0.5), Attends()))), images(8)
    assert FOLDED in prepared(net, x)[1]
    ends, states = [], []
    for compile in ("auto", "off"):
        torch.manual_seed(0)
        chain = hatebm.Chain(net, x, eps=0.01, seed=0, mode="train", compile=compile)
        ends.append(chain.run(2))
        states.append(torch.get_rng_state())
        assert ("draws random numbers" in chain.report()) == (compile == "auto")
    assert torch.equal(*ends)
    assert torch.equal(*states)


def test_a_hooked_convolution_is_called_and_not_folded():
    net, x, seen = seeded(lambda: Head(Block(64, 64))), images(16), []
    net.body.conv2.register_forward_hook(lambda module, args, result: seen.append(result.shape))
    energy, notes = prepared(net, x)
    assert FOLDED not in notes
    seen.clear()
    gradients(energy, x)
    assert seen
