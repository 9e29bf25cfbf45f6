"""Where a chain may go: masks that hold, and the laws and bits of what moves beside them."""

import math

import pytest
import torch
from loops import bits, drawn, drift
from targets import gaussian_energy, quadratic

import hatebm


def boxed(x, law):
    low, high = law.get("clamp") or (None, None)
    return x.clamp(low, high) if low is not None or high is not None else x


def independent_chain(energy, x, moves, n_steps, law, seed):
    """The masked chain as a loop of torch: whatever does not move is put back after each half of a step."""
    before, at = law.get("noise_at") == "before", law.get("clamp_at", "step")
    held = x
    for t in range(n_steps):
        noise = law["noise_std"] * hatebm.normal(x.shape, seed=seed, step=t).to(x.dtype)
        if before:
            x = x + noise
            x = torch.where(moves, boxed(x, law) if at == "noise+step" else x, held)
        leaf = x.clone().requires_grad_()
        grad = torch.autograd.grad(energy(leaf).sum(), leaf)[0]
        x = x - drift(x, grad, law, moves) + (0 if before else noise)
        x = torch.where(moves, x if at == "final" else boxed(x, law), held)
    return torch.where(moves, boxed(x, law), held) if at == "final" else x


BASE = {"step_size": 0.2, "noise_std": 0.3}
LAWS = {
    "plain": {},
    "clamp": {"clamp": (-0.8, 0.9)},
    "one wall": {"clamp": (None, 0.5)},
    "clamp at the end": {"clamp": (-0.8, 0.9), "clamp_at": "final"},
    "noise before": {"noise_at": "before", "clamp": (-0.8, 0.9)},
    "noise and step": {"noise_at": "before", "clamp": (-0.8, 0.9), "clamp_at": "noise+step"},
    "value": {"clip": ("value", 0.5), "temperature": 0.7},
    "norm": {"clip": ("norm", 1.0)},
    "norm of the update": {"clip": ("norm", 0.15), "clip_on": "update", "noise_at": "before"},
    "prior": {"prior_precision": 0.7},
    "value with a prior": {"clip": ("value", 0.5), "prior_precision": 0.7},
    "norm with a prior": {"clip": ("norm", 1.0), "prior_precision": 0.7},
    "norm of the update with a prior": {"clip": ("norm", 0.15), "clip_on": "update", "prior_precision": 0.7},
}
ODD = torch.tensor([-0.0, 0.0, 1e-42, -3e38, 7.5, -123.25, 1e-38, -0.1])  # kept, whatever the law says


def wavy(x):
    return (x.clamp(-5, 5).square() / 2 + x.clamp(-5, 5).cos()).flatten(1).sum(1) + x.clamp(-5, 5).flatten(1).sum(
        1
    ).sin()


