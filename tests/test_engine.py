"""The engine: the gradient of a network as it was, to rounding, from fewer multiplications."""

import copy
import gc
import pickle
import re
import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from drop_in_nets import Critic, Hat, JointPrior, Negative
from torch import nn
from torch.nn.utils import parametrizations

import hatebm
from hatebm.engine import prepare, rules
from hatebm.engine.prepare import _programs
from hatebm.engine.tracing import traced
from hatebm.gradient import energy_and_gradient
from hatebm.nets.discriminator import Discriminator
from hatebm.nets.energy import ResidualEnergy

SCALE = 1.0
ROUNDING = 1e-5  # relative, L2
FOLDED, POOL_FIRST = "3x3 convolutions folded with their pool", "1x1 convolutions moved after their pool"
SPLIT, UPSAMPLE_LAST = "pools brought through an addition", "1x1 convolutions moved before their upsampling"


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
    monkeypatch.setattr("hatebm.engine.rules.WORTH", 1e6)
    _programs.clear()


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


@pytest.mark.parametrize("make", [ResidualEnergy, Discriminator])
def test_our_own_networks(make):
    net, x = seeded(lambda: make(16, 3, (64, 64), 1)), images(40, 3)
    energy, notes = prepared(net, x)
    assert "1 folded kernels kept for the run" in notes
    assert apart(energy, net, x) < ROUNDING


def test_our_own_networks_of_small_images_have_nothing_to_gain():
    net, x = seeded(lambda: ResidualEnergy(8, 1, (32, 64), 1)), images(64, 1, 8)
    energy, notes = prepared(net, x)
    assert energy is net
    assert "nothing found that would pay" in notes


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
    "function": (lambda: Head(pooled(3, padding=1)).forward, "a function"),
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


def pickle_of(net):
    return {key: str(value) for key, value in vars(net).items()}, [tuple(p.shape) for p in net.parameters()]


def test_a_hooked_convolution_is_called_and_not_folded():
    net, x, seen = seeded(lambda: Head(Block(64, 64))), images(16), []
    net.body.conv2.register_forward_hook(lambda module, args, result: seen.append(result.shape))
    energy, notes = prepared(net, x)
    assert FOLDED not in notes
    seen.clear()
    gradients(energy, x)
    assert seen


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
    monkeypatch.setattr("hatebm.engine.rules.WORTH", 1)
    monkeypatch.setattr("hatebm.engine.rules.PART_BYTES", (1, 1))
    net = seeded(make)
    state = [torch.randn(9, *shape) for shape in shapes]
    energy, notes = prepared(net, *state)
    assert ("parts of 4 chains" in notes) == (not isinstance(net, JointPrior))
    assert apart(energy, net, *state) < ROUNDING


