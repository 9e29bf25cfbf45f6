"""What whole runs on the CPU tell of their steps: the bits of steps that go one by one, where nobody tells anything."""

import pytest
import torch
from formula_energies import KINDS, of_kind
from perceptrons import network
from whole_chains import EVERY_LAW, start

import hatebm
from hatebm.energies import DoubleWell
from hatebm.energies.perceptron import Perceptron
from hatebm.energies.steps import Facts
from hatebm.engine.whole import steps_of
from hatebm.ops.native import extension
from hatebm.ops.reference import sample_norm

OWN_LAWS = {
    "own": {
        "step_size": hatebm.per_chain(torch.tensor([[0.02, 0.0, 0.01, 0.0, 0.005], [0.0, 0.01, 0.0, 0.0, 0.0]] * 8)),
        "noise_std": hatebm.per_chain(torch.tensor([0.1, 0.2, 0.0, 0.0, 0.05])),
        "temperature": hatebm.per_chain(torch.tensor([0.3, 1.0, 2.0, 0.7, 1.0])),
        "prior_precision": hatebm.per_chain(torch.tensor([0.0, 0.4, -0.1, 0.2, 0.3])),
        "clip": ("norm", hatebm.per_chain(torch.tensor([0.3, 1e3, 2.0, 0.1, 0.2]))),
    },
    "own, before": {
        "step_size": hatebm.per_chain(torch.tensor([0.02, 0.0, 0.01, 0.0, 0.005])),
        "noise_std": hatebm.per_chain(torch.tensor([0.1, 0.2, 0.0, 0.0, 0.05])),
        "noise_at": "before",
        "clamp": (-0.7, 0.9),
        "clamp_at": "noise+step",
    },
}
SOME = torch.tensor([True, False, True, True, False])  # of 5 elements
BOX = (-0.3, 0.41)  # whose width in float32 is not the difference of its sides in float32
CONFINED = {
    "mask": {"mask": SOME, "prior_precision": 0.3, "clip": ("norm", 0.5), "clamp": (-1.0, 0.7)},
    "mask of chains": {"mask": torch.rand(37, 5, generator=torch.Generator().manual_seed(0)) > 0.4},
    "mask, before": {"mask": SOME, "noise_at": "before", "clamp": (-0.7, 0.9), "clamp_at": "noise+step"},
    "walls": {"reflect": BOX},
    "far walls": {"reflect": (0.1, 0.13), "noise_std": 0.5, "add": "fma"},
    "low wall": {"reflect": (-0.2, None), "noise_at": "before", "temperature": 0.3},
    "high wall": {
        "reflect": (None, 0.3),
        "noise_std": [0.2, 0.0, 0.1, 0.0] * 5,
        "step_size": [0.02, 0.01, 0.0, 0.0] * 5,
    },
    "walls for the noise": {"reflect": BOX, "noise_at": "before", "clamp_at": "noise+step", "mask": SOME},
    "walls at the end": {"reflect": BOX, "clamp_at": "final"},
}
CONFINED |= {
    "own, confined": OWN_LAWS["own"] | {"reflect": BOX, "mask": SOME},
    "own, walls for the noise": OWN_LAWS["own, before"] | {"reflect": (0.1, 0.13), "clamp": None},
}
LAWS = {
    name: {"step_size": 0.01} | law if "eps" not in law else law
    for name, law in (EVERY_LAW | OWN_LAWS | CONFINED).items()
}


@pytest.fixture(autouse=True)
def portable(monkeypatch):
    monkeypatch.setattr(extension, "has_vectors", lambda: True)  # perceptrons enter the portable kernel too


def energy_of(kind, d):
    return Perceptron(network((d, 21, 14)).layers) if kind == "perceptron" else of_kind(kind, d)


def chain_of(energy, x, law, **options):
    return hatebm.Chain(energy, x, seed=5, nan="ignore", **law, **options)


def in_one_run(energy, x, n_steps, every, law, first_step=0):
    """The state, the first bad step of each chain and the facts of a run in the kernel."""
    kept = len([t for t in range(first_step, first_step + n_steps) if t % every == 0])
    facts = Facts(every, *(torch.full((kept, len(x)), torch.nan) for _ in Facts._fields[1:]))
    steps = steps_of(chain_of(DoubleWell(), x, law)._blocks, first_step, n_steps, True)._replace(facts=facts)
    x = x.clone()
    return x, energy.advance_(x, steps), facts


