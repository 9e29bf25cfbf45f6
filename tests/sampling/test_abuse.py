"""Whatever is asked of langevin: the answer is the float64 loop's, or a message that names the argument."""

import math
import re
from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hatebm

STEPS = 3
SEED = 11


def energy_of(shape):
    """A smooth energy that treats every element differently, in the dtype of its input."""
    numel = math.prod(shape)
    weight = torch.linspace(0.5, 1.5, numel, dtype=torch.float64).view(shape)

    def energy(x):
        w = weight.to(x.dtype)
        return (w * (1.5 * x * x + x.cos())).reshape(len(x), numel).sum(1)

    return energy


def pull(x, weight):
    return weight * (3 * x - x.sin())


def the_loop(x, law, first_step, mask):
    """The law of Dynamics as its docstring says it, in float64 and one element at a time where that is easier."""
    weight = torch.linspace(0.5, 1.5, math.prod(x.shape[1:]), dtype=torch.float64).view(x.shape[1:])
    start, x = x.double(), x.double()
    low, high = law.get("clamp") or law.get("reflect") or (None, None)
    low, high = -math.inf if low is None else low, math.inf if high is None else high

    def walled(x):
        if law.get("clamp"):
            return x.clamp(low, high)
        while law.get("reflect") and ((x < low) | (x > high)).any():
            x = torch.where(x < low, 2 * low - x, x)
            x = torch.where(x > high, 2 * high - x, x)
        return x

    for t in range(first_step, first_step + STEPS):
        s, n = law["step_size"], law["noise_std"]
        s = s[t] if isinstance(s, list) else s
        temperature = law["temperature"](t) if callable(law["temperature"]) else law["temperature"]
        eps = n * hatebm.normal(x.shape, seed=SEED, step=t).double()
        eps = eps if mask is None else torch.where(mask, eps, 0)
        at = x + eps if law["noise_at"] == "before" else x
        if law["noise_at"] == "before" and law["clamp_at"] == "noise+step":
            at = walled(at)
        at = at if mask is None else torch.where(mask, at, start)
        g = pull(at, weight) / temperature + law["prior_precision"] * at
        g = g if mask is None else torch.where(mask, g, 0)
        scale = s if law["clip_on"] == "update" else 1.0
        if law["clip"]:
            kind, c = law["clip"]
            if kind == "value":
                g = (scale * g).clamp(-c, c) / scale
            else:
                norm = abs(scale) * g.reshape(len(g), math.prod(g.shape[1:])).norm(dim=1)
                factor = torch.where(norm > c, c / norm, 1.0)
                g = g * factor.view(-1, *[1] * (g.dim() - 1))
        moved = at - s * g + (eps if law["noise_at"] == "after" else 0)
        moved = moved if law["clamp_at"] == "final" else walled(moved)
        x = moved if mask is None else torch.where(mask, moved, start)
    boxed = walled(x) if law["clamp_at"] == "final" else x
    return boxed if mask is None else torch.where(mask, boxed, start)


small = st.integers(0, 5)
shapes = st.tuples(small, small) | st.tuples(small) | st.tuples(small, small, small) | st.just((2, 1030))
boxes = st.sampled_from([(-0.5, 0.5), (None, 0.4), (-0.3, None)])


@st.composite
def calls(draw):
    """A state in some layout and dtype, a law, and where it may move."""
    shape = draw(shapes)
    x = torch.empty(shape, dtype=torch.float64).uniform_(-1, 1, generator=torch.Generator().manual_seed(draw(small)))
    x = x.to(draw(st.sampled_from([torch.float32, torch.float64])))
    layout = draw(st.sampled_from(["rows", "sliced", "turned"]))
    if layout == "sliced":
        x = torch.stack([x, x], -1)[..., 0]
    elif layout == "turned" and len(shape) > 1:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    noise_at = draw(st.sampled_from(["after", "before"]))
    clamp_at = draw(st.sampled_from(["step", "final"] + ["noise+step"] * (noise_at == "before")))
    walls = draw(st.sampled_from([None, "clamp", "reflect"])) if clamp_at != "final" else "clamp"
    law = {
        "step_size": draw(st.sampled_from([0.01, 0.2, -0.05, [0.1, 0.05, 0.02, 0.01, 0.2]])),
        "noise_std": draw(st.sampled_from([0.0, 0.3, 1.5])),
        "temperature": draw(st.sampled_from([1.0, 0.3, lambda t: 1.0 + t])),
        "prior_precision": draw(st.sampled_from([0.0, 0.7])),
        "noise_at": noise_at,
        "add": draw(st.sampled_from(["sequential", "increment", "fma"])),
        "clip": draw(st.sampled_from([None, ("value", 0.2), ("norm", 0.5)])),
        "clip_on": draw(st.sampled_from(["grad", "update"])),
        "clamp_at": clamp_at,
    }
    law |= {walls: draw(boxes)} if walls else {}
    mask = draw(st.none() | st.booleans())
    if mask is not None:
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(draw(small))) < (0.5 if mask else 1.1)
    return x, law, draw(st.integers(0, 2)), mask, draw(st.sampled_from(["scalar", "(n,)", "(n, 1)"]))


