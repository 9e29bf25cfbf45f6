"""The engine: memory layouts, and a batch in parts where each chain has an energy of its own."""

import platform
import subprocess
import sys

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
    assert size(narrow, mib / 2, 128) == 16
    assert size(narrow, mib / 8, 128) == 64
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


FAULTS = """
import resource, torch
from hatebm.engine.prepare.rules import keep_freed_memory
keep_freed_memory()

def evaluate():
    tensors = [torch.ones(3 << 18, dtype=torch.float32, device="cpu") for _ in range(10)]

evaluate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    evaluate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_the_tensors_of_an_evaluation_lie_where_the_last_ones_lay():
    faults = int(subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout)
    assert faults < 7680  # the pages of one evaluation, of ten
