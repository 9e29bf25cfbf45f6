"""Chains in the energy of a perceptron in Triton against the CPU's kernel, run by Triton's interpreter."""

import functools

import interpreter
import pytest
import torch
from perceptrons import LAWS, gradient_in_float64, network
from torch import nn
from whole_chains import OWN_LAWS, TOLD, assert_told, in_other_places, own_schedule, own_steps, telling, with_mask

import hatebm
from hatebm import kernels
from hatebm.energies.mlp import ACTIVATIONS
from hatebm.energies.perceptron import Perceptron, layers_of
from hatebm.engine.whole import steps_of
from hatebm.ops import native
from hatebm.ops.native.chains import NEVER

pytestmark = interpreter.MARKS
FEW = {name: OWN_LAWS[name] for name in ("value update", "norm", "before, walls", "no noise")}


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """Holds every test to runs that the kernel took."""
    runs, kernel = [], kernels.perceptron_chains_
    monkeypatch.setattr(kernels, "perceptron_chains_", lambda *given: runs.append(1) or kernel(*given))
    yield
    assert runs


def gradient(energy, x):
    return (x - hatebm.langevin(energy, x, 1, step_size=2.0**20, noise_std=0.0, backend="triton")) / 2.0**20


@pytest.mark.parametrize("widths", [(1, 1), (20, 48, 33), (5, 64, 130, 9), (70, 100)], ids=str)
def test_the_gradient_is_that_of_autograd(widths):
    energy, x = network(widths), torch.randn(19, widths[0])
    want = gradient_in_float64(energy, x)
    assert (gradient(energy, x) - want).norm() <= 1e-5 * want.norm() + 1e-12


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    energy, x = network((6, 30, 17), activation), 2 * torch.randn(9, 6)
    want = gradient_in_float64(energy, x)
    assert (gradient(energy, x) - want).norm() <= 1e-5 * want.norm()


def test_no_bias_and_activations_with_numbers():
    net = nn.Sequential(nn.Linear(6, 30, bias=False), nn.LeakyReLU(0.3), nn.Linear(30, 8), nn.ELU(1.7), nn.Linear(8, 1))
    x = torch.randn(9, 6)
    want = gradient_in_float64(net, x)
    assert (gradient(net, x) - want).norm() <= 1e-5 * want.norm()


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_chain_stays_close_to_that_of_the_cpu(law):
    energy, x = network(), torch.randn(19, 20)
    law = {"seed": 1, "first_step": 5, "chain_ids": range(2**33, 2**33 + 19)} | law
    got, want = (hatebm.langevin(energy, x, 5, backend=backend, **law) for backend in ("triton", "cpu"))
    assert (got - want).abs().max() <= 1e-5


def test_a_chain_does_not_feel_who_looks():
    energy, x = network(), torch.randn(19, 20)
    law = {"eps": 0.1, "seed": 1, "clip": ("norm", 0.3), "backend": "triton"}
    alone = hatebm.langevin(energy, x, 4, **law)
    assert torch.equal(hatebm.langevin(energy, x, 4, callback=lambda t, x: None, every=2, **law), alone)


def test_a_bad_chain_is_named_and_long_ones_refused():
    energy, x = network(), torch.randn(19, 20)
    x[11, 3] = torch.nan
    chain = hatebm.Chain(energy, x, eps=0.1, seed=1, backend="triton")
    first = kernels.perceptron_chains_(x, layers_of(energy.layers), steps_of(chain._blocks, 7, 2, True))
    assert [int(t) for t in first] == [7 if c == 11 else NEVER for c in range(19)]
    long = network((300, 4))
    reason = Perceptron(long.layers).can_advance(torch.zeros(2, 300), steps_of(chain._blocks, 0, 1, True))
    assert "too wide" in reason


def moved(energy, x, steps):
    """Where chains come to, and when they went bad."""
    x = x.clone()
    return x, kernels.perceptron_chains_(x, layers_of(energy.layers), steps)


def assert_same_bits(got, want):
    assert torch.equal(got.contiguous().view(torch.int32), want.contiguous().view(torch.int32))


@pytest.mark.parametrize("said", FEW.values(), ids=FEW)
def test_each_chain_has_the_bits_of_itself_alone(said):
    energy, x, schedule = network((6, 30, 17)), torch.randn(19, 6), own_schedule(4, 19, still=1)
    schedule[[1, 3]] *= said.get("noisy", True)
    x[1, 0], x[4, 0] = torch.nan, -0.0
    said = said | {"chain_ids": torch.arange(19) * 2**33 + 3}
    state, bad = moved(energy, x, own_steps(schedule, **said))
    assert_same_bits(state[1], x[1])
    assert bad.tolist() == [NEVER] * 19
    assert (state[2] != x[2]).any()
    for c in (0, 4, 18):
        alone = said | {"chain_ids": said["chain_ids"][c : c + 1]}
        for own in (schedule[..., c], schedule[..., c : c + 1]):
            assert_same_bits(moved(energy, x[c : c + 1], own_steps(own, **alone))[0], state[c : c + 1])


def test_a_run_tells_what_single_steps_tell():
    energy, x, schedule = network((6, 30, 17)), torch.randn(19, 6), own_schedule(4, 19, still=1)
    x[0, 0], x[-1, 0] = torch.nan, -3e9
    for law, numbers, every in zip(TOLD.values(), (schedule, schedule[..., 2]) * 2, (3, 1, 2, 3), strict=True):
        steps = telling(own_steps(numbers, **law), 19, every)
        if every < 3:
            steps, x = with_mask(steps, x)
        look = functools.partial(kernels.perceptron_look, layers=layers_of(energy.layers))
        assert_told(functools.partial(moved, energy), look, x, steps, exact=interpreter.rounds_once())


def test_chains_with_numbers_of_their_own_stay_close_to_those_of_the_cpu():
    energy, x, schedule = network((6, 30, 17)), torch.randn(19, 6), own_schedule(4, 19, still=1)
    for said in FEW.values():
        schedule[[1, 3]] *= said.get("noisy", True)
        other, steps = x.clone(), own_steps(schedule, **said)
        native.perceptron_chains_(other, layers_of(energy.layers), steps)
        assert (moved(energy, x, steps)[0] - other).abs().max() <= 1e-5


def test_schedules_in_any_place():
    energy, x, schedule = network((6, 30, 17)), torch.randn(5, 6), own_schedule(3, 5, still=1)
    want, _ = moved(energy, x, own_steps(schedule, clip="norm"))
    for same in in_other_places(schedule):
        assert_same_bits(moved(energy, x, own_steps(same, clip="norm"))[0], want)
    still = schedule[:, 2:, 2:3]
    each, _ = moved(energy, x, own_steps(still.expand(5, 3, 5)))
    for same in (still[..., 0].expand(5, 3), still[..., 0].expand(5, 3).contiguous(), still.expand(5, 3, 5).clone()):
        assert_same_bits(moved(energy, x, own_steps(same))[0], each)


def test_a_chain_at_rest_is_not_looked_at():
    energy, x, schedule = network((6, 30, 17)), torch.randn(5, 6), own_schedule(4, 5, still=1)
    schedule[:2, :, 2:] = 0.01
    schedule[:2, :2, 2] = 0.0
    x[1:4] = torch.nan
    _, bad = moved(energy, x, own_steps(schedule))
    assert bad.tolist() == [NEVER, NEVER, 2**34 + 2, 2**34, NEVER]
