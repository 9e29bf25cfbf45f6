"""Chains that break are named, and keep their last good state."""

import math

import pytest
import torch

import hatebm
from hatebm.dynamics.health import Watch
from hatebm.ops.native.chains import NEVER


def broken_at(step, chain, value, in_energy):
    """An energy or gradient that breaks in one chain at one step."""
    calls = iter(range(10**6))

    def energy(x):
        bad = torch.zeros(len(x))
        if next(calls) == step:
            bad[chain] = value
        return (x.sum(1) + bad) if in_energy else x.sum(1) + x.sum(1) * bad

    return energy


@pytest.mark.parametrize("in_energy", [True, False], ids=["energy", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("d", [2, 300])
def test_a_diverged_chain_is_named_with_its_step_and_the_state_is_kept(value, in_energy, d):
    x = torch.ones(6, d)
    law = {"step_size": 0.1, "clip": ("value", 1.0), "clamp": (-2, 2), "seed": 0}
    chain = hatebm.Chain(broken_at(3, 4, value, in_energy), x, chain_ids=range(10, 16), first_step=100, **law)
    with pytest.raises(hatebm.ChainDiverged, match="step 103 in chain 14") as error:
        chain.run(8)
    assert (error.value.step, error.value.chains) == (103, [14])
    assert torch.equal(chain.state, x)
    assert chain.step == 100
    chain.run(2)
    hatebm.langevin(broken_at(3, 4, value, in_energy), x, 8, nan="ignore", **law)


def test_a_state_that_overflows_in_the_last_step_is_reported():
    with pytest.raises(hatebm.ChainDiverged, match="step 1 "):
        hatebm.langevin(lambda x: 1e38 * x.sum(1), torch.zeros(2, 3), 2, step_size=3.0, noise_std=0)


@pytest.mark.parametrize("n_steps", [1, 40])
def test_numbers_whose_sum_is_too_large_are_no_fault(n_steps):
    x = torch.full((4, 2), 3e38)
    energy = lambda x: 3e38 + 0 * x.sum(1).clamp(max=1)  # noqa: E731
    assert torch.equal(hatebm.langevin(energy, x, n_steps, step_size=0.1, noise_std=0), x)


@pytest.mark.parametrize("step", [0, 31, 32, 70])
def test_the_first_bad_step_is_found_in_any_window(step):
    with pytest.raises(hatebm.ChainDiverged) as error:
        hatebm.langevin(broken_at(step, 1, math.nan, True), torch.ones(3, 2), 100, step_size=0.1, clamp=(0, 1), seed=0)
    assert (error.value.step, error.value.chains) == (step, [1])


def test_what_a_kernel_saw_is_the_watch_s_own_and_the_earliest_counts():
    watch = Watch(3, torch.device("cpu"))
    seen = torch.tensor([5, NEVER, 7])
    watch.see_first(seen)
    seen.fill_(0)  # a graph writes where it wrote before
    watch.see_first(torch.tensor([NEVER, 2, 6]))
    assert watch.first.tolist() == [5, 2, 6]
    watch.see_energy(1, torch.tensor([1.0, math.nan, 1.0]))
    with pytest.raises(hatebm.ChainDiverged, match="step 1 in chain 1;"):
        watch.check(8, [torch.zeros(3, 1)], None)
    assert Watch(3, torch.device("cpu")).first.tolist() == [NEVER] * 3
    assert Watch(3, torch.device("cpu"), wanted=False).first is None


def test_what_a_step_writes_to_stays_where_it_is():
    watch = Watch(3, torch.device("cpu"))
    first = watch.first
    watch.see_first(torch.tensor([NEVER, 7, NEVER]))
    for t in range(40):
        watch.see_energy(t, torch.tensor([0.0, 0.0, math.nan if t > 3 else 0.0]))
    first[0] = 2  # as a ready step does, which holds the address
    assert watch.first.tolist() == [2, 7, 4]
