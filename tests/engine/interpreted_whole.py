"""Whole chains and energies in Triton against the CPU's kernels, run by Triton's interpreter: see test_kernels.py."""

from itertools import cycle

import interpreter
import pytest
import torch
from formula_energies import KINDS, of_kind
from whole_chains import (
    EVERY_LAW,
    OWN_LAWS,
    TOLD,
    in_other_places,
    one_by_one,
    outcome,
    own_schedule,
    own_steps,
    start,
    telling,
    with_mask,
)

from hatebm import kernels
from hatebm.energies import Mixture
from hatebm.ops import native
from hatebm.ops.native.chains import NEVER

pytestmark = interpreter.MARKS
FEW = {name: OWN_LAWS[name] for name in ("increment", "value update", "norm", "before, walls", "no noise", "no prior")}


@pytest.fixture
def assert_same():
    """Bit for bit, or close where the interpreter rounds a fused product twice."""

    def same(got, want):
        assert type(got) is type(want)
        if isinstance(want, tuple):
            assert got == want
        elif interpreter.rounds_once():
            assert torch.equal(got.isnan(), want.isnan())
            assert torch.equal(got.nan_to_num(7), want.nan_to_num(7))
        else:
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)

    return same


@pytest.fixture
def both(monkeypatch):
    """The same chain on backend "triton" and on the CPU; both in one kernel."""
    calls = []
    for module in (kernels, native):
        plain = module.whole_chains_
        count = lambda *given, plain=plain, name=module.__name__: (calls.append(name), plain(*given))[1]  # noqa: E731
        monkeypatch.setattr(module, "whole_chains_", count)

    def both(energy, x, n_steps, **law):
        law = {"seed": 5, "step_size": 0.01} | law
        calls.clear()
        results = [outcome(energy, x, "auto", n_steps, backend=backend, **law) for backend in ("triton", "cpu")]
        assert calls == [kernels.__name__, native.__name__]
        return results

    return both


@pytest.mark.parametrize("law", EVERY_LAW.values(), ids=EVERY_LAW)
@pytest.mark.parametrize("kind", ["well", "funnel"])
def test_every_law(kind, law, both, assert_same):
    assert_same(*both(of_kind(kind, 3), start(kind, 9, 3), 4, **law))


