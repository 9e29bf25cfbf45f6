"""What langevin cannot do it refuses at the door, naming the argument."""

import math

import pytest
import torch
from targets import quadratic

import hatebm

X = torch.ones(4, 3)
REFUSALS = [
    ({"n_steps": -1}, "n_steps must be"),
    ({"n_steps": 1.5}, "n_steps must be"),
    ({"eps": None}, "step_size must be given, or eps"),
    ({"step_size": 0.1}, "step_size must be given, or eps"),
    ({"noise_std": 0.1}, "noise_std must be left out beside eps"),
    ({"eps": math.nan}, "eps must be finite"),
    ({"eps": [0.1]}, "eps must be a schedule of at least 3"),
    ({"eps": "small"}, "eps must be a number"),
    ({"eps": (0.1, 0.1)}, "eps must be a tuple of 1"),
    ({"eps": (0.1, 0.2), "clip": (None, None, None)}, "tuples must be"),
    ({"temperature": 0}, "temperature must be finite and > 0"),
    ({"prior_precision": math.inf}, "prior_precision must be"),
    ({"noise_at": "first"}, "noise_at must be one of"),
    ({"clamp_at": "noise\\+step"}, "clamp_at must be"),
    ({"clamp": (1, 0)}, "clamp must be"),
    ({"clip": ("value", -1.0)}, "clip must be"),
    ({"blocks": "gibbs"}, "blocks must be one of"),
    ({"mode": "test"}, "mode must be one of"),
    ({"nan": "warn"}, "nan must be"),
    ({"every": 0}, "every must be"),
    ({"first_step": -1}, "step must be in"),
    ({"seed": 2**64}, "seed must be in"),
    ({"chain_ids": [1, 2]}, "chain_ids must be"),
    ({"energy": None}, "energy must be"),
    ({"energy": lambda x: x}, "energy's result must be"),
    ({"energy": lambda x: x.sum(1).detach()}, "energy must be a function of the state"),
    ({"energy": lambda x: torch.zeros(4, requires_grad=True)}, "energy must be a function of the state"),
    ({"x": X.half()}, "x must be float32"),
    ({"x": torch.tensor(1.0)}, "x must be"),
    ({"x": (X, X[:2])}, "x must be blocks"),
    ({"x": {0: X}}, "x must be a tensor or a tuple"),
    ({"noise": lambda t: X[:2]}, "noise must be a tensor of shape"),
    ({"dynamics": hatebm.Dynamics(eps=0.1)}, "dynamics must be given alone"),
]


@pytest.mark.parametrize(
    ("changes", "message"), REFUSALS, ids=[next(iter(c)) + str(i) for i, (c, _) in enumerate(REFUSALS)]
)
def test_bad_arguments_are_named(changes, message):
    call = {"energy": quadratic, "x": X, "n_steps": 3, "eps": 0.1, "seed": 0} | changes
    if "clamp_at" in call:
        call["clamp_at"] = "noise+step"
    with pytest.raises((ValueError, TypeError), match=message):
        hatebm.langevin(**call)
    assert torch.equal(X, torch.ones(4, 3))


@pytest.mark.parametrize("name", ["hmc", "tempering"])
def test_a_refusal_names_the_function_that_was_called(name):
    more = {"temperatures": [1, 2]} if name == "tempering" else {}
    for changes, message in (({"mask": X}, "mask must be a bool tensor"), ({"seed": 2**64}, "seed must be in")):
        with pytest.raises((ValueError, TypeError), match=rf"^{name}: {message}"):
            getattr(hatebm, name)(quadratic, X, 3, eps=0.1, **{"seed": 0} | changes, **more)
    with pytest.raises(ValueError, match=rf"^{name}: energy's result must be"):
        getattr(hatebm, name)(lambda x: x, X, 3, eps=0.1, seed=0, **more)
