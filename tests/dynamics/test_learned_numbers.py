"""Numbers of a law that are learned: their gradients through chains, from every step, and what they hold in memory."""

import gc
import weakref

import pytest
import torch
from torch import nn

import hatebm

N, D, STEPS = 3, 2, 4
F64 = {"dtype": torch.float64}


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **F64)


def energy(x):
    """Smooth, with a gradient that differs from chain to chain, so that every number counts."""
    return (torch.cosh(0.7 * x) + 0.3 * (x * x.flip(1)).sin()).sum(1)


NOISE = drawn(STEPS, N, D, seed=5)


def run(law, x, **how):
    return hatebm.langevin(energy, x, STEPS, noise=lambda t: NOISE[t], compile="off", **law, **how)


SHAPES = {"one": (), "each step": (STEPS,), "each chain": (N,), "each step and chain": (STEPS, N)}
AT = {"step_size": 0.1, "noise_std": 0.3, "eps": 0.4, "temperature": 0.8, "prior_precision": 0.5, "clip": 0.05}
LAWS = {
    "step_size": {"noise_std": 0.2},
    "step_size alone": {},
    "noise_std": {"step_size": 0.1, "add": "increment"},
    "noise_std first": {"step_size": 0.1, "noise_at": "before", "clamp": (-1.5, 2.0), "clamp_at": "noise+step"},
    "eps": {"add": "fma", "clamp": (-2.0, 1.5)},
    "temperature": {"step_size": 0.1, "prior_precision": 0.3},
    "prior_precision": {"step_size": 0.1, "temperature": 1.5, "clip": ("norm", 9.0)},
    "clip value": {"step_size": 0.2},
    "clip norm": {"step_size": 0.2},
    "clip value of the update": {"step_size": 0.2, "clip_on": "update"},
    "clip norm of the update": {"step_size": 0.2, "clip_on": "update"},
}


def law_of(name, number, shape):
    field = name.split()[0]
    held = hatebm.per_chain(number) if shape in ("each chain", "each step and chain") else number
    return LAWS[name] | {field: (name.split()[1], held) if field == "clip" else held}


def number_of(name, shape):
    at = AT[name.split()[0]] * (0.25 if "update" in name else 1.0)
    spread = 1 + 0.1 * drawn(*SHAPES[shape], seed=7).tanh()
    return (at * spread).requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LAWS)
def test_every_number_gets_its_gradient_through_all_steps(name, shape):
    if "step" in shape.replace("each step and chain", "step") and name.split()[0] in ("prior_precision", "clip"):
        shape = "each step and chain"  # these know no schedule
    number, x = number_of(name, shape), drawn(N, D, seed=3).requires_grad_()
    function = lambda number, x: run(law_of(name, number, shape), x, grad_steps=STEPS)  # noqa: E731
    assert torch.autograd.gradcheck(function, (number, x))
    (gradient,) = torch.autograd.grad(function(number, x).square().sum(), number)
    assert (gradient != 0).all(), "a number that moves nothing proves nothing"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["step_size", "noise_std first", "temperature", "clip norm"])
def test_so_it_does_in_the_last_steps_alone(name, shape):
    """The steps before count as given, whatever number they took."""
    if shape == "each step" and name.startswith("clip"):
        shape = "each step and chain"
    number, x = number_of(name, shape), drawn(N, D, seed=3)
    law = law_of(name, number, shape)
    (got,) = torch.autograd.grad(run(law, x, grad_steps=2).square().sum(), number)
    middle = hatebm.langevin(energy, x, STEPS - 2, noise=lambda t: NOISE[t], compile="off", **law)
    assert not middle.requires_grad
    how = {"noise": lambda t: NOISE[t], "compile": "off", "first_step": STEPS - 2, "grad_steps": 2}
    (want,) = torch.autograd.grad(hatebm.langevin(energy, middle, 2, **law, **how).square().sum(), number)
    assert torch.equal(got, want)


def test_each_steps_output_carries_the_graph_of_its_own_step():
    """What step t's output depends on is step t's number, at the state where the step before has led."""
    number = number_of("step_size", "each step and chain")
    law = law_of("step_size", number, "each step and chain")
    x = drawn(N, D, seed=3)
    outputs = run(law, x, keep="steps")
    assert len(outputs) == STEPS
    for t, output in enumerate(outputs):
        (gradient,) = torch.autograd.grad(output.square().sum(), number)
        assert (gradient[t] != 0).all()
        assert not gradient[[s for s in range(STEPS) if s != t]].any()
        start = x if t == 0 else outputs[t - 1].detach()
        how = {"noise": lambda t: NOISE[t], "compile": "off", "first_step": t, "grad_steps": 1}
        again = hatebm.langevin(energy, start, 1, **law, **how)
        assert torch.equal(output, again)
        assert torch.equal(gradient, torch.autograd.grad(again.square().sum(), number)[0])


