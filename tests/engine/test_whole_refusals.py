"""Why a chain whose energy has a kernel goes step by step: the report says it, and the bits are those of steps."""

import pytest
import torch
from torch import nn
from whole_chains import never

import hatebm
from hatebm.energies import MLP, DoubleWell

REASONS = {
    "correct='mala' tests each proposal, and numbers of its law lie in tensors": {
        "correct": "mala",
        "temperature": hatebm.per_chain(torch.ones(4)),
    },
    "noise_std is 0 at a step": {"correct": "mala", "noise_std": [1.0, 0.0, 1.0], "step_size": [0.1, 0.0, 0.1]},
    "noise from outside": {"noise": lambda t: torch.zeros(4, 2)},
    "the gradient is grad_fn's": {"grad_fn": lambda x: x},
    "a seed in a tensor": {"seed": torch.tensor(3)},
    "backend 'reference' has no kernel for cpu": {"backend": "reference"},
}


def line_of(energy, x, **options):
    """The last line of the report of a chain that must not enter its kernel, up to its speed."""
    chain = hatebm.Chain(energy, x, **{"step_size": 0.01, "seed": 0} | options)
    chain.run(3)
    return chain.report().splitlines()[-1].rpartition(", ")[0]


@pytest.fixture
def well(monkeypatch):
    """An energy whose kernel must not run."""
    energy = DoubleWell()
    monkeypatch.setattr(energy, "advance_", never)
    return energy


@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_is_in_the_report(reason, well):
    assert line_of(well, torch.randn(4, 2), **REASONS[reason]) == f"last run: 3 steps, not in one kernel: {reason}"


def test_a_float64_state(well):
    assert line_of(well, torch.randn(4, 2).double()).endswith("not in one kernel: a float64 state")


def test_a_state_of_blocks_or_an_energy_with_keywords():
    class Pair(nn.Module):
        """An energy that would have a kernel."""

        advance_ = never

        def forward(self, x, y=None, scale=1.0):
            return scale * (x if y is None else x + y).square().sum(1)

    x = torch.randn(4, 2)
    assert line_of(Pair(), (x, x)).endswith("not in one kernel: a state of 2 blocks")
    for given in ({"scale": 2.0}, lambda t: {"scale": 1.0 + t}):
        assert line_of(Pair(), x, energy_kwargs=given).endswith("not in one kernel: the energy takes keyword arguments")


def test_a_hook_or_a_forward_of_the_objects_own(well):
    well.register_forward_hook(lambda *_: None)
    assert line_of(well, torch.randn(4, 2)).endswith("not in one kernel: hooks, or a forward of its own")
    plain = DoubleWell()
    plain.forward = plain.forward
    assert line_of(plain, torch.randn(4, 2)).endswith("not in one kernel: hooks, or a forward of its own")


def test_a_perceptron_says_it_too():
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    for energy in (net, MLP([2, 8])):
        line = line_of(energy, torch.randn(4, 2), friction=1.0)
        assert line == "last run: 3 steps, not in one kernel: friction moves it by velocities"


def test_an_energy_without_a_kernel_needs_no_reason():
    chain = hatebm.Chain(lambda x: x.square().sum(1), torch.randn(4, 2), step_size=0.01, correct="mala", seed=0)
    chain.run(3)
    assert "in one kernel" not in chain.report()
