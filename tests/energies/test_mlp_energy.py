"""Chains in the energy of a multilayer perceptron: their kernel against autograd, and its bits against themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from perceptrons import LAWS, gradient_in_float64, network
from torch import nn

import hatebm
from hatebm import _C
from hatebm.energies import MLP
from hatebm.energies.mlp import ACTIVATIONS
from hatebm.ops import native
from hatebm.ops.native import extension


def gradient_by_the_kernel(energy, x):
    """From one step of descent, so long that x itself is beyond rounding."""
    moved = hatebm.langevin(energy, x, 1, step_size=2.0**20, noise_std=0.0)
    return (x - moved) / 2.0**20


@pytest.fixture
def taken(monkeypatch):
    """How many runs the kernel takes."""
    runs, kernel = [], native.perceptron_chains_
    monkeypatch.setattr(native, "perceptron_chains_", lambda *given: runs.append(1) or kernel(*given))
    return runs


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=5),
    activation=st.sampled_from(list(ACTIVATIONS)),
    n=st.integers(1, 70),
    seed=st.integers(0, 2**16),
)
def test_the_gradient_is_that_of_autograd(widths, activation, n, seed):
    energy = network(tuple(widths), activation, seed)
    x = torch.randn(n, widths[0])
    want = gradient_in_float64(energy, x)
    error = (gradient_by_the_kernel(energy, x) - want).norm()
    assert error <= 1e-5 * want.norm() + 1e-12


def test_activations_with_numbers_of_their_own(taken):
    x = torch.randn(9, 6)
    for part in (nn.LeakyReLU(0.3), nn.ELU(1.7), nn.GELU("tanh"), nn.Tanh(), nn.Softplus()):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(6, 30, bias=False), part, nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 1))
        want = gradient_in_float64(net, x)
        assert (gradient_by_the_kernel(net, x) - want).norm() <= 1e-5 * want.norm(), part
    assert len(taken) == 5


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_chain_stays_close_to_a_step_at_a_time(law, taken):
    energy, x = network(), torch.randn(37, 20)
    given_law = {"seed": 1, "first_step": 5, "chain_ids": range(2**33, 2**33 + 37)} | law
    got = hatebm.langevin(energy, x, 50, **given_law)
    want = hatebm.langevin(energy, x, 50, compile="off", **given_law)
    assert taken == [1]
    assert (want - x).norm() > 1
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)  # 50 steps of a few roundings each


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    n=st.integers(2, 130),
    cut=st.floats(0.01, 0.99),
    threads=st.integers(1, 5),
)
def test_a_chain_has_the_same_bits_in_any_company_on_any_threads_and_after_a_restart(widths, n, cut, threads):
    energy, x = network(tuple(widths)), torch.randn(n, widths[0])
    law, before = {"eps": 0.1, "seed": 3}, torch.get_num_threads()
    whole = hatebm.langevin(energy, x, 7, **law)
    at = 1 + int(cut * (n - 2))
    try:
        torch.set_num_threads(threads)
        shares = zip(x.split([at, n - at]), torch.arange(n).split([at, n - at]), strict=True)
        parts = [hatebm.langevin(energy, part, 7, chain_ids=ids, **law) for part, ids in shares]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.cat(parts), whole)
    chain = hatebm.Chain(energy, x, **law)
    chain.run(4)
    assert torch.equal(chain.run(3), whole)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_instruction_set_has_the_same_bits(activation, monkeypatch):
    monkeypatch.setattr(extension, "has_vectors", lambda: True)
    energy, x, states = network((9, 21, 14), activation), torch.randn(19, 9), []
    for isa in _C.instruction_sets():
        _C.use_instruction_set(isa)
        states.append(hatebm.langevin(energy, x, 5, eps=0.1, seed=0))
    _C.use_instruction_set(_C.instruction_sets()[0])
    assert all(torch.equal(state, states[0]) for state in states)


def test_weights_are_those_of_the_moment():
    energy, x = network(), torch.randn(5, 20)
    chain = hatebm.Chain(energy, x, step_size=0.1, noise_std=0.0, seed=0)

    def follows():
        before = chain.state
        want = before - 0.1 * gradient_in_float64(energy, before).float()
        torch.testing.assert_close(chain.run(1), want, rtol=0, atol=1e-6)

    follows()
    with torch.no_grad():
        energy.layers[0].weight.mul_(-3)
    follows()
    energy.layers[2].weight = nn.Parameter(torch.randn(48, 33).T)  # replaced, and not contiguous
    follows()
    energy.layers[4] = nn.Linear(33, 1, bias=False)
    follows()


@pytest.mark.parametrize("shape", [(6, 19), (6, 4, 5), (6,)], ids=str)
def test_another_size_meets_the_ordinary_error(shape):
    for compile in ("auto", "off"):
        with pytest.raises((RuntimeError, ValueError), match=r"shape|size|dimension"):
            hatebm.langevin(network().layers, torch.randn(shape), 2, eps=0.1, seed=0, compile=compile)


@pytest.mark.parametrize("bad", [0, 2])
def test_a_chain_that_breaks_is_named_with_its_step(bad):
    energy, x = network(activation="softplus"), torch.zeros(40, 20)
    steps = [0.1] * 5
    if bad:
        steps[bad - 1] = -3e38  # throws every chain uphill, so far that its energy overflows
        where = list(range(40))
    else:
        where = [17, 33]
        x[where] = 3e38
    with torch.no_grad():
        energy.layers[0].weight.abs_().add_(1)
        energy.layers[2].weight.abs_().add_(1)
        energy.layers[4].weight.abs_().add_(1)
    for compile in ("auto", "off"):
        with pytest.raises(hatebm.ChainDiverged) as caught:
            hatebm.langevin(energy, x, 5, step_size=steps, noise_std=0.0, clip=("value", 1.0), compile=compile)
        assert (caught.value.step, caught.value.chains) == (bad, where)
    hatebm.langevin(energy, x, 5, step_size=steps, noise_std=0.0, clip=("value", 1.0), nan="ignore")


def test_a_nan_in_a_weight_is_seen(taken):
    energy = network(activation="relu")
    with torch.no_grad():
        energy.layers[0].weight[0, 0] = torch.nan
    with pytest.raises(hatebm.ChainDiverged, match="step 7"):
        hatebm.langevin(energy, torch.randn(3, 20), 2, eps=0.1, seed=0, first_step=7)
    assert taken == [1]


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_chain_has_the_same_bits_where_somebody_looks(law):
    energy, x = network(), torch.randn(37, 20)
    seen = []
    whole = hatebm.langevin(energy, x, 9, seed=1, **law)
    kept = hatebm.langevin(energy, x, 9, seed=1, **law, callback=lambda t, state: seen.append(t), every=4)
    assert torch.equal(kept, whole)
    assert seen == [0, 4, 8]
    for net in (energy, energy.layers):
        assert torch.equal(hatebm.langevin(net, x, 9, seed=1, **law, return_info=True)[0], whole)


def test_what_is_kept_is_the_energy_and_the_gradient_before_the_step():
    energy, x = network(), torch.randn(5, 20)
    law = {"step_size": 0.1, "noise_std": 0.0}
    info = hatebm.langevin(energy, x, 9, **law, return_info=True, every=4)[1]
    start = hatebm.langevin(energy, x, 8, **law)
    torch.testing.assert_close(info["energy"][2], energy(start).detach(), rtol=0, atol=1e-6)
    norms = gradient_in_float64(energy, start).norm(dim=1).float()
    torch.testing.assert_close(info["grad_norm"][2], norms, rtol=1e-5, atol=0)


def test_the_smallest_numbers_are_lost_in_the_kernel_alone():
    energy, x, tiny = network(), torch.randn(4, 20), torch.tensor([1e-40])
    hatebm.langevin(energy, x, 1, eps=0.1, seed=0)
    assert tiny / 2 > 0


def test_a_step_of_nothing_leaves_the_state_alone():
    x = 3 * torch.randn(4, 20)
    law = {"step_size": [0.0, 0.1], "noise_std": 0.0, "clamp": (-1, 1), "noise_at": "before", "clamp_at": "noise+step"}
    assert torch.equal(hatebm.langevin(network(), x, 1, **law), x)


@pytest.mark.parametrize(
    ("widths", "activation", "message", "error"),
    [
        ((3,), "silu", "widths", ValueError),
        ((3, 0), "silu", "widths", ValueError),
        (3, "silu", "widths", TypeError),
        ((3, 4), "mish", "activation", ValueError),
    ],
)
def test_bad_arguments_are_named(widths, activation, message, error):
    with pytest.raises(error, match=f"MLP: {message} must be"):
        MLP(widths, activation)
