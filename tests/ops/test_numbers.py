"""Numbers are numbers, whoever made them: Python, NumPy or torch; and what float32 cannot hold is refused."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy
import pytest
import torch
from targets import quadratic

import hatebm

KINDS = {
    "numpy.float32": numpy.float32,
    "numpy.float64": numpy.float64,
    "numpy.float16": numpy.float16,
    "array": numpy.array,
    "tensor": torch.tensor,
    "bfloat16 tensor": lambda v: torch.tensor(v, dtype=torch.bfloat16),
    "parameter": lambda v: torch.nn.Parameter(torch.tensor(v), requires_grad=False),
    "fraction": Fraction,
}
WHOLE = {"numpy.int64": numpy.int64, "numpy.uint8": numpy.uint8, "array": numpy.array, "tensor": torch.tensor}
LISTS = {"array": numpy.array, "float32 array": numpy.float32, "tensor": torch.tensor, "list of arrays": list}
X = torch.linspace(-1, 1, 12).view(4, 3)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_number_of_any_kind_is_the_number(kind):
    def made(number):
        law = {"step_size": number(0.125), "noise_std": number(0.25), "temperature": number(2.0)}
        law |= {"prior_precision": number(0.5), "clip": ("norm", number(1.5)), "clamp": (number(-0.5), number(0.75))}
        return hatebm.Dynamics(**law)

    law, want = made(kind), made(float)
    assert law == want
    assert hash(law) == hash(want)
    assert repr(law) == repr(want)
    assert json.loads(json.dumps(dataclasses.asdict(law))) == json.loads(json.dumps(dataclasses.asdict(want)))
    assert torch.equal(
        hatebm.langevin(quadratic, X, 3, dynamics=law, seed=0), hatebm.Chain(quadratic, X, want, seed=0).run(3)
    )


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)
def test_schedules_of_any_kind_are_lists(kind):
    numbers = [0.5, 0.25, 0.125]
    law = hatebm.Dynamics(eps=kind(numbers), temperature=kind([1.0, 2.0, 1.5]))
    assert law == hatebm.Dynamics(eps=numbers, temperature=[1.0, 2.0, 1.5])
    assert all(type(number) is float for number in law.eps)
    per_step = hatebm.Dynamics(eps=lambda t: kind(numbers)[t], temperature=[1.0, 2.0, 1.5])
    want = hatebm.langevin(quadratic, X, 3, dynamics=law, seed=0)
    assert torch.equal(hatebm.langevin(quadratic, X, 3, dynamics=per_step, seed=0), want)


@pytest.mark.parametrize("kind", WHOLE.values(), ids=WHOLE)
def test_an_integer_of_any_kind_counts(kind):
    call = {"eps": 0.1, "return_info": True}
    got = hatebm.langevin(quadratic, X, kind(5), seed=kind(3), first_step=kind(2), every=kind(2), **call)
    want = hatebm.langevin(quadratic, X, 5, seed=3, first_step=2, every=2, **call)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1]["step"], want[1]["step"])
    ids = numpy.array([9, 4]) if kind is numpy.array else [kind(9), kind(4)]
    place = {"seed": 1, "step": 7 if kind is torch.tensor else kind(7), "block": kind(2), "purpose": kind(5)}
    got = hatebm.normal((kind(2), kind(3)), chain_ids=ids, **place)
    assert torch.equal(got, hatebm.normal((2, 3), seed=1, step=7, block=2, purpose=5, chain_ids=[9, 4]))


def test_every_door_takes_numpy():
    f, i = numpy.float32, numpy.int64
    got = hatebm.hmc(quadratic, X, i(2), eps=f(0.25), leapfrog_steps=i(2), temperature=f(2), seed=i(0))
    assert torch.equal(got, hatebm.hmc(quadratic, X, 2, eps=0.25, leapfrog_steps=2, temperature=2.0, seed=0))
    tempered = {"swap_every": i(1), "eps": f(0.25), "seed": 0, "first_step": i(3)}
    got = hatebm.tempering(quadratic, X, i(3), temperatures=numpy.array([1, 2, 4]), **tempered)
    want = {"swap_every": 1, "eps": 0.25, "seed": 0, "first_step": 3}
    assert torch.equal(got, hatebm.tempering(quadratic, X, 3, temperatures=[1, 2, 4], **want))
    sizes = {"leapfrog_steps": i(2), "trajectories": i(1), "pilot": i(2), "std": f(0.5), "temperature": f(1)}
    got = hatebm.ais(quadratic, numpy.array([4, 3]), bridges=numpy.linspace(0, 1, 4), eps=f(0.25), seed=i(0), **sizes)
    sizes = {"leapfrog_steps": 2, "trajectories": 1, "pilot": 2, "std": 0.5}
    assert got.log_z == hatebm.ais(quadratic, (4, 3), bridges=[0, 1 / 3, 2 / 3, 1], eps=0.25, seed=0, **sizes).log_z
    buffer = hatebm.ReplayBuffer(i(4), (i(3),), box=numpy.array([-1, 1]), seed=i(0))
    buffer.push(X, i(0))
    assert buffer.state_dict()["low"] == -1.0
    own = hatebm.ReplayBuffer(4, (3,), box=(-1, 1), seed=0)
    own.push(X, 0)
    for a, b in zip(buffer.draw(i(6), i(1), reinit=f(0.25)), own.draw(6, 1, reinit=0.25), strict=True):
        assert a is b is None or torch.equal(a, b)
    assert float(hatebm.negate(quadratic, quadratic, f(0.5))(X).sum()) == float(quadratic(X).sum() / 2)
    assert float(hatebm.energies.DoubleWell(f(2), torch.tensor(0.5)).height) == 2.0
    step = {"step_size": f(0.125), "noise_std": torch.tensor(0.25), "temperature": f(2), "clamp": (f(-1), None)}
    got = hatebm.ops.langevin_step_(X.clone(), X, seed=i(1), step=i(2), prior_precision=f(0.5), **step)
    step = {"step_size": 0.125, "noise_std": 0.25, "temperature": 2, "clamp": (-1, None)}
    assert torch.equal(got, hatebm.ops.langevin_step_(X.clone(), X, seed=1, step=2, prior_precision=0.5, **step))


BEYOND = {
    "step_size": [1e39, -1e39, 10**400, [0.1, 1e39, 0.1], lambda t: 1e39],
    "noise_std": [1e39, 10**400, torch.tensor([0.1, 1e39, 0.1], dtype=torch.float64)],
    "eps": [1e20, 1e39, [1e20] * 3, lambda t: 1e20],
    "temperature": [1e-39, 1e39, 10**400, lambda t: 1e-39],
    "prior_precision": [1e39, -(10**400)],
    "clip": [("value", 1e39), ("norm", 1e308)],
    "clamp": [(0, 1e39), (-1e308, None)],
    "reflect": [(0, 1e39)],
}


@pytest.mark.parametrize(
    ("field", "place"), [(field, k) for field, values in BEYOND.items() for k in range(len(values))]
)
def test_what_float32_does_not_hold_is_refused_where_the_state_is_float32(field, place):
    value = BEYOND[field][place]
    law = ({"step_size": 0.1, "noise_std": 0.1} if field != "eps" else {}) | {field: value}
    with pytest.raises(ValueError, match=rf"^Dynamics: {field} must be .*(in the range of float32|finite).*, got "):
        hatebm.langevin(quadratic, X, 3, seed=0, **law)
    if field not in ("eps", "reflect") and not callable(value) and not isinstance(value, list | torch.Tensor):
        with pytest.raises(ValueError, match=rf"^langevin_step_: {field} must be .* in the range of float32, got "):
            hatebm.ops.langevin_step_(X.clone(), X, seed=0, step=0, **law)


def test_float64_holds_more():
    law = {"step_size": 1e39, "noise_std": 0.0, "temperature": 1e39, "prior_precision": 0.0, "clamp": (-1e200, 1e200)}
    got = hatebm.langevin(quadratic, X.double(), 1, seed=0, **law)
    torch.testing.assert_close(got, hatebm.langevin(quadratic, X.double(), 1, step_size=1.0, noise_std=0.0, seed=0))
    with pytest.raises(ValueError, match=r"^Dynamics: eps must be so small that eps\^2 / 2 is finite, got 1e\+200"):
        hatebm.Dynamics(eps=1e200)


ONE = "must be one number for all chains and elements"
SCHEDULE = "must be a number, a list, a 1-D tensor or a callable of the step"
SEVERAL = [
    ({"prior_precision": torch.ones(4)}, f"Dynamics: prior_precision {ONE}, got a float32 tensor of shape \\(4,\\)"),
    ({"prior_precision": numpy.ones((3, 1, 1))}, f"Dynamics: prior_precision {ONE}, got a NumPy array of float64"),
    ({"friction": torch.ones(4)}, f"Dynamics: friction {ONE}"),
    ({"clip": ("value", torch.ones(3, 1, 1))}, f"langevin: clip {ONE}|Dynamics: clip {ONE}"),
    ({"clamp": (torch.zeros(3), torch.ones(3))}, f"Dynamics: clamp {ONE}"),
    ({"step_size": torch.ones(3, 1, 1)}, f"Dynamics: step_size {SCHEDULE}"),
    ({"step_size": lambda t: torch.ones(4)}, "Dynamics: step_size must be a schedule of numbers, one a step"),
    ({"step_size": torch.ones(4), "n_steps": 9}, "step_size must be a schedule of at least 9 .* not by the chain"),
    ({"step_size": torch.full((2, 3), 0.1, requires_grad=True)}, f"step_size {SCHEDULE}"),
    ({"prior_precision": torch.ones(4)}, "a number for each chain is hatebm.per_chain\\(tensor\\)"),
    ({"prior_precision": torch.ones(4, requires_grad=True)}, "a number for each chain is hatebm.per_chain\\(tensor\\)"),
    ({"clamp": torch.ones(2, requires_grad=True)}, "clamp must be a number without a graph"),
]


@pytest.mark.parametrize(
    ("changes", "message"), SEVERAL, ids=[f"{next(iter(c))}{i}" for i, (c, _) in enumerate(SEVERAL)]
)
def test_several_numbers_where_one_is_taken_are_refused(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        hatebm.langevin(quadratic, X, **{"n_steps": 3, "step_size": 0.1, "seed": 0} | changes)


def test_a_block_that_neither_steps_nor_shakes_is_not_clamped():
    x = torch.full((2, 3), 5.0)
    z, y = hatebm.langevin(lambda z, y: quadratic(z) + quadratic(y), (x, x), 3, eps=(0.0, 0.1), clamp=(0, 1), seed=0)
    assert torch.equal(z, x)
    assert float(y.max()) <= 1
    assert math.isfinite(float(y.sum()))


def test_blocks_come_in_lists_too():
    blocks = [X.clone(), X[:, :2].clone()]
    energy = lambda z, y: quadratic(z) + quadratic(y)  # noqa: E731
    want = hatebm.langevin(energy, tuple(blocks), 4, eps=0.1, seed=0)
    got = hatebm.langevin(energy, blocks, 4, eps=0.1, seed=0)
    assert type(got) is tuple
    assert all(map(torch.equal, got, want))
    masks = [torch.tensor([True, False, True]), None]
    noise = lambda kind: lambda t: kind(torch.full_like(x, 0.5) for x in blocks)  # noqa: E731
    gradient = lambda kind: lambda z, y: kind((2 * z, 2 * y))  # noqa: E731

    def run(kind):
        given = {"mask": kind(masks), "noise": noise(kind), "grad_fn": gradient(kind)}
        return hatebm.Chain(None, kind(blocks), eps=0.1, seed=0, **given)

    chain = run(list)
    assert all(map(torch.equal, chain.run(3), run(tuple).run(3)))
    saved = chain.state_dict()
    chain.load_state_dict(saved | {"state": list(saved["state"])})
    assert all(map(torch.equal, chain.state, saved["state"]))
