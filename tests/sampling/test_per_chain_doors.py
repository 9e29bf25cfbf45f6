"""Numbers for each chain at the door: what fits, what is refused by name, and what a law with tensors in it is."""

import copy
import dataclasses
import json
import pickle

import numpy
import pytest
import torch
from targets import quadratic

import hatebm

X = torch.linspace(-1, 1, 12).view(4, 3)
EACH = [0.1, 0.2, 0.3, 0.4]
MANY = torch.rand(9, 4)


def run(steps=3, x=X, **law):
    return hatebm.langevin(quadratic, x, steps, **{"eps": 0.1, "seed": 0} | law)


@pytest.mark.parametrize("kind", [numpy.array, list, tuple, lambda v: torch.tensor(v, dtype=torch.float64)])
def test_numbers_of_any_kind(kind):
    want = run(temperature=hatebm.per_chain(torch.tensor(EACH, dtype=torch.float64)))
    assert torch.equal(run(temperature=hatebm.per_chain(kind(EACH))), want)
    whole = hatebm.per_chain(torch.arange(1, 5))
    assert torch.equal(run(temperature=whole), run(temperature=hatebm.per_chain([1.0, 2.0, 3.0, 4.0])))


REFUSED = {
    "another number of chains": ({"eps": hatebm.per_chain([0.1, 0.2])}, r"Dynamics: eps must be numbers for 4 chains"),
    "rows of another": ({"eps": hatebm.per_chain(MANY[:, :3])}, r"eps must be numbers for 4 chains, \(n,\) or \(steps"),
    "a tensor of (n,)": (
        {"eps": torch.full((4,), 0.1), "steps": 5},
        r"not by the chain \(a number a chain is hatebm",
    ),
    "a longer one": (
        {"eps": torch.full((4,), 0.1)},
        r"eps must be hatebm.per_chain\(tensor\) for a number a chain, or a",
    ),
    "(n,) of a prior": ({"prior_precision": torch.ones(4)}, r"a number for each chain is hatebm.per_chain\(tensor\)"),
    "(n,) of a bound": ({"clip": ("norm", torch.ones(4))}, r"a number for each chain is hatebm.per_chain\(tensor\)"),
    "too few steps": ({"eps": hatebm.per_chain(MANY[:2])}, "eps must be a schedule of at least 3 entries"),
    "noise below 0": (
        {"eps": hatebm.per_chain([0.1, -0.1, 0.1, 0.1])},
        "Dynamics: eps must be finite and >= 0, got -0.1",
    ),
    "a NaN": ({"temperature": hatebm.per_chain([1.0, float("nan"), 1.0, 1.0])}, "temperature must be finite and > 0"),
    "no temperature": ({"temperature": hatebm.per_chain([1.0, 0.0, 1.0, 1.0])}, "temperature must be finite and > 0"),
    "beyond float32": (
        {"prior_precision": hatebm.per_chain([1e39] * 4)},
        "prior_precision must be finite in the range",
    ),
    "a bound of 0": ({"clip": ("norm", hatebm.per_chain([0.0] * 4))}, r"clip must be \('value', c\) or \('norm', c\)"),
    "steps that tell no noise": (
        {"eps": None, "step_size": hatebm.per_chain([0.1, -0.1, 0.1, 0.1])},
        "step_size must be a number >= 0 when noise_std is left out, got -0.1",
    ),
    "a learned tensor of (n,)": (
        {"eps": torch.full((4,), 0.1, requires_grad=True)},
        r"eps must be hatebm.per_chain\(tensor\) for a number a chain",
    ),
    "one by one": (
        {"eps": [torch.tensor(0.1, requires_grad=True)] * 3},
        "eps must be one tensor where numbers are learn",
    ),
    "a function of the step": ({"eps": lambda t: hatebm.per_chain(EACH)}, r"hatebm.per_chain of \(steps, n\)"),
    "without data": ({"eps": hatebm.per_chain(torch.ones(4, device="meta"))}, "eps must be numbers that can be read"),
    "where there is one": ({"friction": hatebm.per_chain(EACH)}, "friction must be a number"),
    "a box": ({"clamp": (hatebm.per_chain(EACH), 1)}, "clamp must be a number"),
}


