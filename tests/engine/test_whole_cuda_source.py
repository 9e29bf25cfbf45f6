"""Whole chains and energies in CUDA, run thread by thread on the CPU: their bits are those of the CPU's own kernels."""

import contextlib
import functools
from itertools import cycle, islice

import pytest
import torch
from formula_energies import KINDS, of_kind
from whole_chains import (
    EVERY_LAW,
    OWN_LAWS,
    TOLD,
    assert_own_laws,
    assert_told,
    outcome,
    own_schedule,
    own_steps,
    start,
    telling,
    with_mask,
)

import hatebm
from hatebm import _C
from hatebm.energies import Gaussian, Mixture
from hatebm.ops.native import chains
from hatebm.ops.native.chains import NEVER

SHAPES = [(3, 1), (33, 2), (5, 3), (37, 6), (600, 7), (2, 40), (530, 36), (3, 130)]  # one lane a chain, a few, and all


class Emulated:
    """The compiled module, whose looks and whole chains are the emulated ones."""

    def __init__(self, cuda):
        self.cuda, self.runs = cuda, 0

    def whole(self, *arguments):
        self.runs += 1
        self.cuda.whole(*arguments[:-1], 0, 0)

    def look(self, *arguments):
        self.cuda.look(*arguments[:-1], 0, 0)

    def __getattr__(self, name):
        return getattr(_C, name)


@pytest.fixture
def on_gpu(cuda, monkeypatch):
    """A context in which looks and whole chains run in the CUDA sources; counts the runs."""

    @contextlib.contextmanager
    def within():
        with monkeypatch.context() as patch:
            patch.setattr(chains, "_C", module := Emulated(cuda))
            yield module
        assert chains._C is _C

    return within


@pytest.fixture
def assert_alike(on_gpu):
    def alike(energy, x, n_steps, **law):
        law = {"seed": 5, "step_size": 0.01} | law
        want = outcome(energy, x, "auto", n_steps, **law)
        with on_gpu() as module:
            got = outcome(energy, x, "auto", n_steps, **law)
        assert module.runs == 1
        assert type(got) is type(want)
        if isinstance(want, tuple):
            assert got == want
        else:
            assert torch.equal(got.isnan(), want.isnan())
            assert torch.equal(got.nan_to_num(7), want.nan_to_num(7))
        return want

    return alike


@pytest.mark.parametrize("law", EVERY_LAW.values(), ids=EVERY_LAW)
@pytest.mark.parametrize("kind", KINDS)
def test_every_law_of_every_energy(kind, law, assert_alike):
    assert assert_alike(of_kind(kind, 6), start(kind, 37, 6), 9, **law).isfinite().all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shape(kind, shape, assert_alike, on_gpu):
    energy, x = of_kind(kind, shape[1]), start(kind, *shape)
    assert_alike(energy, x, 2, step_size=0.001, clip=("norm", 2.0), prior_precision=0.1)
    want = energy.look(x)
    with on_gpu():
        got = energy.look(x)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.fixture
def run_on_gpu(on_gpu):
    """``run_on_gpu(energy)(x, steps)``: where steps lead, and the first bad step of each chain."""

    def run(energy, x, steps):
        with on_gpu():
            first = energy.advance_(x := x.clone(), steps)
        return x, first

    return lambda energy: functools.partial(run, energy)


def assert_like_the_cpu(energy, x, steps, got):
    want = x.clone()
    first = energy.advance_(want, steps)
    assert torch.equal(got[0].view(torch.int32), want.view(torch.int32))
    assert torch.equal(got[1], first)


