"""The gradient that a step takes: autograd's of the sum, bit for bit, whatever kind of energies come."""

import pytest
import torch

import hatebm
from hatebm.dynamics.gradient import Ones, energy_and_gradient

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


MU, START, BUFFER = torch.tensor([1.0, -1.0, 2.0]), torch.full((4, 3), 2.0), torch.empty(4, 3)


def through_numpy(x):
    moved = x.numpy()
    moved -= MU.numpy()
    return x


def through_data(x):
    x.data.sub_(MU)
    return x


LAWS = {
    "plain": {"step_size": 0.1, "noise_std": 0.05},
    "told": {"eps": 0.1, "return_info": True},
    "noise first": {"step_size": 0.1, "noise_std": 0.05, "noise_at": "before"},
    "mask": {"eps": 0.1, "mask": torch.tensor([True, True, False])},
    "friction": {"eps": 0.1, "friction": 1.0},
    "mala": {"eps": 0.9, "correct": "mala"},
}
SCORES = {
    "in place": lambda x: x.sub_(MU),
    "through data": through_data,
    "through numpy": through_numpy,
    "of one buffer": lambda x: torch.sub(x, MU, out=BUFFER),
}


def well(x):
    return (x - MU).square().sum(1) / 2


def outcome(*energy, **law):
    got = hatebm.langevin(*energy, START, 8, seed=0, **law)
    return got[0] if isinstance(got, tuple) else got


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_a_score_may_work_in_place(score, law):
    assert torch.equal(outcome(well, grad_fn=score, **law), outcome(well, grad_fn=lambda x: x - MU, **law))
    assert torch.equal(START, torch.full((4, 3), 2.0))


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_a_score_may_work_in_place_on_trajectories(score):
    run = lambda g: hatebm.Chain(well, START, eps=0.9, leapfrog_steps=3, seed=0, grad_fn=g).run(8)  # noqa: E731
    assert torch.equal(run(score), run(lambda x: x - MU))


def test_a_score_may_work_in_place_where_the_graph_is_kept():
    start = START.clone().requires_grad_()
    for law in ({}, {"clip": ("norm", 0.5)}):
        runs = [
            hatebm.langevin(None, start, 3, grad_fn=g, eps=0.5, seed=0, grad_steps=3, **law)
            for g in (lambda x: x.sub_(MU), lambda x: x - MU)
        ]
        assert torch.equal(*(torch.autograd.grad(x.sum(), start)[0] for x in runs))


def test_energies_may_come_in_one_buffer():
    buffer, law = torch.empty(4), {"eps": 0.9, "correct": "mala", "grad_fn": lambda x: x - MU}
    assert torch.equal(outcome(lambda x: torch.sum((x - MU) ** 2 / 2, 1, out=buffer), **law), outcome(well, **law))


@pytest.mark.parametrize(
    "run",
    [
        lambda chain: chain(lambda a, b: well(a.clone()) + well(b.mul_(2)), (START, START), eps=(0.1, 0.0)),
        lambda chain: chain(lambda x: well(x.sub_(1)), START, eps=0.1, correct="mala", grad_fn=lambda x: x - MU),
        lambda chain: chain(lambda x: well(x.sub_(1)), START, eps=0.0, step_size=None),
    ],
    ids=["a block that stays", "no gradient", "nothing moves"],
)
def test_an_energy_that_writes_to_the_state_is_refused(run):
    made = []

    def chain(*arguments, **law):
        made.append(hatebm.Chain(*arguments, seed=0, **law))
        return made[0].run(3, return_info=True)

    with pytest.raises(RuntimeError, match=r"^langevin: energy must be a function that leaves the state as it is"):
        run(chain)
    state = made[0].state
    assert all(torch.equal(x, START) for x in (state if isinstance(state, tuple) else (state,)))
