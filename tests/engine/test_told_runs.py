"""Runs that are looked at stay in the kernel: how they are cut, and what they tell beside steps one by one."""

import pytest
import torch
from torch import nn
from whole_chains import outcome

import hatebm
from hatebm.energies import DoubleWell, Gaussian
from hatebm.energies.perceptron import Perceptron
from hatebm.engine import whole
from hatebm.ops import langevin_step_
from hatebm.ops.native.chains import NEVER

LAW = {"step_size": 0.05, "noise_std": 0.2, "prior_precision": 0.5, "seed": 1}


class Scripted(nn.Module):
    """A quadratic energy whose kernel is written in Python; ``runs`` are the first step and the length of each."""

    def __init__(self, tells=True):
        super().__init__()
        self.tells, self.runs = tells, []

    def forward(self, x):
        return x.square().sum(1) / 2

    def can_advance(self, x, steps):
        return None if self.tells or steps.facts is None else "it tells nothing"

    def advance_(self, x, steps):
        self.runs.append((steps.first_step, steps.n_steps))
        kept = [
            t for t in range(steps.first_step, steps.first_step + steps.n_steps) if t % (steps.facts or [1])[0] == 0
        ]
        for i, numbers in enumerate(steps.schedule.T.tolist()):
            t, before, energies = steps.first_step + i, x.clone(), self(x)
            law = {"step_size": numbers[0], "noise_std": numbers[1], "seed": steps.seed, "step": t}
            pull, of_energy, way = x.new_empty(3, len(x))
            langevin_step_(x.clone(), before, **law, grad_norm=of_energy)
            langevin_step_(x, before, **law, prior_precision=numbers[3], grad_norm=pull, displacement=way)
            if steps.facts is not None and t in kept:
                for column, row in zip(steps.facts[1:], (energies, pull, of_energy, way), strict=True):
                    column[kept.index(t)] = row
        return torch.full((len(x),), NEVER)


def chain(energy, **more):
    return hatebm.Chain(energy, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), **LAW | more)


def same(told, want):
    assert told.keys() == want.keys()
    for name, rows in want.items():
        assert rows.dtype == told[name].dtype
        assert torch.equal(told[name], rows), name


@pytest.mark.parametrize("first_step", [0, 5])
@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
def test_rows_of_a_kernel_are_those_of_steps(every, first_step, monkeypatch):
    energy, plain, pieces = Scripted(), chain(Scripted(), first_step=first_step, compile="off"), []
    monkeypatch.setattr(whole, "STRETCH", 4)
    whole_run = chain(energy, first_step=first_step)
    want, rows = plain.run(11, every=every, return_info=True)
    got, told = whole_run.run(11, every=every, return_info=True)
    assert torch.equal(got, want)
    same(told, rows)
    assert told["step"].tolist() == [t for t in range(first_step, first_step + 11) if t % every == 0]
    assert energy.runs == [(first_step + i, min(4, 11 - i)) for i in (0, 4, 8)]
    again = chain(energy, first_step=first_step)
    for n_steps in (3, 0, 1, 7):
        pieces.append(again.run(n_steps, every=every, return_info=True)[1])
    same({name: torch.cat([part[name] for part in pieces]) for name in rows}, rows)


def test_a_kernel_that_tells_nothing_takes_the_steps_between():
    energy, plain = Scripted(tells=False), chain(Scripted(), first_step=3, compile="off")
    looked_at = chain(energy, first_step=3)
    (got, told), (want, rows) = (one.run(9, every=4, return_info=True) for one in (looked_at, plain))
    assert torch.equal(got, want)
    same(told, rows)
    assert energy.runs == [(3, 1), (5, 3), (9, 3)]
    assert "9 steps, 7 of them in one kernel, " in looked_at.report()
    looked_at.run(3, return_info=True)
    assert "3 steps, not in one kernel: it tells nothing, " in looked_at.report()


def test_a_callback_ends_a_stretch_and_sees_what_is_told():
    energy, seen = Scripted(), []
    heard = chain(energy, first_step=3)
    state, told = heard.run(9, every=4, return_info=True, callback=lambda t, x: seen.append((t, x)))
    assert energy.runs == [(3, 2), (5, 4), (9, 3)]
    plain = chain(Scripted(), first_step=3, compile="off")
    assert [t for t, _ in seen] == told["step"].tolist() == [4, 8]
    for (t, x), n_steps in zip(seen, (2, 4), strict=True):
        assert torch.equal(x, plain.run(n_steps)), t
    assert torch.equal(plain.run(3), state)
    same(told, chain(Scripted(), first_step=3, compile="off").run(9, every=4, return_info=True)[1])