@pytest.mark.parametrize(("law", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_name(law, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(**law)


def test_a_list_is_a_schedule_of_any_length():
    assert torch.equal(run(eps=[0.1] * 4), run(eps=0.1))
    assert torch.equal(run(eps=torch.full((5,), 0.125)), run(eps=0.125))
    assert torch.equal(run(steps=4, eps=torch.full((4,), 0.125)), run(steps=4, eps=0.125))


MADE = {
    "no dimension": (torch.tensor(0.1), r"per_chain: numbers must be of shape \(n,\) or \(steps, n\)"),
    "three": (torch.ones(2, 2, 2), r"per_chain: numbers must be of shape \(n,\) or \(steps, n\)"),
    "a number": (0.1, "per_chain: numbers must be of shape"),
    "complex": (torch.ones(2, dtype=torch.complex64), "per_chain: numbers must be real numbers"),
    "bools": (torch.ones(2, dtype=torch.bool), "per_chain: numbers must be real numbers"),
    "words": (["a"], "per_chain: numbers must be a tensor of shape"),
    "ragged": ([[0.1], [0.1, 0.2]], "per_chain: numbers must be a tensor of shape"),
    "learned one by one": ([torch.tensor(0.1, requires_grad=True)], "per_chain: numbers must be one tensor where numb"),
    "sparse": (torch.eye(2).to_sparse(), "per_chain: numbers must be a dense tensor"),
}


@pytest.mark.parametrize(("numbers", "message"), MADE.values(), ids=MADE)
def test_what_is_no_number_a_chain_is_refused(numbers, message):
    with pytest.raises((TypeError, ValueError), match=message):
        hatebm.per_chain(numbers)


OPS = {
    "steps": (
        {"step_size": hatebm.per_chain(MANY)},
        r"step_size must be a number, or hatebm.per_chain of shape \(4,\)",
    ),
    "too few": ({"noise_std": hatebm.per_chain([0.1])}, r"noise_std must be a number, or hatebm.per_chain of shape"),
    "learned": (
        {"temperature": hatebm.per_chain(torch.ones(4, requires_grad=True))},
        "temperature must be a number with",
    ),
    "below 0": (
        {"noise_std": hatebm.per_chain([0.1, -1, 0, 0])},
        "noise_std must be a finite number >= 0 in the range",
    ),
    "a bound": ({"clip": ("norm", hatebm.per_chain([1.0, 0, 1, 1]))}, r"clip must be \('value', c\)"),
}


@pytest.mark.parametrize(("law", "message"), OPS.values(), ids=OPS)
def test_a_step_alone_takes_one_number_a_chain(law, message):
    with pytest.raises((TypeError, ValueError), match="^langevin_step_: " + message):
        hatebm.ops.langevin_step_(X.clone(), X, **{"step_size": 0.1, "seed": 0, "step": 0} | law)


def test_a_part_of_the_chains_is_a_part():
    with pytest.raises(TypeError, match="rows must be a slice or a tensor, got 2"):
        hatebm.Dynamics(eps=hatebm.per_chain(EACH)).for_chains(2)


@pytest.mark.parametrize("compile", ["auto", "off"])
def test_a_number_that_a_callback_changes_is_that_of_the_run(compile):
    each = torch.full((4,), 0.1)
    law = {"eps": hatebm.per_chain(each), "seed": 0, "compile": compile}
    changes = {"callback": lambda t, state: each.fill_(0.2), "every": 5}
    got = hatebm.langevin(hatebm.energies.DoubleWell(), X, 10, **law, **changes)
    assert torch.equal(got, hatebm.langevin(hatebm.energies.DoubleWell(), X, 10, eps=0.1, seed=0))


def test_a_saved_chain_of_another_number_does_not_fit_the_law():
    chain = hatebm.Chain(quadratic, X, eps=hatebm.per_chain(EACH), seed=0)
    other = hatebm.Chain(quadratic, X[:3], eps=0.1, seed=0).state_dict()
    before = chain.state_dict()
    with pytest.raises(ValueError, match=r"^load_state_dict: eps must be numbers for 3 chains, .* of shape \(4,\)"):
        chain.load_state_dict(other)
    after = chain.state_dict()
    assert all(torch.equal(torch.as_tensor(after[name]), torch.as_tensor(before[name])) for name in before)
    chain.load_state_dict(before)
    free = hatebm.Chain(quadratic, X, eps=0.1, seed=0)
    free.load_state_dict(other)
    assert len(free.run(1)) == 3


def test_a_number_changed_in_place_is_read_by_the_next_run():
    each = torch.tensor(EACH)
    chain = hatebm.Chain(quadratic, X, eps=hatebm.per_chain(each), seed=0)
    middle = chain.run(2)
    each[1] = 0.05
    want = hatebm.langevin(quadratic, middle, 2, eps=hatebm.per_chain(each.clone()), seed=0, first_step=2)
    assert torch.equal(chain.run(2), want)
    each[1] = -1.0
    with pytest.raises(ValueError, match="eps must be finite and >= 0"):
        chain.run(1)


def test_a_law_with_tensors_is_a_value():
    """Equal where it holds the same tensors, whatever becomes of their numbers, and its hash stays."""
    each = torch.tensor(EACH)
    make = lambda **law: hatebm.Dynamics(**{"eps": hatebm.per_chain(each)} | law)  # noqa: E731
    law, same = (make(clip=("norm", hatebm.per_chain(each))) for _ in range(2))
    told = {law: 1}
    assert law == same
    assert told[same] == 1
    others = [make(), make(eps=hatebm.per_chain(each.clone())), make(eps=hatebm.per_chain(each.flip(0))), make(eps=0.1)]
    others += [make(eps=hatebm.per_chain(each[None])), make(eps=[0.1] * 4), make(eps=each.clone().requires_grad_())]
    others += [make(eps=hatebm.per_chain(torch.ones(4, device="meta"))), make(eps=hatebm.per_chain(each.double()))]
    assert all(law != other for other in others)
    assert len({*others, law}) == len(others) + 1
    each.fill_(0.3)
    assert law == same
    assert told[same] == 1
    assert "per_chain(a float32 tensor of shape (4,) on cpu from 0.3 to 0.3)" in repr(law)
    assert "learned(a float32 tensor of shape (4,)" in repr(make(eps=each.clone().requires_grad_()))
    assert dataclasses.replace(law) == law
    for copied in (pickle.loads(pickle.dumps(law)), copy.deepcopy(law)):
        assert torch.equal(copied.eps.tensor, each)
        assert copied != law
    with pytest.raises(TypeError, match="LawTensor is not JSON serializable"):
        json.dumps(dataclasses.asdict(law))


def test_schedules_are_hashable_too():
    assert hash(hatebm.Dynamics(eps=[0.1, 0.2])) == hash(hatebm.Dynamics(eps=numpy.array([0.1, 0.2])))
    assert hash(hatebm.Dynamics(eps=lambda t: 0.1)) != hash(hatebm.Dynamics(eps=lambda t: 0.1))


def test_a_chain_that_learns_can_be_copied_and_pickled():
    alpha = torch.tensor(0.1, requires_grad=True)
    for number in (alpha, 2 * alpha):
        chain = hatebm.Chain(quadratic, X, step_size=number, noise_std=0.1, seed=0)
        chain.run(1)
        assert torch.equal(
            copy.deepcopy(chain).run(2),
            hatebm.Chain(quadratic, X, step_size=number.item(), noise_std=0.1, seed=0).run(3),
        )
    chain = hatebm.Chain(quadratic, X, step_size=alpha, noise_std=0.1, seed=0)
    other = pickle.loads(pickle.dumps(chain))
    assert torch.equal(other.run(2), chain.run(2))
