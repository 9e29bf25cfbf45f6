"""Tested steps, and steps by velocities, in one kernel: the bits, the facts and the refusals of a step at a time."""

import math
import warnings

import pytest
import torch
from formula_energies import KINDS, of_kind
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from whole_chains import start

import hatebm
from hatebm.energies import DoubleWell
from hatebm.engine import proposals, whole

FORMS = {
    "mala": {"correct": "mala"},
    "hmc": {"leapfrog_steps": 3},
    "hmc, friction": {"leapfrog_steps": 2, "friction": 0.7},
    "friction": {"friction": 1.3},
}
LAWS = {
    "plain": {"step_size": 0.05},
    "prior": {"eps": 0.3, "prior_precision": 0.3, "temperature": 0.7},
    "value": {"step_size": 0.05, "clip": ("value", 0.4), "add": "fma"},
    "value update": {"step_size": 0.05, "clip": ("value", 0.02), "clip_on": "update", "add": "increment"},
    "norm": {"eps": 0.4, "clip": ("norm", 1.5), "prior_precision": 0.2, "add": "increment"},
    "norm update": {"eps": 0.3, "clip": ("norm", 0.05), "clip_on": "update", "temperature": 1.3, "add": "fma"},
    "box": {"step_size": 0.05, "clamp": (-1.0, 1.2)},
    "final": {"step_size": 0.05, "clamp": (-0.4, 0.4), "clamp_at": "final"},
    "mask": {"eps": 0.3, "mask": torch.arange(6) != 2, "prior_precision": 0.3, "clamp": (-2.0, 2.0)},
    "schedules": {"step_size": [0.05 / (1 + t / 9) for t in range(40)], "temperature": lambda t: 1 + 0.1 * t},
}


def run(energy, x, mode, n_steps, every=1, **options):
    """All that a run leaves: state, info and velocity, or the report of its end; its warnings; what ran."""
    chain = hatebm.Chain(energy, x, **{"seed": 5, "compile": mode} | options)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            state, info = chain.run(n_steps, every=every, return_info=True)
        except hatebm.ChainDiverged as error:
            return (error.step, error.chains), len(warned), ""
    found = {"state": state, **info} | dict(enumerate(chain._velocity))
    return found, len(warned), chain.report().splitlines()[-1]


def assert_alike(energy, x, n_steps, **options):
    """A run in the kernel leaves what single steps do; returns it."""
    (got, heard, report), (want, warned, _) = (run(energy, x, mode, n_steps, **options) for mode in ("auto", "off"))
    assert heard == warned
    assert type(got) is type(want)
    if isinstance(want, tuple):
        assert got == want
        return want
    assert f"{n_steps} of them in one kernel" in report
    assert got.keys() == want.keys()
    for name, values in want.items():
        assert torch.equal(got[name].isnan(), values.isnan()), name
        assert torch.equal(got[name].nan_to_num(7), values.nan_to_num(7)), name
    return want


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_law_of_every_energy(kind, form, instruction_set):
    decided, told = [], {"every": 3, "first_step": 4, "nan": "ignore"}
    for law in LAWS.values():
        found = assert_alike(of_kind(kind, 6), start(kind, 37, 6), 8, **told, **law, **form)
        decided.append(found.get("accept"))
    if "friction" not in form or "leapfrog_steps" in form:
        assert 0 < torch.cat(decided).mean() < 1


