"""The engine in a chain: networks as they are at every run, left as they were found, and the reports."""

import copy
import gc
import pickle
import subprocess
import sys
import weakref

import pytest
import torch
from engine_nets import (
    FOLDED,
    ROUNDING,
    Block,
    Head,
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
from torch.nn.utils import parametrizations

import hatebm
from hatebm.dynamics.gradient import energy_and_gradient
from hatebm.engine.prepare import _cache, prepare


def times(factor):
    return lambda module, args, result: factor * result


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
    "a hook": lambda net: net.body.conv2.register_forward_hook(times(3.0)),
    "a forward": lambda net, old=nn.Conv2d.forward: setattr(
        net.body.conv2, "forward", lambda x: old(net.body.conv2, -x)
    ),
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
    trace = prepare.__globals__["traced"]
    monkeypatch.setitem(prepare.__globals__, "traced", lambda *a: traces.append(a) or trace(*a))
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
    assert not _cache


def test_off_is_the_plain_loop_and_a_restart_has_the_same_bits():
    net, x, law = seeded(lambda: Head(Block(64, 64))), images(16), {"step_size": 0.1, "noise_std": 0.0, "seed": 0}
    y = x.clone()
    for _ in range(2):
        y = y - 0.1 * gradients(net, y)[1]
    assert torch.equal(hatebm.langevin(net, x, 2, compile="off", **law), y)
    whole = hatebm.langevin(net, x, 3, **law)
    assert not torch.equal(hatebm.langevin(net, x, 2, **law), y)
    _cache.clear()
    first = hatebm.langevin(net, x, 2, **law)
    _cache.clear()
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
    assert "precision: as torch is set (float32, IEEE)" in exact.report()


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
