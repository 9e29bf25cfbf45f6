"""Whole chains in one kernel: the bits of a step at a time, under every law that it takes."""

import math

import pytest
import torch
from formula_energies import KINDS, of_kind
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import ula_variance
from whole_chains import EVERY_LAW, never, outcome, start

import hatebm
from hatebm.energies import DoubleWell, Gaussian
from hatebm.engine import whole


def both(energy, x, n_steps, **options):
    """The same chain with the kernel, and a step at a time."""
    options = {"seed": 5, "step_size": 0.01} | options
    return [hatebm.langevin(energy, x, n_steps, compile=mode, **options) for mode in ("auto", "off")]


@pytest.mark.parametrize("law", EVERY_LAW.values(), ids=EVERY_LAW)
@pytest.mark.parametrize("kind", KINDS)
def test_every_law_of_every_energy(kind, law, instruction_set):
    got, want = both(of_kind(kind, 6), start(kind, 37, 6), 9, **law)
    assert want.isfinite().all()
    assert torch.equal(got, want)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (16, 3), (33, 5), (70, 8), (2, 1024), (5, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shape(kind, shape, instruction_set):
    if kind in ("full", "mixture") and math.prod(shape) > 1000:
        shape = (2, 130)
    energy, x = of_kind(kind, math.prod(shape[1:])), start(kind, shape[0], math.prod(shape[1:])).view(shape)
    for law in ({}, {"clip": ("norm", 2.0), "prior_precision": 0.1}):
        got, want = both(energy, x, 4, step_size=0.001, **law)
        assert torch.equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_runs_where_it_may(kind, monkeypatch):
    energy, lengths = of_kind(kind, 2), []
    plain = energy.advance_
    monkeypatch.setattr(energy, "advance_", lambda x, steps: (lengths.append(steps.n_steps), plain(x, steps))[1])
    x = start(kind, 4, 2)
    hatebm.langevin(energy, x, 50, step_size=0.01, seed=0)
    hatebm.langevin(energy, x, 50, step_size=0.01, seed=0, backend="cpu", nan="ignore")
    assert lengths == [50, 50]
    monkeypatch.setattr(whole, "STRETCH", 20)
    hatebm.langevin(energy, x, 50, step_size=0.01, seed=0)
    assert lengths[2:] == [20, 20, 10]
    hatebm.langevin(energy, x, 10, step_size=0.01, seed=0, first_step=3, callback=lambda t, x: None, every=4)
    assert lengths[5:] == [2, 4, 4]


@pytest.mark.parametrize(
    "options",
    [
        {"compile": "off"},
        {"backend": "reference"},
        {"grad_steps": 1},
        {"noise": lambda t: torch.zeros(4, 2)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_step_is_a_step_where_the_kernel_cannot_help(options, monkeypatch):
    energy, x = DoubleWell(), torch.randn(4, 2)
    monkeypatch.setattr(energy, "advance_", never)
    hatebm.langevin(energy, x, 3, step_size=0.01, seed=0, **options)
    hatebm.langevin(energy, x.double(), 3, step_size=0.01, seed=0)
    hatebm.langevin(None, x, 3, step_size=0.01, seed=0, grad_fn=lambda x: x)
    hatebm.langevin(lambda x: 2 * energy(x), x, 3, step_size=0.01, seed=0)


def test_listeners_and_heirs_are_called_at_every_step(monkeypatch):
    class Halved(DoubleWell):
        def forward(self, x):
            return super().forward(x) / 2

    heir, x, calls = Halved(), torch.randn(4, 2), []
    got, want = both(heir, x, 5)
    assert torch.equal(got, want)
    assert not torch.equal(got, both(DoubleWell(), x, 5)[0])
    heard = DoubleWell()
    heard.register_forward_hook(lambda *_: calls.append(1))
    hatebm.langevin(heard, x, 5, step_size=0.01, seed=0)
    assert len(calls) == 5
    learning = Gaussian(torch.zeros(2), torch.ones(2))
    learning.mean.requires_grad_()
    got, want = both(learning, x, 5)
    assert torch.equal(got, want)


def test_samples_beyond_the_first_caches_go_step_by_step(monkeypatch):
    energy = DoubleWell()
    monkeypatch.setattr(energy, "advance_", never)
    chain = hatebm.Chain(energy, torch.randn(2, 1025), step_size=0.01, seed=0)
    chain.run(2)
    assert "2 steps, not in one kernel: chains of 1025 elements, not of 1 to 1024" in chain.report()


@pytest.mark.parametrize("first_step", [0, 2**32 - 3, 2**40 - 9], ids=["first", "carry", "last"])
@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_chain_ids_and_first_steps(kind, d, first_step):
    strangers = torch.tensor([7, 2**32 + 7, 2**40 - 1, 0, 2**32 - 1])
    neighbours = torch.arange(2**33, 2**33 + 40)  # that fill a vector or two, and share the upper word
    for ids in (strangers, neighbours, torch.cat([neighbours, strangers])):
        got, want = both(of_kind(kind, d), start(kind, len(ids), d), 9, chain_ids=ids, first_step=first_step)
        assert torch.equal(got, want)


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**64 - 1])
def test_seeds_of_64_bits(seed):
    got, want = both(DoubleWell(), torch.randn(3, 4), 5, seed=seed)
    assert torch.equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_is_the_same_chain_in_any_batch_and_on_any_threads(kind):
    energy, x, before = of_kind(kind, 10), start(kind, 150, 10), torch.get_num_threads()
    law = {"step_size": 0.01, "seed": 2, "clip": ("norm", 3.0)}
    try:
        torch.set_num_threads(1)
        alone = hatebm.langevin(energy, x, 60, **law)
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert torch.equal(hatebm.langevin(energy, x, 60, **law), alone)
    finally:
        torch.set_num_threads(before)
    for piece in (slice(0, 1), slice(41, 58), slice(100, 150)):
        ids = torch.arange(150)[piece]
        assert torch.equal(hatebm.langevin(energy, x[piece], 60, chain_ids=ids, **law), alone[piece])


@pytest.mark.parametrize("every", [1, 2, 7, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_keeps_does_not_change_it(kind, every):
    energy, x = of_kind(kind, 3), start(kind, 20, 3)
    seen = {}

    def run(mode):
        seen[mode] = []
        chain = hatebm.Chain(energy, x, step_size=0.01, seed=1, first_step=5, compile=mode)
        return chain.run(23, callback=lambda t, x: seen[mode].append((t, x)), every=every, return_info=True)

    (state, info), (want, want_info) = run("auto"), run("off")
    assert torch.equal(state, want)
    assert all(torch.equal(info[name], want_info[name]) for name in want_info)
    assert [t for t, _ in seen["auto"]] == [t for t in range(5, 28) if t % every == 0]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(seen["auto"], seen["off"], strict=True))


def test_restarts_and_layouts_keep_the_bits():
    energy, x = of_kind("full", 12), torch.randn(9, 3, 2, 2)
    whole_run = hatebm.Chain(energy, x, step_size=0.01, seed=3)
    pieces = hatebm.Chain(energy, x.to(memory_format=torch.channels_last), step_size=0.01, seed=3)
    want = whole_run.run(30)
    pieces.run(11)
    saved = pieces.state_dict()
    resumed = hatebm.Chain(energy, torch.zeros(9, 3, 2, 2), step_size=0.01, seed=0)
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.run(19), want)
    assert torch.equal(pieces.run(19), want)
    assert pieces.step == 30


@pytest.mark.parametrize("noise_at", ["after", "before"])
@pytest.mark.parametrize("clamp", [None, (-1e15, 1e15)], ids=["open", "walls"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_diverged_chain_is_reported_alike(kind, clamp, noise_at, instruction_set):
    energy, x = of_kind(kind, 5), start(kind, 40, 5)
    broken = 0
    for scale, step_size in [(1.0, 0.5), (1.0, 30.0), (1e4, 0.5), (1e12, 5.0), (1e19, 0.1)]:
        options = {"seed": 4, "step_size": step_size, "clamp": clamp, "noise_at": noise_at, "first_step": 100}
        options |= {"chain_ids": torch.arange(40) * 3}
        for n_steps in (1, 2, 3, 40):
            got, want = (outcome(energy, scale * x, mode, n_steps, **options) for mode in ("auto", "off"))
            assert type(got) is type(want)
            assert got == want if isinstance(want, tuple) else torch.equal(got, want)
            broken += isinstance(want, tuple)
        got, want = (outcome(energy, scale * x, mode, 40, nan="ignore", **options) for mode in ("auto", "off"))
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got.nan_to_num(7), want.nan_to_num(7))
    assert broken > 0


def test_a_chain_that_starts_broken_is_named():
    x = torch.randn(50, 3)
    x[41, 1] = math.nan
    with pytest.raises(hatebm.ChainDiverged, match="step 8 in chain 41") as error:
        hatebm.langevin(DoubleWell(), x, 5, step_size=0.01, seed=0, first_step=8)
    assert error.value.chains == [41]


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 9)),
    step_size=st.floats(-0.125, 0.5, width=32),
    noise_std=st.floats(0, 1, width=32),
    temperature=st.floats(0.125, 8, width=32),
    prior_precision=st.floats(-1, 2, width=32),
    add=st.sampled_from(["sequential", "increment", "fma"]),
    clip=st.none() | st.tuples(st.sampled_from(["value", "norm"]), st.floats(0.015625, 4, width=32)),
    clip_on=st.sampled_from(["grad", "update"]),
    clamp=st.sampled_from([None, (-1.0, 2.0), (None, 0.5)]),
    noise_at=st.sampled_from(["after", "before"]),
    clamp_at=st.sampled_from(["step", "final"]),
    n_steps=st.integers(0, 12),
    seed=st.integers(-(2**63), 2**64 - 1),
    first_step=st.integers(0, 2**40 - 13),
)
def test_any_law(kind, shape, n_steps, **options):
    energy, x = of_kind(kind, shape[1]), start(kind, *shape)
    got, want = (outcome(energy, x, mode, n_steps, **options) for mode in ("auto", "off"))
    assert type(got) is type(want)
    assert got == want if isinstance(want, tuple) else torch.equal(got, want)