def test_the_graph_of_all_steps_leads_through_them():
    number, x = number_of("step_size", "each step and chain"), drawn(N, D, seed=3).requires_grad_()
    law = law_of("step_size", number, "each step and chain")
    outputs = run(law, x, keep="steps", grad_steps=STEPS)
    whole = run(law, x, grad_steps=STEPS)
    assert torch.equal(outputs[-1], whole)
    (gradient, at_start) = torch.autograd.grad(outputs[-1].square().sum(), (number, x), retain_graph=True)
    assert all(map(torch.equal, (gradient, at_start), torch.autograd.grad(whole.square().sum(), (number, x))))
    (early,) = torch.autograd.grad(outputs[1].square().sum(), number)
    assert (early[:2] != 0).all()
    assert not early[2:].any()


def test_between_none_and_all_the_last_steps_are_linked():
    number = number_of("step_size", "each step and chain")
    outputs = run(law_of("step_size", number, "each step and chain"), drawn(N, D, seed=3), keep="steps", grad_steps=2)
    reached = [torch.autograd.grad(o.sum(), number, retain_graph=True)[0].any(1).tolist() for o in outputs]
    assert reached == [
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, False],
        [False, False, True, True],
    ]


@pytest.mark.parametrize("grad", [True, False])
def test_the_states_are_those_of_a_run(grad):
    x = drawn(5, 3, seed=3).float()
    law = {"eps": hatebm.per_chain(torch.linspace(0.1, 0.3, 5)), "clamp": (-1, 1), "clamp_at": "final"}
    with torch.set_grad_enabled(grad):
        chain = hatebm.Chain(energy, x, seed=0, **law)
        outputs, info = chain.run(STEPS, keep="steps", return_info=True)
    stepwise, told = [], hatebm.Chain(energy, x, seed=0, **law)
    for _ in range(STEPS):
        stepwise.append(told.run(1))
    assert all(map(torch.equal, outputs, stepwise))
    assert torch.equal(chain.state, told.state)
    assert len({output.data_ptr() for output in outputs}) == STEPS
    assert info["energy"].shape == (STEPS, 5)
    blocks = hatebm.langevin(lambda a, b: energy(a) + energy(b), (x, x), 2, eps=0.1, seed=0, keep="steps")
    assert [tuple(part.shape for part in state) for state in blocks] == [((5, 3), (5, 3))] * 2


def test_an_optimiser_moves_a_number_and_the_living_chain_follows():
    """A number is read when a run begins, from wherever it has been moved to."""
    log_step = nn.Parameter(torch.tensor(-2.0))
    step = nn.Parameter(torch.tensor(0.1))
    chain = hatebm.Chain(energy, torch.ones(4, 2), step_size=step, noise_std=0.1, seed=0)
    for parameter, law in ((step, chain), (log_step, None)):
        optimiser = torch.optim.SGD([parameter], lr=0.01)
        for t in range(3):
            if law is None:
                how = {"step_size": log_step.exp(), "noise_std": 0.1, "first_step": t}
                out = hatebm.langevin(energy, torch.ones(4, 2), 1, **how, seed=0, grad_steps=1)
            else:
                before = chain.state
                out = chain.run(1, grad_steps=1)
                now = step.item()
                want = hatebm.langevin(energy, before, 1, step_size=now, noise_std=0.1, first_step=t, seed=0)
                assert torch.equal(out, want)
            old = parameter.item()
            optimiser.zero_grad()
            out.square().sum().backward()
            optimiser.step()
            assert parameter.item() != old


class Held:
    """A tensor that a graph keeps."""

    def __init__(self, tensor):
        self.tensor = tensor


def kept_bytes(function):
    """What graphs still keep when a call has returned, each storage counted once; and what it returned."""
    held = weakref.WeakSet()

    def pack(tensor):
        kept = Held(tensor)
        held.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        result = function()
    gc.collect()
    storages = {kept.tensor.untyped_storage().data_ptr(): kept.tensor.untyped_storage().nbytes() for kept in held}
    return sum(storages.values()), result