@pytest.mark.parametrize("walls", [(-1.0, 1.2), (None, 0.3), (-0.1, None)], ids=str)
@pytest.mark.parametrize("form", list(FORMS.values())[1:], ids=list(FORMS)[1:])
def test_walls_turn_velocities(form, walls, instruction_set):
    law = {"eps": 0.4, "reflect": walls, "nan": "ignore"}
    for kind in ("well", "full"):
        x, mask = start(kind, 37, 6), torch.rand(37, 6, generator=torch.Generator().manual_seed(1)) < 0.7
        assert_alike(of_kind(kind, 6), x, 8, **law, **form)
        assert_alike(of_kind(kind, 6), x, 8, mask=mask, **law, **form)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_shape(form, instruction_set):
    law = {"eps": 0.1, "clip": ("norm", 2.0), "prior_precision": 0.1, "clamp": (-5.0, 5.0)}
    for kind, shape in [("well", (1, 1)), ("full", (70, 3)), ("mixture", (33, 130)), ("diagonal", (2, 1024))]:
        d = shape[1]
        assert_alike(of_kind(kind, d), start(kind, *shape), 3, **law, **form)
    assert_alike(of_kind("funnel", 6), start("funnel", 5, 6).view(5, 2, 1, 3), 3, **law, **form)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    form=st.sampled_from(list(FORMS.values())),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 9)),
    scale=st.sampled_from([0.5, 1.0, 1e9, 1e19]),
    broken=st.sampled_from([0.0, 0.0, 0.0, math.nan, math.inf]),
    step_size=st.floats(-0.125, 0.5, width=32),
    noise_std=st.floats(0.0078125, 1, width=32) | st.sampled_from([1e-30, 30.0, 1e10]),
    temperature=st.floats(0.125, 8),
    prior_precision=st.sampled_from([0.0, 0.3, -0.2, 1e-46]),
    add=st.sampled_from(["sequential", "increment", "fma"]),
    clip=st.none() | st.tuples(st.sampled_from(["value", "norm"]), st.floats(0.015625, 4)),
    clip_on=st.sampled_from(["grad", "update"]),
    clamp=st.sampled_from([None, (-3.0, 2.0), (None, 0.5)]),
    n_steps=st.integers(1, 9),
    seed=st.integers(-(2**63), 2**64 - 1),
    first_step=st.integers(0, 2**40 - 13),
    nan=st.sampled_from(["raise", "ignore"]),
)
def test_any_law(kind, form, shape, scale, broken, n_steps, **options):
    x = scale * start(kind, *shape)
    x[-1, 0] += broken
    assert_alike(of_kind(kind, shape[1]), x, n_steps, **form, **options)


@pytest.mark.parametrize("form", [FORMS["mala"], FORMS["hmc"]], ids=["mala", "hmc"])
def test_a_proposal_with_a_nan_is_refused_and_counted(form):
    """Far out two of the products of a matrix overflow to infinities of both signs."""
    matrix = torch.tensor([[1e19, -0.99e19], [-0.99e19, 1e19]])
    energy, x = hatebm.energies.Gaussian(torch.zeros(2), matrix), torch.tensor([[1e-10, 0.0]] * 50)
    law = {"step_size": 1e-22, "noise_std": 1e20} | form
    found = assert_alike(energy, x, 6, nan="ignore", **law)
    assert found["nan_refused"].mean() > 0
    got, warned, _ = run(energy, x, "auto", 6, **law)
    assert warned == 1
    assert torch.equal(got["nan_refused"], found["nan_refused"])