def step_by_step(energy, x, n_steps, every, law, first_step=0):
    """The state and the facts of the loop's own steps, whose energy tells where they took their gradients."""
    at, states = [], [x]
    energy = energy.in_kernel(x, None) if isinstance(energy, Perceptron) else energy
    chain = chain_of(lambda x: at.append(x.detach().clone()) or energy(x), x, law, first_step=first_step, compile="off")
    chain.run(n_steps, return_info=True, callback=lambda t, x: states.append(x))
    numbers = steps_of(chain._blocks, first_step, n_steps, True).schedule
    mask = torch.ones_like(x, dtype=torch.bool) if law.get("mask") is None else law["mask"].expand_as(x)
    rows = [[] for _ in Facts._fields[1:]]
    for i in range(-first_step % every, n_steps, every):
        step_size, noise_std, inverse_temperature, prior, _ = (v.view(-1, 1) for v in numbers[:, i])
        leaf = at[i].clone().requires_grad_()
        energies = energy(leaf)
        pull = torch.where(mask, torch.autograd.grad(energies.sum(), leaf)[0], 0) * inverse_temperature
        total = torch.where(prior != 0, pull + prior * torch.where(mask, at[i], 0), pull)
        rests = ((step_size == 0) & (noise_std == 0)).flatten()
        norms = (sample_norm(v) for v in (total, pull, states[i + 1] - states[i]))
        row = (energies.detach(), *(torch.where(rests, 0, v) for v in norms))
        for column, value in zip(rows, row, strict=True):
            column.append(value)
    return states[-1], Facts(every, *(torch.stack(column) if column else x.new_empty(0, len(x)) for column in rows))


def assert_told_alike(energy, x, n_steps, every, law, first_step=0):
    got, _, facts = in_one_run(energy, x, n_steps, every, law, first_step)
    want, wanted = step_by_step(energy, x, n_steps, every, law, first_step)
    assert torch.equal(got.view(torch.int32), want.view(torch.int32))
    for name, left, right in zip(Facts._fields[1:], facts[1:], wanted[1:], strict=True):
        assert torch.equal(left.isnan(), right.isnan()), name
        assert torch.equal(left.nan_to_num(7), right.nan_to_num(7)), name
    return got, wanted


@pytest.mark.parametrize("kind", [*KINDS, "perceptron"])
def test_every_law_tells_what_its_steps_tell(kind, instruction_set):
    energy, told = energy_of(kind, 5), 0.0
    for name, law in LAWS.items():
        n = 5 if "own" in name else 37
        _, facts = assert_told_alike(energy, start(kind, n, 5), 7, 2, law, first_step=3)
        told += sum(float(column.abs().sum()) for column in facts[1:])
    assert told > 100


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (33, 3), (70, 8), (2, 1024), (2, 1023)], ids=str)
@pytest.mark.parametrize("kind", [*KINDS, "perceptron"])
def test_every_shape_and_every_stretch(kind, shape, instruction_set):
    if kind in ("full", "mixture") and shape[1] > 1000:
        shape = (2, 131 + shape[1] % 2)
    if kind == "perceptron" and shape[1] > 1000:  # as many elements as it likes
        shape = (2, 2 * shape[1] + 400)
    energy, x = energy_of(kind, shape[1]), start(kind, *shape)
    for every, first_step in ((1, 0), (3, 2**40 - 9), (7, 2**32 - 3), (100, 5)):
        assert_told_alike(energy, x, 8, every, {"step_size": 0.001}, first_step)


def test_a_gradient_that_a_mask_hides_is_seen_by_nobody(instruction_set):
    """Its energy is finite, and the pull on element 0 is not."""
    net = torch.nn.Sequential(torch.nn.Linear(5, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1))
    for p, v in zip(net.parameters(), ([[3e38, 0.1, 0, 0, 0]], [1.0], [[10.0]], [0.0]), strict=True):
        p.data = torch.tensor(v)
    x = torch.zeros(3, 5)
    for mask, first in ((None, 2), (torch.tensor([False, True, True, True, True]), 2**63 - 1)):
        law = {"step_size": 0.01, "mask": mask}
        got, bad, facts = in_one_run(Perceptron(net), x, 3, 2, law, first_step=2)
        assert bad.tolist() == [first] * 3
        assert got.isfinite().all() == facts.grad_norm.isfinite().all() == (mask is not None)


@pytest.mark.parametrize("kind", [*KINDS, "perceptron"])
def test_what_a_mask_holds_is_in_the_energy_still(kind, instruction_set):
    energy, x = energy_of(kind, 5), start(kind, 37, 5)
    x[4, 1], x[30, 4] = torch.nan, torch.inf
    got, bad, _ = in_one_run(energy, x, 5, 2, {"step_size": 0.01, "mask": SOME}, first_step=2)
    assert torch.equal(got[:, ~SOME].view(torch.int32), x[:, ~SOME].view(torch.int32))
    assert [c for c in range(37) if bad[c] != 2**63 - 1] == [4, 30]
    assert bad[[4, 30]].tolist() == [2, 2]