@pytest.mark.parametrize("law", OWN_LAWS.values(), ids=OWN_LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_chain_moves_by_its_own_law(kind, law, run_on_gpu):
    energy, x, schedule = of_kind(kind, 6), start(kind, 37, 6), own_schedule(7, 37, still=4)
    together, first = assert_own_laws(run_on_gpu(energy), x, schedule, range(0, 37, 4), **law)
    assert torch.equal(together[4], x[4])
    assert (first == NEVER).all()
    assert ((together != x).any(1) == (schedule[:2] != 0).any(0).any(0)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_own_laws_of_every_shape(kind, shape, run_on_gpu):
    energy, x, schedule = of_kind(kind, shape[1]), start(kind, *shape), own_schedule(3, shape[0])
    chains = {0, 1, shape[0] // 2, shape[0] - 1}
    assert_own_laws(run_on_gpu(energy), x, schedule, chains, clip="norm", noise_at="before", high=1.0)


@pytest.mark.parametrize("noise_at", ["after", "before"])
@pytest.mark.parametrize("n", [1, 37, 600])
def test_a_chain_that_rests_is_not_looked_at(n, noise_at, run_on_gpu):
    energy, x, schedule = of_kind("well", 5), start("well", n, 5), own_schedule(6, n).abs() + 0.001
    schedule[0] /= 100
    x[::3, 1], x[::4] = -0.0, torch.nan
    schedule[:2, :, ::3], schedule[:2, :2], schedule[:2, 4:] = 0, 0, 0
    law = {"noise_at": noise_at, "first_step": 100, "clamp_noise": True, "low": -0.5, "high": 0.5}
    together, first = run_on_gpu(energy)(x, own_steps(schedule, **law))
    rests, bad = torch.arange(n) % 3 == 0, torch.arange(n) % 4 == 0
    assert torch.equal(together[rests].view(torch.int32), x[rests].view(torch.int32))
    assert first.tolist() == torch.where(bad & ~rests, 102, NEVER).tolist()
    assert (together[~rests & ~bad].abs() <= 0.5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_own_laws_in_any_strides(kind, run_on_gpu):
    energy, x, schedule = of_kind(kind, 6), start(kind, 37, 6), own_schedule(5, 37)
    run = run_on_gpu(energy)
    want = run(x, own_steps(schedule))
    for strided in (
        schedule.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        torch.stack([schedule, -schedule], -1)[..., 0],
    ):
        assert torch.equal(run(x, own_steps(strided))[0], want[0])
    one = own_schedule(5, 1)
    for n_steps in (one, one[:, 1:2].expand(5, 5, 1)):
        alike = run(x, own_steps(n_steps[..., 0]))[0]
        assert torch.equal(run(x, own_steps(n_steps.expand(5, 5, 37)))[0], alike)
        assert torch.equal(run(x, own_steps(n_steps.repeat(1, 1, 37)))[0], alike)


@pytest.mark.parametrize("law", OWN_LAWS.values(), ids=OWN_LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_own_laws_have_the_bits_of_the_cpu(kind, law, run_on_gpu):
    energy, x = of_kind(kind, 6), start(kind, 37, 6)
    x[5], x[11, 2], x[20] = torch.nan, 1e30, 1e12
    steps = own_steps(own_schedule(7, 37, still=5), chain_ids=torch.arange(37) + 2**33, **law)
    got = run_on_gpu(energy)(x, steps)
    assert_like_the_cpu(energy, x, steps, got)


@pytest.mark.parametrize(("kind", "law"), [*zip(KINDS * 2, islice(cycle(TOLD), 2 * len(KINDS)), strict=True)])
def test_a_run_tells_what_single_steps_tell(kind, law, run_on_gpu):
    for n, d, every in ((37, 6, 3), (3, 130, 1), (600, 2, 2)):
        energy, x, schedule = of_kind(kind, d), start(kind, n, d), own_schedule(5, n, still=1)
        x[0, 0], x[-1, 0] = torch.nan, -3e9
        for numbers in (schedule, schedule[..., 2]):
            steps = telling(own_steps(numbers, **TOLD[law]), n, every)
            if numbers is not schedule:
                steps, x = with_mask(steps, x)
            got = assert_told(run_on_gpu(energy), energy.look, x, steps)
            want = run_on_gpu(energy)(x, steps._replace(facts=None))
            assert torch.equal(got[0].nan_to_num(7), want[0].nan_to_num(7))
            assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("reflect", [(-0.3, 0.9), (None, 0.2)], ids=str)
def test_chains_with_a_mask_and_walls_are_taken(reflect, assert_alike):
    x = start("full", 37, 6)
    law = {"mask": torch.arange(6) % 3 != 1, "reflect": reflect, "noise_at": "before", "clamp_at": "noise+step"}
    assert_alike(of_kind("full", 6), x, 5, step_size=0.2, clip=("norm", 2.0), prior_precision=0.1, **law)


@pytest.mark.parametrize("kind", ["diagonal", "well", "funnel"])
def test_the_longest_chains(kind, assert_alike):
    assert_alike(of_kind(kind, 1024), start(kind, 2, 1024), 2, step_size=0.001, clip=("norm", 2.0))


@pytest.mark.parametrize("d", [12, 40, 130, 1000])
def test_sums_are_taken_in_the_order_of_the_tree(d, on_gpu):
    """Terms of both signs and 32 orders of magnitude nearly cancel: another order leaves other bits."""
    half = 10 ** torch.empty(700, d // 2).uniform_(-8, 8)
    x = torch.cat([half, half.flip(1)], 1)
    energy = Gaussian(torch.zeros(d), torch.cat([torch.ones(d // 2), -torch.ones(d // 2)]))
    for rows in (x, x[:5]):
        want = energy.look(rows)[0]
        with on_gpu():
            assert torch.equal(energy.look(rows)[0], want)


def test_more_components_than_lanes(assert_alike):
    energy = Mixture(3 * torch.randn(300, 5), 0.7)
    assert_alike(energy, start("mixture", 40, 5), 4)
    assert_alike(energy, start("mixture", 600, 5), 2)
    assert_alike(Mixture(torch.randn(5000, 1), 1.0), start("mixture", 20, 1), 1)


@pytest.mark.parametrize("noise_at", ["after", "before"])
@pytest.mark.parametrize("clamp", [None, (-1e15, 1e15)], ids=["open", "walls"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_diverged_chain_is_reported_alike(kind, clamp, noise_at, assert_alike):
    energy, x = of_kind(kind, 5), start(kind, 20, 5)
    law = {"clamp": clamp, "noise_at": noise_at, "first_step": 100, "chain_ids": torch.arange(20) * 3}
    broken = 0
    for scale, step_size in [(1.0, 30.0), (1e4, 0.5), (1e12, 5.0), (1e19, 0.1)]:
        for n_steps in (1, 3, 20):
            broken += isinstance(assert_alike(energy, scale * x, n_steps, step_size=step_size, **law), tuple)
        assert_alike(energy, scale * x, 20, step_size=step_size, nan="ignore", **law)
    assert broken > 0


@pytest.mark.parametrize("special", [torch.inf, -torch.inf, torch.nan, 3e38, -1e20, 1e-42, -0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_special_values_go_the_way_of_the_formula(kind, special, on_gpu):
    energy, x = of_kind(kind, 5), torch.randn(11, 5)
    x[0, 0] = x[4, 3] = special
    want = energy.exact(x)
    with on_gpu():
        got = energy.look(x)
    for left, right in zip(got, want, strict=True):
        assert torch.equal(left.isnan(), right.isnan())
        assert torch.equal(left.nan_to_num(7), right.nan_to_num(7))


@pytest.mark.parametrize("first_step", [0, 2**32 - 3, 2**40 - 9], ids=["first", "carry", "last"])
def test_chain_ids_seeds_and_first_steps(first_step, assert_alike):
    ids = torch.tensor([7, 2**32 + 7, 2**40 - 1, 0, 2**32 - 1])
    for seed in (-1, 2**63, 2**64 - 1):
        assert_alike(of_kind("well", 5), start("well", 5, 5), 9, chain_ids=ids, first_step=first_step, seed=seed)


def test_a_chain_does_not_feel_how_many_lanes_it_has(on_gpu):
    energy, x, law = of_kind("full", 30), start("full", 600, 30), {"step_size": 0.01, "seed": 2, "clip": ("norm", 3.0)}
    with on_gpu():
        together = hatebm.langevin(energy, x, 5, **law)
        for piece in (slice(0, 1), slice(41, 58)):
            ids = torch.arange(600)[piece]
            assert torch.equal(hatebm.langevin(energy, x[piece], 5, chain_ids=ids, **law), together[piece])


def test_what_does_not_fit_on_chip_is_refused(on_gpu):
    energy = Mixture(torch.randn(13_000, 2), 1.0)
    with on_gpu(), pytest.raises(ValueError, match="look: too many components"):
        energy.look(torch.zeros(3, 2))
