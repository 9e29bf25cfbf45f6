"""Whole runs of chains that have laws of their own, on the CPU: each has the bits that it has alone, on any machine."""

import pytest
import torch
from formula_energies import KINDS, of_kind
from torch import nn
from whole_chains import OWN_LAWS, assert_own_laws, own_schedule, start

from hatebm.energies.perceptron import layers_of
from hatebm.ops import native


def whole(energy):
    def run(x, steps):
        x = x.clone()
        return x, native.whole_chains_(energy.formula(x.shape[1]), energy.reach(x.shape[1]), x, steps)

    return run


def perceptron(x, steps):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.SiLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 1), nn.Flatten(0))
    x = x.clone()
    return x, native.perceptron_chains_(x, layers_of(net), steps)


@pytest.mark.parametrize("law", OWN_LAWS.values(), ids=OWN_LAWS)
@pytest.mark.parametrize("kind", [*KINDS, "perceptron"])
def test_each_chain_is_itself_alone(kind, law, instruction_set):
    run, d = (perceptron, 6) if kind == "perceptron" else (whole(of_kind(kind, 3)), 3)
    x = start(kind, 37, d)
    x[4, 0] = torch.inf
    for schedule in (own_schedule(7, 37, still=4), own_schedule(1, 37, still=4).expand(5, 7, 37)):
        together, first = assert_own_laws(run, x, schedule, range(37), **law)
        assert torch.equal(together[4], x[4])
        assert first[4] == 2**63 - 1