@settings(max_examples=200, deadline=None)
@given(calls())
def test_any_law_on_any_state_is_the_loop(call):
    x, law, first_step, mask, form = call
    forms = {"scalar": lambda e: e.sum(), "(n,)": lambda e: e, "(n, 1)": lambda e: e[:, None]}
    energy, entry = energy_of(x.shape[1:]), x.clone()
    got = hatebm.langevin(
        lambda x: forms[form](energy(x)), x, STEPS, seed=SEED, first_step=first_step, mask=mask, **law
    )
    want = the_loop(x, law, first_step, mask)
    assert got.dtype == x.dtype
    assert torch.equal(x, entry)
    tight = x.dtype == torch.float64
    torch.testing.assert_close(got.double(), want, rtol=1e-9 if tight else 2e-5, atol=1e-9 if tight else 2e-5)


numbers = st.sampled_from([math.nan, math.inf, -math.inf])
FLOATS = ("step_size", "noise_std", "eps", "temperature", "prior_precision", "friction")
FORMS = {
    "number": lambda v: v,
    "list": lambda v: [v] * STEPS,
    "tensor": lambda v: torch.full((STEPS,), v),
    "callable": lambda v: lambda t: v,
    "per block": lambda v: (v,),
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FLOATS), numbers, st.sampled_from(list(FORMS)))
@example("step_size", -math.inf, "callable")
def test_numbers_that_are_none_are_named(field, value, form):
    law = {"step_size": 0.1, "noise_std": 0.1}
    if field == "eps":
        law = {}
    if field in ("prior_precision", "friction") and form in ("list", "tensor", "callable"):
        form = "number"
    if field == "friction" and value == math.inf:
        return  # the overdamped chain
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=rf"^Dynamics: {field} must be .*, got "):
        hatebm.langevin(energy_of((3,)), x, STEPS, seed=0, **law | {field: FORMS[form](value)})
    assert torch.equal(x, torch.zeros(4, 3))


@given(st.sampled_from(["clip", "clamp", "reflect"]), st.sampled_from([math.nan, 0.0, -1.0]), st.booleans())
def test_bounds_that_are_none_are_named(field, value, first):
    bounds = {
        "clip": ("norm" if first else "value", value),
        "clamp": (math.nan, 1.0) if first else (1.0, math.nan if math.isnan(value) else value),
        "reflect": (1.0, 1.0) if first else (0.0, math.nan if math.isnan(value) else value),
    }
    with pytest.raises(ValueError, match=rf"^(langevin|Dynamics): {field} must be .*, got "):
        hatebm.langevin(energy_of((3,)), torch.zeros(4, 3), STEPS, eps=0.1, seed=0, **{field: bounds[field]})


@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 3))
def test_a_state_that_is_broken_is_reported_at_its_chain(value, chain):
    x = torch.zeros(4, 3)
    x[chain, 1] = value
    with pytest.raises(hatebm.ChainDiverged) as error:
        hatebm.langevin(energy_of((3,)), x, STEPS, eps=0.1, seed=0)
    assert (error.value.step, error.value.chains) == (0, [chain])


