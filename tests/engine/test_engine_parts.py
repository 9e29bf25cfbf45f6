"""The engine: memory layouts, and a batch in parts where each chain has an energy of its own."""

import pytest
import torch
import torch.nn.functional as F
from drop_in_nets import Critic, Hat, JointPrior, Negative
from engine_nets import (
    ROUNDING,
    Head,
    apart,
    gradients,
    images,
    pooled,
    prepared,
    seeded,
    small_networks_are_worth_it,  # noqa: F401
)
from torch import nn

from hatebm.engine.prepare import rules
from hatebm.engine.prepare.tracing import traced


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: Critic(1.0), [(1, 6, 6)]),
        (lambda: Negative(Critic(1.0)), [(1, 6, 6)]),
        (lambda: Hat(1.0), [(5,), (1, 6, 6)]),
        (JointPrior, [(6,), (4,)]),
    ],
)
def test_the_small_nets_of_the_drop_in_loops(make, shapes, monkeypatch):
    monkeypatch.setattr("hatebm.engine.prepare.rules.WORTH", 1)
    monkeypatch.setattr("hatebm.engine.prepare.rules.PART_BYTES", (1, 1))
    net = seeded(make)
    state = [torch.randn(9, *shape) for shape in shapes]
    energy, notes = prepared(net, *state)
    assert ("parts of 4 chains" in notes) == (not isinstance(net, JointPrior))
    assert apart(energy, net, *state) < ROUNDING


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(64, 64, 3, padding=1), nn.Linear(64 * 64, 1)

    def forward(self, x):
        h = F.silu(F.avg_pool2d(self.conv(x), 2))
        return self.head(h.view(h.size(0), -1))[:, 0]


class InParts(Viewed):
    """The energy in a dict."""

    def forward(self, x):
        return {"net": super().forward(x), "box": x.square().flatten(1).sum(1) / 2}


def test_an_energy_in_a_dict_is_prepared_and_comes_in_one(monkeypatch):
    monkeypatch.setattr("hatebm.engine.prepare.rules.PART_BYTES", (1, 1))
    net, x = seeded(InParts), images(9)
    energy, notes = prepared(net, x)
    assert energy is not net
    assert "channels_last" in notes
    assert "all chains together, since the energy comes in a dict" in notes
    assert list(energy(x)) == ["net", "box"]
    assert apart(energy, net, x) < ROUNDING


class NeedsItsLayout(Viewed):
    def forward(self, x):
        h = F.silu(F.avg_pool2d(self.conv(x), 2))
        return self.head(torch.as_strided(h, (h.size(0), 4096), (4096, 1)))[:, 0]


@pytest.mark.parametrize(("make", "channels_last"), [(Viewed, True), (NeedsItsLayout, False)])
def test_channels_last_where_the_network_takes_it(make, channels_last):
    net, x = seeded(make), images(16)
    energy, notes = prepared(net, x)
    assert ("channels_last" in notes) == channels_last
    assert apart(energy, net, x) < ROUNDING
    assert gradients(energy, x)[1].is_contiguous()


class AcrossChains(Head):
    def forward(self, x):
        energy = super().forward(x)
        return energy - energy.mean().square()


class Summed(Head):
    def forward(self, x):
        return super().forward(x).sum()


def normed(body):
    return Head(nn.Sequential(body, nn.BatchNorm2d(64)))


PARTS = {
    "each chain": (Head, False, True),
    "across chains": (AcrossChains, False, False),
    "summed": (Summed, False, False),
    "batch norm": (normed, False, True),
    "batch norm in train mode": (normed, True, False),
}


@pytest.mark.parametrize(("make", "training", "apply"), PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("start", [torch.randn, torch.zeros])
def test_parts_only_where_each_chain_has_its_own_energy(make, training, apply, start, monkeypatch):
    monkeypatch.setattr("hatebm.engine.prepare.rules.PART_BYTES", (1, 1))
    torch.manual_seed(0)
    net, x = make(pooled(3, padding=1)).train(training), start(9, 64, 16, 16)
    energy, notes = prepared(net, x)
    assert ("parts of 4" in notes) == apply
    assert apart(energy, net, x + torch.randn(9, 64, 16, 16)) < ROUNDING


def test_parts_and_layout_go_by_shapes_alone():
    def made(width):
        body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1))
        return seeded(lambda: Head(body, width))

    size = lambda net, largest, n: rules.part_size(net, largest, n)  # noqa: E731
    narrow, wide, mib = made(64), made(1024), 1 << 20
    assert size(narrow, mib / 2, 128) == 8
    assert size(narrow, mib / 8, 128) == 32
    assert size(wide, mib, 128) == 16
    assert size(wide, 64 * mib, 128) == 4
    assert size(narrow, mib / 2, 8) is None
    for body, reduces in ((pooled(3, padding=1), True), (pooled(3, padding=1, pool=nn.Identity()), False)):
        net, x = seeded(lambda body=body: Head(body)), images(6)
        work = rules.Work(net, traced(net, 1), 6)
        work.run(x)
        assert work.reduces == reduces
        assert work.total == 16 * 16 * 64 * 64 * 9
        assert work.largest == 16 * 16 * 64 * 4
