"""Training through the last steps of a chain: gradients against loops of torch and finite differences."""

import itertools

import pytest
import torch
from torch import nn

import hatebm
from hatebm.ops.adjoint import LangevinStep
from hatebm.ops.law_numbers import NUMBERS, as_arguments

OPEN = {"clamp": None, "noise_at": "after", "clamp_at": "step", "reflect": None}


def drawn(shape, seed=77):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step_settings(step_size=0.1, noise_std=0.3, noise=None, **law):
    """The arguments of one fused step, as chains give them."""
    gathered = dict.fromkeys(("gz", "image", "grad_norm", "displacement", "diverged"))
    place = {"seed": 5, "step": 3, "block": 0, "purpose": 0, "chain_ids": None, "noise": noise}
    law = hatebm.Dynamics(step_size=step_size, noise_std=noise_std, **law)
    step_size, noise_std, temperature, prior_precision, bound = law.at(0)
    numbers = as_arguments(step_size, noise_std, 1 / temperature, prior_precision, bound)
    return law.settings() | place | gathered | numbers


STEPS = {
    "sequential": {},
    "increment": {"add": "increment"},
    "fma": {"add": "fma", "temperature": 0.3},
    "descent": {"noise_std": 0.0, "prior_precision": 0.7},
    "clamp": {"clamp": (-0.6, 0.8), "prior_precision": 0.7},
    "value": {"clip": ("value", 0.9), "prior_precision": 0.7, "temperature": 0.6},
    "value of the update": {"clip": ("value", 0.09), "clip_on": "update", "prior_precision": 0.7, "clamp": (None, 1.0)},
    "norm below the cap": {"clip": ("norm", 50.0), "prior_precision": 0.7},
    "norm above the cap": {"clip": ("norm", 0.5), "prior_precision": 0.7, "temperature": 0.6},
    "norm of some above": {"clip": ("norm", 1.5)},
    "norm of the update": {"clip": ("norm", 0.08), "clip_on": "update", "prior_precision": 0.7, "temperature": 0.6},
    "a step backward": {"clip": ("norm", 0.2), "clip_on": "update", "step_size": -0.2},
}


@pytest.mark.parametrize("law", STEPS.values(), ids=STEPS)
def test_the_step_has_the_first_and_second_derivatives_of_its_formula(law):
    settings = step_settings(**law)
    x, grad = (drawn((3, 3), seed).double().requires_grad_() for seed in (1, 2))
    step = lambda x, grad: LangevinStep.apply(x, grad, None, None, settings)  # noqa: E731
    assert torch.autograd.gradcheck(step, (x, grad))
    assert torch.autograd.gradgradcheck(step, (x, grad))


def numbers_of(settings, n):
    """The law of each of n chains, a little apart, or one for all."""
    column = torch.tensor([settings[name] for name in NUMBERS], dtype=torch.float64)[:, None]
    return (column * (1 + 0.05 * torch.arange(n))).requires_grad_()


@pytest.mark.parametrize("given", [False, True], ids=["noise drawn", "noise given"])
@pytest.mark.parametrize("columns", [3, 1], ids=["of each chain", "of all"])
@pytest.mark.parametrize("law", STEPS.values(), ids=STEPS)
def test_so_it_has_in_the_numbers_of_the_law(law, columns, given):
    settings = step_settings(**law, noise=drawn((3, 3), 9).double() if given else None)
    x, grad = (drawn((3, 3), seed).double().requires_grad_() for seed in (1, 2))
    step = lambda *parts: LangevinStep.apply(*parts, None, settings)  # noqa: E731
    assert torch.autograd.gradcheck(step, (x, grad, numbers_of(settings, columns)))
    assert torch.autograd.gradgradcheck(step, (x, grad, numbers_of(settings, columns)))


@pytest.mark.parametrize("law", [{}, {"clamp": (-0.6, 0.8)}], ids=str)
def test_noise_alone_passes_the_gradient_on(law):
    settings = step_settings(**law)
    x = drawn((3, 4), 1).double().requires_grad_()
    for numbers in (None, numbers_of(settings, 3), numbers_of(settings, 1)):
        step = lambda x, numbers: LangevinStep.apply(x, None, numbers, None, settings)  # noqa: E731
        assert torch.autograd.gradcheck(step, (x, numbers))
        assert torch.autograd.gradgradcheck(step, (x, numbers))