UPDATES = {
    "in place": lambda net: net.body.conv2.weight.mul_(0.5),
    "through data": lambda net: net.body.conv2.weight.data.mul_(0.5),
    "a new data": lambda net: setattr(net.body.conv2.weight, "data", net.body.conv2.weight * 0.5),
    "replaced": lambda net: setattr(net.body.conv2, "weight", nn.Parameter(net.body.conv2.weight * 0.5)),
    "bias": lambda net: net.body.conv2.bias.add_(1.0),
    "no bias": lambda net: setattr(net.body.conv2, "bias", None),
    "loaded": lambda net: net.load_state_dict({key: value * 0.9 for key, value in net.state_dict().items()}),
    "another module": lambda net: setattr(net.body, "conv2", nn.Conv2d(64, 64, 3, padding=2, dilation=2)),
    "other settings": lambda net: vars(net.body.conv2).update(padding=(2, 2), dilation=(2, 2)),
    "an attribute": lambda net: setattr(net.body, "pool", "sum"),
    "an activation": lambda net: setattr(net.body, "act", nn.ReLU()),
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_a_run_sees_the_network_as_it_is(update):
    net, x = seeded(lambda: Head(Block(64, 64))), images(16, size=8 * 2)
    law = {"step_size": 0.1, "noise_std": 0.0, "seed": 0}
    before = hatebm.langevin(net, x, 2, **law)
    with torch.no_grad():
        update(net)
    want = hatebm.langevin(net, x, 2, compile="off", **law)
    assert not torch.allclose(before - x, want - x, rtol=1e-3, atol=0)
    for _ in range(2):
        got = hatebm.langevin(net, x, 2, **law)
        assert (got - want).norm() < ROUNDING * (want - x).norm() + 1e-7 * x.norm()


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
    monkeypatch.setitem(globals(), "SCALE", 0.3)
    assert apart(prepared(net, x)[0], net, x) < ROUNDING


def test_weights_may_change_within_a_run():
    net, x = seeded(lambda: Head(pooled(3, padding=1))), images(32)
    energy, _ = prepared(net, x)
    first = gradients(energy, x)[1]
    net.body[0].weight.mul_(0.5)
    assert apart(energy, net, x) < ROUNDING
    assert not torch.allclose(gradients(energy, x)[1], first)


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
    monkeypatch.setattr("hatebm.engine.rules.PART_BYTES", (1, 1))
    torch.manual_seed(0)
    net, x = make(pooled(3, padding=1)).train(training), start(9, 64, 16, 16)
    energy, notes = prepared(net, x)
    assert ("parts of 4" in notes) == apply
    assert apart(energy, net, x + torch.randn(9, 64, 16, 16)) < ROUNDING


def test_a_unit_at_its_kink_may_fall_to_either_side():
    """Rounding moves a pre-activation of 0 +- 1e-7: a few chains of many, and no more."""
    net, x = seeded(lambda: Head(nn.Sequential(Block(64, 64), nn.ReLU(inplace=True), Block(64, 64)))), images(32)
    energy, notes = prepared(net, x)
    assert f"2 {FOLDED}" in notes
    got, want = gradients(energy, x)[1].flatten(1), gradients(net, x)[1].flatten(1)
    errors = (got - want).norm(dim=1) / want.norm(dim=1)
    assert errors.median() < ROUNDING
    assert errors.max() < 0.05


def test_parts_and_layout_go_by_shapes_alone():
    def made(width):
        body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1))
        return seeded(lambda: Head(body, width))

    size = lambda net, largest, n: rules.part_size(net, largest, n)  # noqa: E731
    narrow, wide, mib = made(64), made(1024), 1 << 20
    assert size(narrow, mib, 128) == 8
    assert size(narrow, mib / 4, 128) == 32
    assert size(wide, mib, 128) == 16
    assert size(wide, 64 * mib, 128) == 4
    assert size(narrow, mib, 8) is None
    for body, reduces in ((pooled(3, padding=1), True), (pooled(3, padding=1, pool=nn.Identity()), False)):
        net, x = seeded(lambda body=body: Head(body)), images(6)
        work = rules.Work(net, traced(net, 1), 6)
        work.run(x)
        assert work.reduces == reduces
        assert work.total == 16 * 16 * 64 * 64 * 9
        assert work.largest == 16 * 16 * 64 * 4


def test_train_mode_moves_batch_norm_as_the_network_does():
    make = lambda: Head(nn.Sequential(pooled(3, padding=1), nn.BatchNorm2d(64)))  # noqa: E731
    net, x = seeded(make), images(16)
    twin, law = copy.deepcopy(net), {"eps": 0.1, "seed": 0, "mode": "train"}
    chain = hatebm.Chain(net, x, **law)
    got, want = chain.run(3), hatebm.langevin(twin, x, 3, compile="off", **law)
    assert FOLDED in chain.report()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert net.body[1].num_batches_tracked == twin.body[1].num_batches_tracked == 3
    torch.testing.assert_close(net.body[1].running_var, twin.body[1].running_var)


def test_spectral_norm_in_train_mode_is_not_folded():
    net, x = seeded(lambda: Head(Block(64, 64, wrap=parametrizations.spectral_norm))), images(16)
    twin, law = copy.deepcopy(net), {"eps": 0.1, "seed": 0, "mode": "train"}
    chain = hatebm.Chain(net, x, **law)
    got, want = chain.run(3), hatebm.langevin(twin, x, 3, compile="off", **law)
    assert FOLDED not in chain.report()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    vectors = [dict(m.named_buffers()) for m in (net, twin)]
    for name in vectors[0]:
        torch.testing.assert_close(vectors[0][name], vectors[1][name])


