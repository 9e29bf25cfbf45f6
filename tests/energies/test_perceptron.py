"""Which modules the kernel of multilayer perceptrons takes, and which go step by step."""

import copy

import pytest
import torch
from torch import nn

import hatebm
from hatebm import _C
from hatebm.energies import MLP
from hatebm.energies.perceptron import Perceptron, perceptron_of
from hatebm.engine.whole import steps_of
from hatebm.ops import native


def network(widths=(20, 48, 33), activation="silu", seed=0):
    torch.manual_seed(seed)
    return MLP(widths, activation)


@pytest.fixture
def taken(monkeypatch):
    """How many runs the kernel takes."""
    runs, kernel = [], native.perceptron_chains_
    monkeypatch.setattr(native, "perceptron_chains_", lambda *given: runs.append(1) or kernel(*given))
    return runs


def test_a_sequential_of_the_same_layers_is_recognised(taken):
    energy, x = network(), torch.randn(7, 4, 5)
    flat = x.flatten(1)
    want = hatebm.langevin(energy, flat, 10, eps=0.1, seed=0)
    layers = list(energy.layers)
    same = {
        "flat": (nn.Sequential(*layers), flat),
        "flatten first": (nn.Sequential(nn.Flatten(), *layers), x),
        "flatten last": (nn.Sequential(nn.Flatten(), *layers, nn.Flatten(0)), x),
        "nested": (
            nn.Sequential(nn.Sequential(*layers[:3]), nn.Identity(), nn.Dropout(0.0), *layers[3:]),
            x.flatten(1),
        ),
        "dropout at rest": (nn.Sequential(layers[0], nn.Dropout(0.5), *layers[1:]), flat),
    }
    for name, (net, state) in same.items():
        got = hatebm.langevin(net, state, 10, eps=0.1, seed=0)
        assert got.shape == state.shape
        assert torch.equal(got.flatten(1), want), name
    assert len(taken) == 1 + len(same)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(hatebm.langevin(same["flatten first"][0], turned, 10, eps=0.1, seed=0).flatten(1), want)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Squared(MLP):
    def forward(self, x):
        return super().forward(x).square()


def hooked(register):
    net = network().layers
    getattr(net[0], register)(lambda *given: None)
    return net


def shadowed():
    net = network().layers
    net[1].forward = torch.tanh
    return net


def others():
    """Modules that are not, or not only, what the kernel computes."""
    layers = list(network().layers)
    yield "one layer", nn.Sequential(nn.Linear(20, 1))
    yield "a layer of one's own", nn.Sequential(Doubled(20, 8), nn.SiLU(), nn.Linear(8, 1))
    yield "a forward of its own", Squared((20, 8))
    yield "another activation", nn.Sequential(nn.Linear(20, 8), nn.Mish(), nn.Linear(8, 1))
    yield "a sharper softplus", nn.Sequential(nn.Linear(20, 8), nn.Softplus(beta=2), nn.Linear(8, 1))
    yield "no activation", nn.Sequential(nn.Linear(20, 8), nn.Linear(8, 1))
    yield "two activations", nn.Sequential(nn.Linear(20, 8), nn.SiLU(), nn.Tanh(), nn.Linear(8, 1))
    yield "a norm", nn.Sequential(nn.Linear(20, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1))
    yield "a parametrization", nn.Sequential(nn.utils.parametrizations.weight_norm(layers[0]), *layers[1:])
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        yield register, hooked(register)
    yield "a shadowed forward", shadowed()


@pytest.mark.parametrize(("name", "net"), list(others()), ids=[name for name, _ in others()])
def test_what_is_something_else_goes_step_by_step(name, net, taken):
    x = torch.randn(6, 20)
    got = hatebm.langevin(net, x, 5, eps=0.1, seed=0)
    assert torch.equal(got, hatebm.langevin(net, x, 5, eps=0.1, seed=0, compile="off"))
    assert taken == []


def test_what_the_kernel_cannot_do_goes_step_by_step(taken):
    energy, x = network(), torch.randn(6, 20)
    net = nn.Sequential(energy.layers[0], nn.Dropout(0.5), *energy.layers[1:])
    hatebm.langevin(net, x, 2, eps=0.1, seed=0, mode="train")
    hatebm.langevin(energy, x, 2, eps=0.1, seed=0, compile="off")
    hatebm.langevin(energy, x, 2, eps=0.1, seed=0, correct="mala")
    hatebm.langevin(energy, x, 2, eps=0.1, seed=0, noise=lambda t: torch.zeros_like(x))
    hatebm.langevin(energy, x, 2, eps=0.1, seed=0, grad_steps=1) if torch.is_grad_enabled() else None
    hatebm.langevin(energy, x[:0], 2, eps=0.1, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        hatebm.langevin(energy, x, 2, eps=0.1, seed=0)
    hatebm.langevin(copy.deepcopy(energy).double(), x.double(), 2, eps=0.1, seed=0)
    assert taken == []


def test_reasons_are_given():
    energy, x = network(), torch.randn(4, 20)
    steps = steps_of(hatebm.Chain(energy, x, eps=0.1, seed=0)._blocks, 0, 1, True)
    assert perceptron_of(nn.Linear(20, 1)) is None
    assert perceptron_of(lambda x: x.sum(1)) is None

    def reason(energy, x=x, steps=steps):
        return Perceptron(energy.layers).can_advance(x, steps)

    assert reason(energy) is None
    assert "no kernel" in reason(energy, steps=steps._replace(backend="triton"))
    assert "inputs" in reason(energy, x[:, :7])
    assert "weights" in reason(MLP((20, 2048, 1024)))
    assert "perceptron" in reason(copy.deepcopy(energy).double())
    _C.use_instruction_set("baseline")
    try:
        assert "portable" in reason(energy)
    finally:
        _C.use_instruction_set(_C.instruction_sets()[0])