@pytest.mark.parametrize("clip", [("norm", 1.0), ("value", 1.0)], ids=str)
def test_a_gradient_of_0_is_below_every_cap(clip):
    x, grad, u = (torch.zeros(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    out = LangevinStep.apply(x, grad, None, None, step_settings(clip=clip, prior_precision=0.5))
    first = torch.autograd.grad(out, (x, grad), u + 1, create_graph=True)
    torch.testing.assert_close(first, (torch.full_like(x, 0.95), torch.full_like(x, -0.1)))
    second = torch.autograd.grad(sum(g.sum() for g in first), (x, grad, u), allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(second, (torch.zeros_like(x), torch.zeros_like(x), torch.full_like(x, 0.85)))


def test_numbers_that_are_0_or_infinite_make_no_nan_of_what_is():
    """A step of 0 with a clip of the update, a bound that never binds: in the first derivatives and in the second."""
    numbers = torch.tensor([[0.0, 0.1], [0.3, 0.3], [1.0, 1.0], [0.0, 0.5], [0.1, torch.inf]], dtype=torch.float64)
    x, grad = (drawn((2, 3), seed).double().requires_grad_() for seed in (1, 2))
    for kind, clip_on in itertools.product(("norm", "value"), ("grad", "update")):
        own = numbers.clone().requires_grad_()
        out = LangevinStep.apply(x, grad, own, None, step_settings(clip=(kind, 0.1), clip_on=clip_on))
        first = torch.autograd.grad(out.square().sum(), (x, grad, own), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, grad, own))
        assert all(part.isfinite().all() for part in (*first, *second))


class Pair(nn.Module):
    """A smooth energy of two blocks with parameters, in which each block's gradient holds the other block."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two = nn.Linear(3, 5).double(), nn.Linear(2, 5).double()
        self.out = nn.Linear(5, 1).double()

    def forward(self, z, y):
        hidden = torch.tanh(self.one(z)) * (1 + self.two(y))
        return self.out(hidden)[:, 0] + 0.3 * (z.square().sum(1) + (y * y * self.out.bias).sum(1))


def clipped(h, s, clip, clip_on):
    """The drift s * clip(h) of torch's own ops."""
    if clip is None:
        return s * h
    kind, bound = clip
    if kind == "value":
        return s * h.clamp(-bound, bound) if clip_on == "grad" else (s * h).clamp(-bound, bound)
    norm = h.norm(dim=1, keepdim=True) * (s if clip_on == "update" else 1)
    return s * h * torch.where(norm > bound, bound / norm, 1)


def walled(x, law):
    if law["reflect"] is not None:
        low, high = law["reflect"]
        for _ in range(8):
            x = torch.where(x < low, 2 * low - x, torch.where(x > high, 2 * high - x, x))
    return x.clamp(*law["clamp"]) if law["clamp"] is not None else x


def hand_written(energy, state, n_steps, grad_steps, law, seed, masks=(None, None)):
    """The loop that people write: torch ops, a graph in the last steps, a detach before them."""
    law = OPEN | {"temperature": 1.0, "prior_precision": 0.0, "clip": None, "clip_on": "grad", "blocks": "joint"} | law
    state = list(state)
    held = [x.detach() for x in state] if grad_steps < n_steps else list(state)
    hold = lambda k, x: x if masks[k] is None else torch.where(masks[k], x, held[k])  # noqa: E731
    for t in range(n_steps):
        if t <= n_steps - grad_steps and grad_steps < n_steps:
            state = [x.detach() for x in state]
        noise = [
            law["noise_std"] * hatebm.normal(x.shape, seed=seed, step=t, block=k).double() for k, x in enumerate(state)
        ]
        for group in [[0, 1]] if law["blocks"] == "joint" else [[0], [1]]:
            for k in group if law["noise_at"] == "before" else ():
                kicked = state[k] + noise[k]
                state[k] = hold(k, walled(kicked, law) if law["clamp_at"] == "noise+step" else kicked)
            leaves = [x.clone() if x.requires_grad else x.clone().requires_grad_() for x in state]
            grads = torch.autograd.grad(energy(*leaves).sum(), [leaves[k] for k in group], create_graph=True)
            for k, grad in zip(group, grads, strict=True):
                grad = grad if masks[k] is None else torch.where(masks[k], grad, 0)
                h = grad / law["temperature"] + law["prior_precision"] * state[k]
                x = state[k] - clipped(h, law["step_size"], law["clip"], law["clip_on"])
                x = x + noise[k] if law["noise_at"] == "after" else x
                state[k] = hold(k, x if law["clamp_at"] == "final" else walled(x, law))
    return [hold(k, walled(x, law)) for k, x in enumerate(state)] if law["clamp_at"] == "final" else state


CHAINS = {
    "plain": {},
    "increment": {"add": "increment"},
    "tempered": {"temperature": 0.5, "prior_precision": 0.4},
    "clamp": {"clamp": (-0.5, 0.6)},
    "clamp at the end": {"clamp": (-0.5, 0.6), "clamp_at": "final"},
    "value": {"clip": ("value", 0.4), "prior_precision": 0.4},
    "norm": {"clip": ("norm", 0.7), "prior_precision": 0.4, "temperature": 0.8},
    "norm of the update": {"clip": ("norm", 0.1), "clip_on": "update"},
    "noise before": {"noise_at": "before", "clamp": (-0.5, 0.6)},
    "noise and step": {"noise_at": "before", "clamp": (-0.5, 0.6), "clamp_at": "noise+step"},
    "reflect": {"reflect": (-0.3, 0.4)},
    "reflect at the end": {"reflect": (-0.3, 0.4), "clamp_at": "final"},
}


def pair_of_blocks():
    return drawn((4, 3), 1).double().clamp(-0.4, 0.5), drawn((4, 2), 2).double().clamp(-0.4, 0.5)


def losses(out):
    return sum((v.square() + v.sin()).sum() for v in out)


@pytest.mark.parametrize("grad_steps", [1, 3, 5])
@pytest.mark.parametrize("blocks", ["joint", "sequential"])
@pytest.mark.parametrize("law", CHAINS.values(), ids=CHAINS)
def test_gradients_of_a_chain_are_those_of_the_loop_people_write(law, blocks, grad_steps):
    net, law = Pair(), {"step_size": 0.2, "noise_std": 0.3, "blocks": blocks} | law
    x = [v.requires_grad_() for v in pair_of_blocks()]
    wanted = [*net.parameters(), *(x if grad_steps == 5 else ())]
    got = hatebm.langevin(net, tuple(x), 5, grad_steps=grad_steps, seed=4, **law)
    torch.testing.assert_close(got, hatebm.langevin(net, tuple(x), 5, seed=4, **law), rtol=1e-12, atol=1e-12)
    want = hand_written(net, x, 5, grad_steps, law, 4)
    torch.testing.assert_close(list(got), want, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(losses(out), wanted, allow_unused=True) for out in (got, want)]
    assert all(float(g.abs().max()) > 1e-4 for g in gradients[1] if g is not None)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("law", [{}, {"clip": ("norm", 0.5), "prior_precision": 0.3}, {"noise_at": "before"}], ids=str)
@pytest.mark.parametrize("grad_steps", [2, 4])
def test_gradients_pass_a_mask(law, grad_steps):
    net, law = Pair(), {"step_size": 0.2, "noise_std": 0.3} | law
    x, masks = [v.requires_grad_() for v in pair_of_blocks()], (torch.tensor([True, False, True]), None)
    got = hatebm.langevin(net, tuple(x), 4, grad_steps=grad_steps, seed=4, mask=masks, **law)
    loop = law | {"prior_precision": 0.0}
    if "prior_precision" in law:  # the prior pulls what moves; the loop's energy says so
        pulled = lambda z, y: net(z, y) + 0.15 * ((z * z * masks[0]).sum(1) + (y * y).sum(1))  # noqa: E731
    want = hand_written(pulled if "prior_precision" in law else net, x, 4, grad_steps, loop, 4, masks)
    torch.testing.assert_close(list(got), want, rtol=1e-12, atol=1e-12)
    wanted = [*net.parameters(), *(x if grad_steps == 4 else ())]
    for ours, theirs in zip(*(torch.autograd.grad(losses(out), wanted) for out in (got, want)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_gradients_are_finite_differences():
    z, y = pair_of_blocks()
    law = {"step_size": 0.2, "noise_std": 0.3, "seed": 4, "clip": ("norm", 0.7), "prior_precision": 0.4}

    def end(weight, z, y):
        energy = lambda z, y: (torch.tanh(z @ weight) * (1 + y.sum(1, keepdim=True))).sum(1) + y.square().sum(1)  # noqa: E731
        return hatebm.langevin(energy, (z, y), 3, grad_steps=3, blocks="sequential", **law)

    leaves = [v.requires_grad_() for v in (drawn((3, 2), 6).double(), z[:2].detach(), y[:2].detach())]
    assert torch.autograd.gradcheck(end, leaves)
    assert torch.autograd.gradgradcheck(end, leaves, fast_mode=True)


def test_a_given_gradient_is_trained_too():
    weight, x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), drawn((4, 3)).double().requires_grad_()
    law = {"step_size": 0.1, "noise_std": 0.2, "seed": 1}
    got = hatebm.langevin(None, x, 4, grad_fn=lambda x: (weight * x).sin(), grad_steps=4, **law)
    y = x
    for t in range(4):
        y = y - 0.1 * (weight * y).sin() + 0.2 * hatebm.normal((4, 3), seed=1, step=t).double()
    for ours, theirs in zip(*(torch.autograd.grad(v.square().sum(), (weight, x)) for v in (got, y)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_wall_that_is_touched_and_not_crossed_passes_the_gradient():
    x = torch.tensor([[0.0, 1.0, 0.5, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    pull = torch.tensor([0.0, 0.0, 0.0, 1.0, -1.0], dtype=torch.float64)
    out = hatebm.langevin(lambda x: (pull * x).sum(1), x, 1, step_size=0.1, noise_std=0, clamp=(0, 1), grad_steps=1)
    (got,) = torch.autograd.grad(out.sum(), x)
    (want,) = torch.autograd.grad((x - 0.1 * pull).clamp(0, 1).sum(), x)
    assert torch.equal(got, want)
    assert want.tolist() == [[1, 1, 1, 0, 0]]