def test_networks_within_networks():
    hat = seeded(lambda: Head(Block(3, 64), 64))
    generator = nn.Sequential(nn.Linear(5, 3 * 256), nn.Unflatten(1, (3, 16, 16))).eval()
    energy = hatebm.HatEnergy(hat, generator)
    state = (torch.randn(40, 5), images(40, 3))
    law = {"eps": 0.1, "seed": 0}
    for blocks in ("joint", "sequential"):
        chain = hatebm.Chain(energy, state, blocks=blocks, **law)
        got, want = chain.run(2), hatebm.langevin(energy, state, 2, blocks=blocks, compile="off", **law)
        assert FOLDED in chain.report()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    x, cup = images(40, 3), lambda x: x.square().flatten(1).sum(1)
    for made in (hatebm.product(hat, cup), hatebm.mixture(hat, cup), hatebm.negate(cup, hat, 0.1)):
        chain = hatebm.Chain(made, x, **law)
        got, want = chain.run(2), hatebm.langevin(made, x, 2, compile="off", **law)
        assert FOLDED in chain.report()
        assert "left alone" in chain.report()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_nothing_is_left_on_the_network():
    net, x = seeded(lambda: Head(Block(64, 64))), images(16)
    net.body.conv1.weight.requires_grad_(False)
    net.body.act.train()
    before = pickle_of(net), [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    values, state = [p.clone() for p in net.parameters()], torch.get_rng_state()
    hatebm.langevin(net, x, 2, eps=0.1, seed=0)
    assert before == (pickle_of(net), [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(values, net.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
        energy, notes = prepared(twin, x)
        assert FOLDED in notes
        assert apart(energy, twin, x) < ROUNDING


def test_networks_are_forgotten_and_prepared_once(monkeypatch):
    net, x, traces = seeded(lambda: Head(Block(64, 64))), images(16), []
    trace = hatebm.engine.prepare.__globals__["traced"]
    monkeypatch.setitem(hatebm.engine.prepare.__globals__, "traced", lambda *a: traces.append(a) or trace(*a))
    chain = hatebm.Chain(net, x, eps=0.1, seed=0)
    for _ in range(3):
        chain.run(1)
        hatebm.langevin(net, x, 1, eps=0.1, seed=0)
        for p in net.parameters():
            p.data.mul_(0.9)
    assert len(traces) == 1
    traces.clear()
    gone = weakref.ref(net)
    del net, chain
    gc.collect()
    assert gone() is None
    assert not _programs


def test_off_is_the_plain_loop_and_a_restart_has_the_same_bits():
    net, x, law = seeded(lambda: Head(Block(64, 64))), images(16), {"step_size": 0.1, "noise_std": 0.0, "seed": 0}
    y = x.clone()
    for _ in range(2):
        y = y - 0.1 * gradients(net, y)[1]
    assert torch.equal(hatebm.langevin(net, x, 2, compile="off", **law), y)
    whole = hatebm.langevin(net, x, 3, **law)
    assert not torch.equal(hatebm.langevin(net, x, 2, **law), y)
    _programs.clear()
    first = hatebm.langevin(net, x, 2, **law)
    _programs.clear()
    assert torch.equal(hatebm.langevin(net, first, 1, first_step=2, **law), whole)


def test_preparing_does_not_import_the_compiler():
    code = """
import sys, torch, hatebm
net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.AvgPool2d(2), torch.nn.Flatten())
net.append(torch.nn.Linear(64 * 256, 1))
chain = hatebm.Chain(net, torch.rand(32, 3, 32, 32), eps=0.1)
chain.run(1)
print("folded" in chain.report(), "torch._dynamo" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", "False"]


def test_the_last_steps_keep_their_graph():
    net, x = seeded(lambda: Head(Block(64, 64))), images(16)
    law = {"eps": 0.1, "seed": 0, "grad_steps": 1}
    got, want = (hatebm.langevin(net, x, 2, compile=level, **law) for level in ("auto", "off"))
    weights = [p for p in net.parameters() if p.dim() > 1]
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), weights) for out in (got, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("correct", [None, "mala"])
def test_bfloat16_is_asked_for_and_its_error_reported(correct):
    net, x = seeded(lambda: Head(Block(64, 64))), images(16)
    law = {"eps": 0.05, "seed": 0, "correct": correct}
    exact = hatebm.Chain(net, x, **law)
    chain = hatebm.Chain(net, x, precision="bfloat16", **law)
    want, got = exact.run(2), chain.run(2)
    assert got.dtype == torch.float32
    assert not torch.equal(got, want)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-2)
    first, half = images(16), torch.bfloat16
    with torch.autocast("cpu", dtype=half):
        rough = energy_and_gradient(net.requires_grad_(False), [first], [0], {})[1][0]
    error = float((rough - gradients(net, first)[1]).norm() / gradients(net, first)[1].norm())
    told = float(chain.report().split("relative gradient error ")[1].split(" ")[0])
    assert 0.3 * error < told < 3 * error
    assert "precision: float32" in exact.report()


def test_reports():
    net, x = seeded(lambda: Head(Block(64, 64))), images(16)
    chain = hatebm.Chain(net, x, eps=0.1, seed=0)
    assert "no run yet" in chain.report()
    chain.run(2)
    assert "Head: 1 3x3 convolutions folded" in chain.report()
    assert "last run: 2 steps" in chain.report()
    chain = hatebm.Chain(net, x, eps=0.1, seed=0, compile="off")
    chain.run(1)
    assert "compile='off'" in chain.report()
    for wrong, text in (("tf32", "CUDA"), ("half", "one of")):
        with pytest.raises(ValueError, match=f"precision must be.*{text}"):
            hatebm.Chain(net, x, eps=0.1, precision=wrong)