def held_and_moving(dtype):
    """A state whose held elements are odd ones, far outside every box, and its mask."""
    x = drawn((7, 3, 4, 5)).to(dtype)
    moves = torch.rand(7, 3, 4, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    return torch.where(moves, x.clamp(-0.7, 0.4), ODD.to(dtype).repeat(53)[:420].view_as(x)), moves


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_masked_chain_is_the_loop_that_masks_its_gradient(law):
    x, moves = held_and_moving(torch.float64)
    law = BASE | law
    got = hatebm.langevin(wavy, x, 6, seed=2, mask=moves, **law)
    torch.testing.assert_close(got, independent_chain(wavy, x, moves, 6, law, 2), rtol=1e-12, atol=1e-12)
    assert torch.equal(bits(got)[~moves], bits(x)[~moves])


FORMS = {
    "overdamped": {},
    "fma": {"add": "fma"},
    "mala": {"correct": "mala"},
    "underdamped": {"friction": 0.5},
    "hmc": {"leapfrog_steps": 3},
    "hmc with friction": {"leapfrog_steps": 2, "friction": 0.5},
    "reflected": {"reflect": (-0.8, 0.9)},
    "reflected hmc": {"reflect": (-0.8, 0.9), "leapfrog_steps": 2},
    "reflected at the end": {"reflect": (-0.8, 0.9), "clamp_at": "final"},
}
FORMS |= {name: law for name, law in LAWS.items() if "clamp" in law or "clip" in law}


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_is_held_keeps_its_bits(form, strided):
    x, moves = held_and_moving(torch.float32)
    x = x.to(memory_format=torch.channels_last) if strided else x
    chain = hatebm.Chain(wavy, x, seed=2, mask=moves, **BASE | form)
    for _ in range(2):
        out = chain.run(3)
        assert torch.equal(bits(out)[~moves], bits(x)[~moves])
        assert torch.equal(bits(chain.state)[~moves], bits(x)[~moves])
    assert (out != x)[moves].float().mean() > 0.2
    assert all((v[~moves] == 0).all() for v in chain.state_dict().get("velocity", ()))
    if strided:
        plain = hatebm.Chain(wavy, x.contiguous(), seed=2, mask=moves, **BASE | form)
        torch.testing.assert_close(plain.run(6), out, rtol=1e-4, atol=1e-4)


def two_blocks(z, y):
    tie = (z.flatten(1).sum(1) + y.clamp(-5, 5).flatten(1).sum(1)).square() / 8
    return gaussian_energy(1.0)(z) + gaussian_energy(0.5)(y.clamp(-5, 5)) + tie


@pytest.mark.parametrize("form", [{}, {"noise_at": "before"}, {"correct": "mala"}, {"friction": 1.0}], ids=str)
@pytest.mark.parametrize("blocks", ["joint", "sequential"])
def test_a_mask_for_one_block_of_two(blocks, form):
    z, (y, moves) = drawn((7, 2)), held_and_moving(torch.float32)
    law = BASE | {"blocks": blocks, "seed": 2} | form
    got_z, got_y = hatebm.langevin(two_blocks, (z, y), 5, mask=(None, moves), **law)
    assert torch.equal(bits(got_y)[~moves], bits(y)[~moves])
    assert (got_y != y)[moves].float().mean() > 0.2
    everywhere = (torch.ones(2, dtype=torch.bool), moves)
    again = hatebm.langevin(two_blocks, (z, y), 5, mask=everywhere, **law)
    assert torch.equal(again[0], got_z)
    assert torch.equal(again[1], got_y)
    assert not torch.equal(hatebm.langevin(two_blocks, (z, y), 5, mask=None, **law)[1], got_y)


def test_a_mask_is_broadcast_and_survives_a_restart():
    x, row = drawn((6, 3, 4)), torch.tensor([True, False, False, True])
    want = hatebm.langevin(quadratic, x, 6, eps=0.3, seed=1, mask=row.expand(6, 3, 4))
    assert torch.equal(hatebm.langevin(quadratic, x, 6, eps=0.3, seed=1, mask=row), want)
    chain = hatebm.Chain(quadratic, x, eps=0.3, seed=1, mask=row)
    chain.run(2)
    later = hatebm.Chain(quadratic, torch.zeros_like(x), eps=0.3, seed=0, mask=row)
    later.load_state_dict(chain.state_dict())
    assert torch.equal(later.run(4), want)
    assert torch.equal(hatebm.langevin(quadratic, x, 3, eps=0.3, mask=torch.zeros(6, 1, 1, dtype=torch.bool)), x)


@pytest.mark.parametrize("form", ["overdamped", "norm of the update", "mala", "underdamped", "hmc"])
def test_facts_count_only_what_moves(form):
    x, moves = held_and_moving(torch.float32)
    x = x.clamp(-50, 50)
    law = BASE | {"prior_precision": 0.7} | FORMS[form]
    chain = hatebm.Chain(wavy, x, seed=2, mask=moves, **law)
    _, info = chain.run(1, return_info=True)
    leaf = x.clone().requires_grad_()
    if law.get("noise_at") == "before":
        leaf = independent_chain(wavy, x, moves, 1, law | {"step_size": 0.0}, 2).requires_grad_()
    grad = torch.autograd.grad(wavy(leaf).sum(), leaf)[0] / law.get("temperature", 1.0)
    force = torch.where(moves, grad + law["prior_precision"] * leaf, 0)
    torch.testing.assert_close(info["grad_norm"][0], force.detach().flatten(1).norm(dim=1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(info["displacement"][0], (chain.state - x).flatten(1).norm(dim=1), rtol=1e-5, atol=1e-6)


PRECISION = torch.tensor([[2.0, 0.8, -0.5], [0.8, 1.5, 0.4], [-0.5, 0.4, 1.0]])


def tied_gaussian(x):
    return (x @ PRECISION.to(x.dtype) * x).sum(1) / 2


@pytest.mark.parametrize(
    "extra", [{}, {"prior_precision": 0.6}, {"prior_precision": 0.6, "clip": ("norm", 1.2)}], ids=str
)
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"noise_at": "before"},
        {"correct": "mala"},
        {"correct": "mala", "clamp": (-1.5, 1.5)},
        {"leapfrog_steps": 3},
        {"leapfrog_steps": 3, "clamp": (-1.5, 1.5)},
        {"friction": math.inf},
    ],
    ids=str,
)
def test_a_masked_chain_is_the_chain_of_what_moves_alone(form, extra):
    x, moves = drawn((30, 3)).double() + torch.tensor([0.0, 2.0, 0.0]), torch.tensor([True, False, True])
    eps = [drawn((30, 3), seed=t).double() for t in range(12)]
    rest = lambda free: tied_gaussian(torch.stack([free[:, 0], x[:, 1], free[:, 1]], 1))  # noqa: E731
    law = {"step_size": 0.3, "noise_std": 0.7, "seed": 3} | form | extra
    whole = hatebm.Chain(tied_gaussian, x, mask=moves, noise=eps.__getitem__, **law)
    alone = hatebm.Chain(rest, x[:, moves], noise=lambda t: eps[t][:, moves], **law)
    (got, facts), (want, others) = whole.run(12, return_info=True), alone.run(12, return_info=True)
    torch.testing.assert_close(got[:, moves], want, rtol=1e-12, atol=1e-12)
    assert "accept" not in others or 0.1 < float(others["accept"].mean()) < 1
    for name in others.keys() - {"step", "energy"}:
        torch.testing.assert_close(facts[name], others[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "extra", [{}, {"prior_precision": 0.6}, {"prior_precision": 0.6, "clip": ("norm", 0.9)}], ids=str
)
@pytest.mark.parametrize(
    "form",
    [
        {"step_size": 0.45, "correct": "mala"},
        {"eps": 0.8, "leapfrog_steps": 3},
        {"eps": 0.8, "friction": 1.0, "leapfrog_steps": 1},
    ],
    ids=["mala", "hmc", "hmc with friction"],
)
def test_corrected_chains_sample_what_moves_given_what_does_not(form, extra):
    n, held = 20_000, 1.5
    x = torch.tensor([0.0, held, 0.0]).repeat(n, 1)
    moves = torch.tensor([True, False, True])
    out = hatebm.Chain(tied_gaussian, x, seed=3, mask=moves, **form, **extra).run(60)
    free = PRECISION[moves][:, moves].double() + extra.get("prior_precision", 0.0) * torch.eye(2)
    want = torch.linalg.inv(free)
    mean = -want @ PRECISION[moves][:, ~moves].double() @ torch.tensor([held]).double()
    assert (out[:, 1] == held).all()
    got = out[:, moves].double()
    assert ((got.mean(0) - mean).abs() < 4 * (want.diag() / n).sqrt()).all()
    spread = torch.sqrt((want**2 + want.diag()[:, None] * want.diag()) / n)
    assert ((torch.cov(got.T) - want).abs() < 4 * spread).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reflect": (1, 0)}, "reflect must be"),
        ({"reflect": (1, 1)}, "reflect must be"),
        ({"reflect": 1}, "reflect must be"),
        ({"reflect": (0, 1), "clamp": (0, 1)}, "reflect must be left out beside clamp"),
        ({"mask": torch.ones(4)}, "mask must be a bool tensor"),
        ({"mask": [True, False, True]}, "mask must be a bool tensor"),
        ({"mask": torch.ones(2, dtype=torch.bool)}, "mask must be broadcastable"),
        ({"mask": torch.ones(2, 4, 3, dtype=torch.bool)}, "mask must be broadcastable"),
        ({"mask": (None, None)}, "mask must be a tuple of 1"),
    ],
)
def test_bad_regions_are_named(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        hatebm.langevin(quadratic, torch.ones(4, 3), 2, eps=0.1, seed=0, **changes)