@pytest.mark.parametrize("matrix", [False, True], ids=["diagonal", "full"])
def test_the_stationary_law_is_the_discrete_chains_own(matrix):
    """4 standard errors of the variance and the mean over 8192 independent chains of two precisions."""
    n, step_size, precision, mean = 8192, 0.3, torch.tensor([0.5, 2.0]), torch.tensor([1.0, -2.0])
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]) if matrix else torch.eye(2)
    energy = Gaussian(mean, turn @ precision.diag() @ turn.T if matrix else precision)
    x = (hatebm.langevin(energy, torch.zeros(n, 2), 300, step_size=step_size, seed=11) - mean) @ turn
    for k in range(2):
        variance = ula_variance(float(precision[k]), step_size, math.sqrt(2 * step_size))
        assert abs(float(x[:, k].mean())) < 4 * math.sqrt(variance / n)
        assert abs(float(x[:, k].var()) - variance) < 4 * variance * math.sqrt(2 / n)


def test_the_steps_that_a_kernel_is_told():
    law = {"step_size": [0.1, 0.2, 0.3], "temperature": 0.3, "clamp": (-1, None), "clip": ("norm", 2.0)}
    chain = hatebm.Chain(DoubleWell(), torch.zeros(2, 1), seed=9, chain_ids=[4, 5], **law)
    steps = whole.steps_of(chain._blocks, 1, 2, True)
    noise = [math.sqrt(0.4), math.sqrt(0.6)]
    assert torch.equal(steps.schedule, torch.tensor([[0.2, 0.3], noise, [1 / 0.3] * 2, [0.0] * 2, [2.0] * 2]))
    assert (steps.noisy, steps.prior) == (True, False)
    assert (steps.low, steps.high, steps.clip) == (-1.0, math.inf, "norm")
    assert (steps.seed, steps.first_step, steps.n_steps, steps.chain_ids.tolist()) == (9, 1, 2, [4, 5])


def test_the_report_tells_what_ran_in_the_kernel():
    chain = hatebm.Chain(DoubleWell(), torch.zeros(4, 2), eps=0.1, seed=0)
    chain.run(30, callback=lambda t, x: None, every=10)
    assert "DoubleWell has a kernel of its own" in chain.report()
    assert "30 steps, 30 of them in one kernel, " in chain.report()
    chain = hatebm.Chain(DoubleWell(), torch.zeros(4, 2), eps=0.1, seed=0, compile="off")
    chain.run(30)
    assert "in one kernel" not in chain.report()