def test_energies_are_compared_in_float64():
    """A fall from 1e6, which float32 tells to 0.06, ends in as much kinetic energy, so that the decision is open."""
    energy = hatebm.energies.Gaussian(torch.zeros(2), torch.ones(2))
    x = 1000 + torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    law = {"noise_std": 0.003, "step_size": 0.0000045 * (1 + 3e-6)}  # pulls a little more than the energy does
    found = assert_alike(energy, x, 1, leapfrog_steps=500, **law)
    assert 0.1 < found["accept"].mean() < 0.9


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_runs_in_pieces_on_any_threads_are_one_run(form, monkeypatch):
    neighbours = torch.arange(2**33, 2**33 + 400)  # that fill vectors, and share the upper word
    ids = torch.cat([neighbours, torch.tensor([7, 2**32 + 7, 2**40 - 1, 0])])
    energy, x, seen = of_kind("well", 3), 0.5 * start("well", len(ids), 3), []
    options = {"seed": -3, "eps": 0.4, "clip": ("norm", 3.0), "chain_ids": ids, "first_step": 2**32 - 9}
    options |= form | {"nan": "ignore"}
    single = hatebm.Chain(energy, x, compile="off", **options)
    want = single.run(24)
    pieces = hatebm.Chain(energy, x, **options)
    monkeypatch.setattr(whole, "STRETCH", 5)
    pieces.run(12, callback=lambda t, x: seen.append(t), every=5)
    resumed = hatebm.Chain(energy, torch.zeros_like(x), **options)
    resumed.load_state_dict(pieces.state_dict())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(resumed.run(12), want)
    finally:
        torch.set_num_threads(before)
    assert seen == [2**32 - 6, 2**32 - 1]
    assert all(map(torch.equal, resumed._velocity, single._velocity))
    alone = hatebm.Chain(energy, x[17:20], **options | {"chain_ids": ids[17:20]})
    assert torch.equal(alone.run(24), want[17:20])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_single_steps_go_on_where_the_kernel_stopped(form):
    energies, calls = [DoubleWell(), DoubleWell()], []

    def listen(t, x):
        if t == 6:
            energies[0].register_forward_hook(lambda *_: calls.append(t))

    x = torch.randn(9, 2)
    chains = [
        hatebm.Chain(energy, x, eps=0.3, seed=2, compile=mode, **form)
        for energy, mode in zip(energies, ("auto", "off"), strict=True)
    ]
    got = chains[0].run(20, callback=listen, every=3)
    assert "7 of them in one kernel" in chains[0].report()
    assert calls
    assert torch.equal(got, chains[1].run(20))


def test_a_chain_that_breaks_keeps_its_velocities():
    chain = hatebm.Chain(DoubleWell(), torch.randn(9, 2), eps=0.3, seed=2, friction=1.0)
    chain.run(3)
    chain._state[0][4] = 1e30
    before = chain.state_dict()
    with pytest.raises(hatebm.ChainDiverged, match="step 3 in chain 4"):
        chain.run(5)
    assert torch.equal(chain.state_dict()["velocity"][0], before["velocity"][0])


def test_steps_without_noise_are_those_of_single_steps():
    law = {"step_size": [0.1, 0.1, 0.0, 0.1], "noise_std": [0.4, 0.4, 0.0, 0.4], "correct": "mala", "seed": 1}
    x = torch.randn(9, 2)
    got, want = (hatebm.langevin(DoubleWell(), x, 4, compile=mode, **law) for mode in ("auto", "off"))
    assert torch.equal(got, want)
    with pytest.raises(ValueError, match="noise_std must be > 0 with correct='mala', got 0"):
        hatebm.langevin(DoubleWell(), x, 4, **law | {"step_size": 0.1})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"friction": 1.0, "temperature": torch.tensor(2.0, requires_grad=True)}, "lie in tensors"),
    ],
)
def test_what_goes_step_by_step_says_why(options, reason):
    chain = hatebm.Chain(DoubleWell(), torch.randn(4, 2), step_size=0.01, seed=0, **options)
    chain.run(2)
    line = chain.report().splitlines()[-1]
    assert "not in one kernel: " in line
    assert reason in line


def test_networks_and_other_devices_go_step_by_step(monkeypatch):
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    line = run(net, torch.randn(4, 2), "auto", 3, step_size=0.01, correct="mala")[2]
    assert "not in one kernel: correct='mala' tests each proposal, " in line
    monkeypatch.setattr(proposals, "native", None)
    line = run(DoubleWell(), torch.randn(4, 2), "auto", 3, step_size=0.01, leapfrog_steps=2)[2]
    assert "not in one kernel: leapfrog_steps tests each proposal, in a kernel on CPUs alone, " in line