@pytest.mark.parametrize("shape", [(3, 1), (40, 2), (2, 130), (1, 1024)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shape(kind, shape, both, assert_same):
    if kind in ("full", "mixture") and shape[1] > 100:
        shape = (2, 17)
    energy, x = of_kind(kind, shape[1]), start(kind, *shape)
    for law in ({"noise_at": "before"}, {"clip": ("norm", 2.0), "prior_precision": 0.1}):
        assert_same(*both(energy, x, 2, step_size=0.001, **law))
    for got, want in zip(kernels.look(energy.formula(shape[1]), x), energy.exact(x), strict=True):
        assert_same(got, want)


@pytest.mark.parametrize(("kind", "noise_at"), [*((kind, "after") for kind in KINDS), ("funnel", "before")])
def test_a_diverged_chain_is_reported_alike(kind, noise_at, both, assert_same):
    energy, x = of_kind(kind, 3), start(kind, 20, 3)
    law = {"noise_at": noise_at, "first_step": 100, "chain_ids": torch.arange(20) * 3}
    broken = 0
    for scale, step_size in [(1.0, 1e15), (1e12, 5.0)]:
        got, want = both(energy, scale * x, 5, step_size=step_size, **law)
        assert_same(got, want)
        broken += isinstance(want, tuple)
        assert_same(*both(energy, scale * x, 5, step_size=step_size, nan="ignore", **law))
    assert broken > 0 or kind == "mixture"  # whose pull only grows with the distance


@pytest.mark.parametrize("special", [torch.inf, torch.nan, 3e38, 1e-42])
@pytest.mark.parametrize("kind", KINDS)
def test_special_values_go_the_way_of_the_formula(kind, special, assert_same):
    energy, x = of_kind(kind, 5), torch.randn(11, 5)
    x[0, 0] = x[4, 3] = special
    for got, want in zip(kernels.look(energy.formula(5), x), energy.exact(x), strict=True):
        assert_same(got, want)


def test_chains_with_a_mask_and_walls_are_taken(both, assert_same):
    law = {"mask": torch.arange(3) != 1, "reflect": (-0.3, 0.9)}
    assert_same(*both(of_kind("full", 3), start("full", 9, 3), 4, **law | {"step_size": 0.2}))


def test_many_components(both, assert_same):
    assert_same(*both(Mixture(3 * torch.randn(30, 2), 0.7), start("mixture", 40, 2), 2))


@pytest.mark.parametrize("first_step", [2**32 - 3, 2**40 - 9], ids=["carry", "last"])
def test_chain_ids_seeds_and_first_steps(first_step, both, assert_same):
    ids = torch.tensor([7, 2**32 + 7, 2**40 - 1, 0, 2**32 - 1])
    for seed in (-1, 2**64 - 1):
        law = {"chain_ids": ids, "first_step": first_step, "seed": seed}
        assert_same(*both(of_kind("well", 5), start("well", 5, 5), 6, **law))


def test_layouts_and_nothing_at_all(both, assert_same):
    x = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    assert_same(*both(of_kind("full", 12), x, 3))
    assert kernels.look(of_kind("well", 3).formula(3), torch.empty(0, 3))[0].shape == (0,)


def moved(module, energy, x, steps):
    """Where chains come to in a kernel, and when they went bad."""
    x, d = x.clone(), x.shape[1]
    first_bad = module.whole_chains_(energy.formula(d), energy.reach(d), x, steps)
    return x, first_bad


@pytest.mark.parametrize("said", FEW.values(), ids=FEW)
@pytest.mark.parametrize("kind", ["well", "full"])
def test_each_chain_has_the_bits_of_itself_alone(kind, said, assert_same):
    energy, x, schedule = of_kind(kind, 3), start(kind, 37, 3), own_schedule(4, 37, still=1)
    schedule[[1, 3]] *= said.get("noisy", True)
    x[1, 0], x[4, 0] = torch.nan, -0.0
    said = said | {"chain_ids": torch.arange(37) * 2**33 + 3}
    state, bad = moved(kernels, energy, x, own_steps(schedule, **said))
    for got, want in zip((state, bad), moved(native, energy, x, own_steps(schedule, **said)), strict=True):
        assert_same(got, want)
    assert torch.equal(state[1].view(torch.int32), x[1].view(torch.int32))
    assert bad.tolist() == [NEVER] * 37
    for c in (0, 1, 4, 36):
        alone = said | {"chain_ids": said["chain_ids"][c : c + 1]}
        for own in (schedule[..., c], schedule[..., c : c + 1]):
            got, _ = moved(kernels, energy, x[c : c + 1], own_steps(own, **alone))
            assert torch.equal(got.view(torch.int32), state[c : c + 1].view(torch.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_every_energy_by_schedules_in_any_place(kind, assert_same):
    energy, x, schedule = of_kind(kind, 5), start(kind, 9, 5), own_schedule(3, 9, still=1)
    want = moved(native, energy, x, own_steps(schedule, clip="norm", noise_at="before"))
    for same in (schedule, *in_other_places(schedule)):
        for a, b in zip(moved(kernels, energy, x, own_steps(same, clip="norm", noise_at="before")), want, strict=True):
            assert_same(a, b)
    for law in (schedule[:, :1].expand(5, 3, 9), schedule[:, :1, 0].expand(5, 3)):
        got, want = moved(kernels, energy, x, own_steps(law)), moved(native, energy, x, own_steps(law.clone()))
        for a, b in zip(got, want, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize(("kind", "law"), [*zip(KINDS, cycle(TOLD.values())), ("funnel", TOLD["walls"])])
def test_a_run_tells_what_single_steps_tell(kind, law, assert_same):
    energy, x, schedule = of_kind(kind, 6), start(kind, 23, 6), own_schedule(4, 23, still=1)
    x[0, 0], x[-1, 0] = torch.nan, -3e9
    for numbers, every in ((schedule, 3), (schedule[..., 2], 1)):
        steps = telling(own_steps(numbers, **law), 23, every)
        if numbers is not schedule:
            steps, x = with_mask(steps, x)
        got = (*moved(kernels, energy, x, steps), torch.stack(steps.facts[1:]))
        for ours, want in zip(got, one_by_one(energy.look, x, steps), strict=True):
            assert_same(ours, want)


@pytest.mark.parametrize("noise_at", ["after", "before"])
def test_a_chain_at_rest_is_not_looked_at(noise_at, assert_same):
    energy, x, schedule = of_kind("well", 3), start("well", 5, 3), own_schedule(4, 5, still=1)
    schedule[:2, :, 2:] = 0.01
    schedule[:2, :2, 2] = 0.0
    x[1:4] = 3e38
    for module in (kernels, native):
        _, bad = moved(module, energy, x, own_steps(schedule, noise_at=noise_at))
        assert bad.tolist() == [NEVER, NEVER, 2**34 + 2, 2**34, NEVER]


def test_a_schedule_of_others_is_refused():
    energy, x = of_kind("well", 3), start("well", 5, 3)
    with pytest.raises(ValueError, match="schedule"):
        moved(kernels, energy, x, own_steps(own_schedule(4, 4, still=1)))
    with pytest.raises(TypeError, match="float32"):
        moved(kernels, energy, x, own_steps(own_schedule(4, 5, still=1).double()))
