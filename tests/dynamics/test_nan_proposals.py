"""A NaN in a proposal's energy or gradient is a refusal, counted and said; where a chain is, it is a fault."""

import math
import warnings

import pytest
import torch

import hatebm

FORMS = [
    {"correct": "mala"},
    {"correct": "mala", "friction": 1.0},
    {"leapfrog_steps": 3},
    {"leapfrog_steps": 2, "friction": 0.5},
]
ENERGIES = {
    "energy": lambda x: (x.square() / 2 - x.log()).sum(1),  # NaN below 0, where its gradient is a number
    "gradient": lambda x: (x.square() / 2 - x.clamp(min=-9).sqrt()).sum(1),
}
SAID = "langevin: proposals with a NaN in their energy or gradient were refused"


def sampled(energy, x, n_steps, **law):
    return hatebm.Chain(energy, x, **law).run(n_steps, return_info=True)


def walled(energy):
    """The same energy, infinite where it is NaN."""
    return lambda x: torch.where((x >= 0).all(1), energy(x.clamp(min=1e-30)), math.inf)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("kind", ENERGIES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_nan_refuses_like_a_wall_and_is_counted(form, kind, backend):
    chain = hatebm.Chain(ENERGIES[kind], torch.full((300, 2), 0.4), eps=0.6, seed=1, backend=backend, **form)
    with pytest.warns(UserWarning, match=SAID):
        x, info = chain.run(30, return_info=True)
    assert x.isfinite().all()
    assert float(x.min()) >= 0
    nan, accept = info["nan_refused"], info["accept"]
    assert nan.shape == accept.shape == (30, 300)
    assert set(nan.unique().tolist()) == {0.0, 1.0}
    assert not (nan * accept).any()
    if kind == "energy":
        want, told = sampled(walled(ENERGIES[kind]), torch.full((300, 2), 0.4), 30, eps=0.6, seed=1, **form)
        assert not told["nan_refused"].any()
        if "leapfrog_steps" not in form:  # whose way may lead through the wall and back
            assert torch.equal(x, want)


def test_an_infinite_energy_is_not_counted_and_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in FORMS:
            _, info = sampled(walled(ENERGIES["energy"]), torch.ones(50, 2), 20, eps=0.9, seed=0, **form)
            assert not info["nan_refused"].any()
            assert 0 < float(info["accept"].mean()) < 1


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_nobody_is_told_who_does_not_want_to_know(form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call = {"eps": 0.6, "seed": 1, "nan": "ignore"}
        x, info = sampled(ENERGIES["energy"], torch.full((300, 2), 0.4), 30, **call, **form)
    assert info["nan_refused"].any()
    assert x.isfinite().all()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_nan_where_a_chain_is_stays_a_fault(form):
    x = torch.ones(4, 2)
    x[2] = -1
    chain = hatebm.Chain(ENERGIES["energy"], x, eps=0.1, seed=0, **form)
    with pytest.raises(hatebm.ChainDiverged, match="step 0 in chain 2"):
        chain.run(3)
    assert torch.equal(chain.state, x)


def test_a_warning_made_an_error_leaves_the_chain_as_it_was():
    start = torch.full((300, 2), 0.4)
    chain = hatebm.Chain(ENERGIES["energy"], start, eps=0.6, seed=1, correct="mala")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=SAID):
            chain.run(30)
    assert torch.equal(chain.state, start)
    assert chain.step == 0


def test_the_gradient_of_a_block_that_rests_counts_too():
    """Of sequential blocks the first one's proposal makes the gradient of the second a NaN."""

    def energy(z, y):
        return z.square().sum(1) / 2 + y.square().sum(1) / 2 + (0 * y * z.sqrt()).sum(1).nan_to_num(0.0)

    def gradient(z, y):
        return z, torch.where(z < 0, math.nan, y)

    start = (torch.full((200, 1), 0.5), torch.zeros(200, 1))
    law = {"eps": 0.5, "blocks": "sequential", "correct": "mala", "seed": 0, "grad_fn": gradient}
    with pytest.warns(UserWarning, match=SAID):
        (z, _), info = hatebm.langevin(energy, start, 20, return_info=True, **law)
    assert float(z.min()) >= 0
    assert set(info["nan_refused"].unique().tolist()) == {0.0, 0.5}


def test_a_compiled_caller_is_told_as_well():
    def caller(x):
        return hatebm.langevin(ENERGIES["energy"], x, 10, eps=0.6, seed=1, correct="mala", return_info=True)

    start = torch.full((300, 2), 0.4)
    with pytest.warns(UserWarning, match=SAID):
        want, info = caller(start)
    with pytest.warns(UserWarning, match=SAID):
        got, told = torch.compile(caller, fullgraph=True, backend="aot_eager")(start)
    assert torch.equal(told["nan_refused"], info["nan_refused"])
    torch.testing.assert_close(got, want)


def test_an_exchange_with_a_nan_energy_is_refused():
    """At the hot temperature some chains sit where the cold one's exchange meets a NaN."""
    hot = torch.full((40, 1), 0.5)
    hot[::2] = -0.5
    call = {"temperatures": [1, 2], "swap_every": 1, "eps": 1e-4, "seed": 0, "return_info": True, "nan": "ignore"}
    x, info = hatebm.tempering(ENERGIES["energy"], [torch.full((40, 1), 0.5), hot], 6, **call)
    assert float(x.min()) > 0
    assert info["swap_energy"][:, 1, ::2].isnan().all()
    assert not info["swap_accept"][0, ::2].any()
