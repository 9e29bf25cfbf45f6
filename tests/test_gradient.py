"""The gradient that a step takes: autograd's of the sum, bit for bit, whatever kind of energies come."""

import pytest
import torch

import hatebm
from hatebm.gradient import Ones, energy_and_gradient

NET = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).requires_grad_(False)
KINDS = {
    "column": lambda x: NET(x),
    "row": lambda x: NET(x)[:, 0],
    "scalar": lambda x: NET(x).sum(),
    "double": lambda x: NET(x)[:, 0].double(),
    "half": lambda x: NET(x)[:, 0].bfloat16(),
    "state": lambda x: x[:, 0],
}


def test_every_kind_of_energies_has_the_gradient_of_its_sum():
    ones = Ones()
    for kind in (*KINDS, *KINDS):  # each after another, and with another number of chains
        for n in (5, 3):
            x = torch.randn(n, 6)
            at = x.clone().requires_grad_()
            values = KINDS[kind](at)
            (want,) = torch.autograd.grad(values.sum(), at)
            energies, (got,) = energy_and_gradient(KINDS[kind], [x], [0], {}, ones=ones)
            assert torch.equal(got, want), kind
            assert torch.equal(energies, values.detach().reshape(energies.shape)), kind


def test_an_energy_may_change_its_kind_from_step_to_step():
    turns = iter(list(KINDS.values()) * 2)
    x = hatebm.langevin(lambda x: next(turns)(x), torch.zeros(4, 6), 12, step_size=0.1, noise_std=0, compile="off")
    want = torch.zeros(4, 6)
    for energy in list(KINDS.values()) * 2:
        at = want.clone().requires_grad_()
        want = want - 0.1 * torch.autograd.grad(energy(at).sum(), at)[0]
    assert torch.equal(x, want)


def test_the_gradient_of_a_gradient_goes_through():
    weight = torch.tensor(2.0, requires_grad=True)
    x = torch.tensor([[1.0], [3.0]])
    _, (grad,) = energy_and_gradient(lambda x: weight * x[:, 0] ** 3, [x], [0], {}, differentiable=True)
    assert torch.equal(torch.autograd.grad(grad.sum(), weight)[0], (3 * x**2).sum())


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2)], ids=str)
def test_a_gradient_in_any_layout_moves_the_state_alike(shape):
    def energy(x):  # whose gradient comes transposed
        return (x.transpose(0, -1).contiguous() ** 2).sum()

    def twin(x):
        return (x**2).sum()

    x = torch.randn(shape)
    got, want = (hatebm.langevin(e, x, 3, step_size=0.1, seed=0, compile="off") for e in (energy, twin))
    assert torch.equal(got, want)