WRONG = [
    None,
    "1",
    True,
    1j,
    b"",
    object(),
    [[0.1]],
    {},
    torch.ones(2, 2),
    torch.tensor([True]),
    (0.1, 0.2),
    [],
    -1,
    0,
    1.5,
    2**70,
]
ARGUMENTS = {
    "x": lambda v: isinstance(v, torch.Tensor) and v.is_floating_point(),
    "n_steps": lambda v: type(v) is int and v in (0, 1),
    "step_size": lambda v: type(v) in (int, float) and v >= 0,
    "temperature": lambda v: type(v) in (int, float) and v > 0,
    "prior_precision": lambda v: type(v) in (int, float),
    "noise_at": lambda v: False,
    "add": lambda v: False,
    "clip": lambda v: v is None,
    "clip_on": lambda v: False,
    "clamp": lambda v: v is None or v == (0.1, 0.2),
    "clamp_at": lambda v: False,
    "reflect": lambda v: v is None or v == (0.1, 0.2),
    "friction": lambda v: v is None or (type(v) in (int, float) and v > 0),
    "blocks": lambda v: False,
    "seed": lambda v: v is None or (type(v) is int and v < 2**63),
    "chain_ids": lambda v: v is None,
    "first_step": lambda v: type(v) is int and 0 <= v < 2**40 - 9,
    "energy_kwargs": lambda v: v is None or v == {},
    "grad_fn": lambda v: v is None,
    "mode": lambda v: False,
    "noise": lambda v: v is None,
    "callback": lambda v: v is None,
    "every": lambda v: type(v) is int and v > 0,
    "nan": lambda v: False,
    "correct": lambda v: v is None,
    "grad_steps": lambda v: type(v) is int and v in (0, 1),
    "mask": lambda v: v is None or (isinstance(v, torch.Tensor) and v.dtype == torch.bool),
    "backend": lambda v: v is None,
    "compile": lambda v: v is True,
    "dynamics": lambda v: v is None,
}


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("value", WRONG, ids=[type(v).__name__ + str(i) for i, v in enumerate(WRONG)])
def test_a_wrong_argument_is_named(argument, value, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    call = {"x": torch.zeros(2, 2), "n_steps": 2, "step_size": 0.01, "seed": 0, argument: value}
    if argument == "dynamics":
        del call["step_size"]
    energy = energy_of((2,)) if argument != "x" else lambda x: x.square().sum(1)
    fits = ARGUMENTS[argument](value)
    if fits and argument != "dynamics":
        hatebm.langevin(energy, nan="ignore", **call)
        return
    with pytest.raises((TypeError, ValueError)) as error:
        hatebm.langevin(energy, **call)
    names = {"first_step": "step", "dynamics": "dynamics|step_size"}.get(argument, argument)
    assert re.match(rf"^(langevin|langevin_step_|Dynamics): ({names}|tuples)\b.* must be .+, got ", str(error.value))


ENERGIES = {
    "a number": lambda x: 1.0,
    "None": lambda x: None,
    "too long": lambda x: torch.cat([x, x]).sum(1),
    "an energy an element": lambda x: x * x,
    "(1, n)": lambda x: x.sum(1)[None],
    "detached": lambda x: x.sum(1).detach(),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy()).sum(1),
    "constant": lambda x: torch.zeros(3, requires_grad=True).sum() + torch.zeros(4),
}


@pytest.mark.parametrize("energy", ENERGIES.values(), ids=ENERGIES)
@pytest.mark.parametrize("law", [{}, {"correct": "mala"}, {"friction": 1.0}], ids=["plain", "mala", "friction"])
def test_energies_that_are_none_are_named(energy, law):
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"^langevin: energy('s result)? must be .*, got "):
        hatebm.langevin(energy, x, 2, eps=0.1, seed=0, **law)
    assert torch.equal(x, torch.zeros(4, 3))


@pytest.mark.parametrize("law", [{"eps": 0.1}, {"eps": 0.1, "correct": "mala"}, {"eps": 0.1, "friction": 1.0}], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (1,), (1, 1), (2, 0), (0,), (1, 0, 2)], ids=str)
def test_sizes_0_and_1(shape, law):
    energy = lambda x: x.reshape(len(x), math.prod(shape[1:])).square().sum(1)  # noqa: E731
    out, info = hatebm.langevin(energy, torch.ones(shape), 3, seed=0, return_info=True, **law)
    assert out.shape == shape
    out, none = hatebm.langevin(energy, torch.ones(shape), 0, seed=0, return_info=True, **law)
    assert torch.equal(out, torch.ones(shape))
    for name, kept in info.items():
        assert (len(kept), *none[name].shape) == (3, 0, *kept.shape[1:])