def test_a_callback_that_raises_leaves_the_chain_as_it_was():
    def raises(t, x):
        raise KeyError(t)

    heard, start = chain(DoubleWell()), chain(DoubleWell()).state
    with pytest.raises(KeyError, match="4"):
        heard.run(9, every=4, callback=lambda t, x: t and raises(t, x), return_info=True)
    assert torch.equal(heard.state, start)
    assert torch.equal(heard.run(9), chain(DoubleWell()).run(9))


@pytest.mark.parametrize("told", [False, True])
def test_a_callback_may_change_the_energy_or_listen_to_it(told):
    energy, calls = Gaussian(torch.zeros(3), torch.ones(3)), []

    def change(t, x):
        energy.mean.add_(1)
        if t == 6:
            energy.register_forward_hook(lambda *_: calls.append(1))

    got = chain(energy).run(10, every=3, callback=change, return_info=told)
    want = chain(energy := Gaussian(torch.zeros(3), torch.ones(3)))
    for n_steps in (1, 3, 3, 3):
        state = want.run(n_steps)
        energy.mean.add_(1)
    assert torch.equal(got[0] if told else got, state)
    assert len(calls) == 3


RESTING = {
    "eps": hatebm.per_chain([0.1, 0.0, 0.2, 0.1]),
    "temperature": hatebm.per_chain([1.0, 2.0, 0.5, 1.0]),
    "prior_precision": hatebm.per_chain([0.0, 0.3, 0.2, 0.0]),
}
LAWS = {
    "plain": {"eps": 0.1},
    "a prior": {"eps": 0.1, "temperature": 0.7, "prior_precision": 0.4, "clip": ("norm", 0.5)},
    "noise before": {"eps": 0.3, "noise_at": "before", "clamp": (-0.7, 0.9), "clamp_at": "noise+step"},
    "pauses": {"step_size": [0.02, 0.0, 0.0, 0.01] * 10, "noise_std": [0.1, 0.0, 0.2, 0.0] * 10},
    "some rest": RESTING,
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("kind", ["well", "perceptron"])
def test_kernels_tell_what_their_single_steps_tell(kind, law, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 9), nn.SiLU(), nn.Linear(9, 1), nn.Flatten(0))
    energy = DoubleWell() if kind == "well" else net
    call = {"seed": 1, "first_step": 5, **law}
    x = torch.randn(4, 3)
    told = []

    def silent(energy, x, steps):
        return steps.facts and (told.append(1) or "it tells nothing")

    one = hatebm.Chain(energy, x, **call)
    got, info = one.run(15, every=4, return_info=True)
    assert "15 steps, 15 of them in one kernel, " in one.report()
    for of_kernel in (DoubleWell, Perceptron):
        monkeypatch.setattr(of_kernel, "can_advance", silent)
    other = hatebm.Chain(energy, x, **call)
    want, rows = other.run(15, every=4, return_info=True)
    assert told
    assert "15 steps, 12 of them in one kernel, " in other.report()
    assert torch.equal(got, want)
    same(info, rows)


@pytest.mark.parametrize("told", [{"return_info": True}, {"callback": lambda t, x: None}], ids=["info", "callback"])
def test_whoever_looks_hears_of_the_same_first_bad_steps(told):
    x = torch.full((5, 3), 0.5)
    x[2], x[4] = 40.0, -40.0
    law = {"step_size": 0.05, "noise_std": 0.0, "every": 3, "first_step": 2}
    want = outcome(DoubleWell(), x, "auto", 30, **law)
    assert want[1] == [2, 4]
    for mode in ("auto", "off"):
        assert outcome(DoubleWell(), x, mode, 30, **law, **told) == want


@pytest.mark.parametrize("n", [0, 1])
def test_no_chain_and_one(n):
    info = hatebm.langevin(DoubleWell(), torch.ones(n, 3), 4, eps=0.1, seed=0, return_info=True)[1]
    want = hatebm.langevin(DoubleWell(), torch.ones(n, 3), 4, eps=0.1, seed=0, return_info=True, compile="off")[1]
    same(info, want)
    assert info["grad_norm_energy"].shape == (4, n, 1)