@pytest.mark.parametrize("linked", [False, True], ids=["own steps", "through all"])
def test_a_step_holds_as_much_as_every_other_and_a_list_as_long_as_it_lives(linked):
    step = torch.tensor(0.1, requires_grad=True)
    net = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 1), nn.Flatten(0))

    def outputs(steps):
        how = {"keep": "steps", "grad_steps": steps if linked else 0, "compile": "off"}
        return hatebm.langevin(net, torch.ones(16, 8), steps, step_size=step, noise_std=0.1, seed=0, **how)

    held = [kept_bytes(lambda steps=steps: outputs(steps)) for steps in (4, 8, 12)]
    first, second = held[1][0] - held[0][0], held[2][0] - held[1][0]
    assert first > 0
    assert abs(second - first) <= 0.02 * first
    chain = hatebm.Chain(net, torch.ones(16, 8), step_size=step, noise_std=0.1, seed=0, compile="off")
    result = chain.run(3, keep="steps", grad_steps=3 if linked else 0)
    gone = [weakref.ref(output) for output in result]
    del result
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3, "a chain holds no graph of its past"


@pytest.mark.parametrize("each", [False, True], ids=["of all", "of each chain"])
def test_a_number_that_begins_at_0_learns(each):
    step = torch.zeros(3 if each else (), requires_grad=True, **F64)
    law = {"step_size": hatebm.per_chain(step) if each else step, "noise_std": 0.0, "grad_steps": 1}
    x = drawn(3, 2)
    out = hatebm.langevin(energy, x, 1, **law)
    assert torch.equal(out, x)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    (got,) = torch.autograd.grad(out.sum(), step)
    torch.testing.assert_close(got, -slope.sum(1) if each else -slope.sum())


def test_a_chain_that_rests_does_so_beside_another_number_that_learns():
    still, x = hatebm.per_chain([0.0, 0.1]), torch.full((2, D), 5.0, **F64)
    temperature = torch.tensor(1.0, requires_grad=True)
    law = {"step_size": still, "noise_std": still, "temperature": temperature, "clamp": (-1, 1), "seed": 0}
    out = hatebm.langevin(energy, x, 3, **law, grad_steps=3)
    assert torch.equal(out[0], x[0])
    assert out[1].abs().max() <= 1


def test_no_chains_learn_nothing():
    step = torch.ones(0, requires_grad=True)
    out = hatebm.langevin(energy, torch.zeros(0, D), 2, step_size=hatebm.per_chain(step), noise_std=0.1, grad_steps=2)
    out.sum().backward()
    assert step.grad.shape == (0,)


def test_what_a_mask_holds_leads_no_graph_back_to_the_start():
    x, step = drawn(N, D, seed=3).requires_grad_(), torch.tensor(0.1, requires_grad=True)
    states = run({"step_size": step, "noise_std": 0.1}, x, keep="steps", mask=torch.tensor([True, False]))
    assert [torch.autograd.grad(s.sum(), x, retain_graph=True, allow_unused=True)[0] for s in states] == [None] * STEPS
    assert all(torch.equal(s[:, 1], x[:, 1]) for s in states)


def test_without_a_graph_nothing_is_held():
    step = torch.tensor(0.1, requires_grad=True)
    law = {"step_size": step, "noise_std": 0.1, "seed": 0}
    assert kept_bytes(lambda: hatebm.langevin(energy, torch.ones(4, 2), 5, **law))[0] == 0
    x = hatebm.langevin(energy, torch.ones(4, 2), 5, **law)
    assert not x.requires_grad
    with torch.no_grad():
        states = hatebm.langevin(energy, torch.ones(4, 2), 5, **law, keep="steps")
    assert not any(state.requires_grad for state in states)
    assert torch.equal(states[-1], x)


def test_who_keeps_no_graph_keeps_no_steps():
    for how in ({"correct": "mala"}, {"friction": 1.0}):
        chain = hatebm.Chain(energy, torch.ones(4, 2), eps=0.1, seed=0, **how)
        with pytest.raises(
            ValueError, match=r"^langevin: keep must be 'last' with correct, leapfrog_steps or friction"
        ):
            chain.run(2, keep="steps")
    with pytest.raises(ValueError, match=r"^langevin: keep must be one of \('last', 'steps'\), got 'all'"):
        hatebm.langevin(energy, torch.ones(4, 2), 2, eps=0.1, keep="all")
