"""Chains in one kernel: the laws that it takes, where they start, and what comes out."""

import math
from itertools import cycle, islice

import torch
from parity import LAWS

import hatebm
from hatebm.dynamics.region import folded
from hatebm.energies.steps import Facts, Steps
from hatebm.ops import native, reference
from hatebm.ops.native.chains import NEVER
from hatebm.ops.scalars import OPEN

MORE = {
    "before": {"noise_at": "before"},
    "before, fma": {"noise_at": "before", "add": "fma", "clamp": (-1.0, 1.5)},
    "before, walls": {"noise_at": "before", "clamp": (-0.7, 0.9), "clamp_at": "noise+step"},
    "before, norm": {"noise_at": "before", "clip": ("norm", 0.3), "temperature": 0.5},
    "final": {"clamp": (-0.4, 0.4), "clamp_at": "final"},
    "schedules": {
        "step_size": [0.01 / (t + 1) for t in range(40)],
        "noise_std": torch.linspace(0.2, 0, 40),
        "temperature": lambda t: 1 + 0.1 * t,
    },
    "pauses": {"step_size": [0.02, 0.0, 0.0, 0.01] * 10, "noise_std": [0.1, 0.0, 0.2, 0.0] * 10},
    "kicks alone": {"step_size": 0.0, "noise_std": 0.1, "noise_at": "before"},
    "still": {"step_size": 0.0, "noise_std": 0.0, "clamp": (-0.1, 0.1)},
    "uphill": {"step_size": -0.001, "noise_std": 0.1},
}
EVERY_LAW = LAWS | MORE


def in_other_places(schedule):
    """The same numbers in other memory orders."""
    yield schedule.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    yield torch.stack([schedule, schedule], -1)[..., 0]


def start(kind, n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n + d)) * (0.5 if kind == "funnel" else 1.5)


OWN_LAWS = {
    "plain": {},
    "increment": {"add": "increment"},
    "value": {"clip": "value", "low": -1.0, "high": 1.5},
    "value update": {"clip": "value", "clip_on": "update", "add": "fma"},
    "norm": {"clip": "norm"},
    "norm update": {"clip": "norm", "clip_on": "update", "add": "fma", "high": 0.5},
    "before": {"noise_at": "before", "low": -1.0, "high": 1.5},
    "before, walls": {"noise_at": "before", "low": -0.7, "high": 0.9, "clamp_noise": True},
    "before, norm": {"noise_at": "before", "clip": "norm", "add": "increment"},
    "no noise": {"noisy": False},
    "no prior": {"prior": False, "noise_at": "before"},
}
TOLD = {
    "clip": {"clip": "norm", "first_step": 2**34 + 1},
    "before": {"clip": "value", "noise_at": "before", "low": -0.7, "high": 0.9, "clamp_noise": True},
    "no prior": {"prior": False, "add": "fma", "low": 0.1, "reflect": True},
    "walls": {"noise_at": "before", "low": -0.3, "high": 0.9, "clamp_noise": True, "reflect": True},
}
SETTINGS = dict(clip=None, clip_on="grad", add="sequential", low=-math.inf, high=math.inf, clamp_noise=False)
SETTINGS |= {"noisy": True, "prior": True, "noise_at": "after", "seed": 5, "first_step": 2**34, "chain_ids": None}


def own_steps(schedule, **law):
    """Steps with the numbers of a schedule, (5, n_steps, n) or (5, n_steps)."""
    return Steps(**SETTINGS | {"schedule": schedule, "watched": True, "backend": None} | law)


def own_schedule(n_steps, n, still=None):
    """Numbers of n chains, (5, n_steps, n): each of them rests at times, and chain ``still`` at all steps."""
    rows = [(0.01, 0.002, 0.0, -0.001, 0.005), (0.1, 0.0, 0.05), (1.0, 0.5, 2.0), (0.3, 0.0), (0.3, 2.0, 0.05, 1e3)]
    numbers = torch.tensor([list(islice(cycle(row), n_steps * n)) for row in rows]).view(5, n_steps, n)
    if still is not None:
        numbers[:2, :, still] = 0
    return numbers


def assert_own_laws(run, x, schedule, chains, **law):
    """``run(x, steps)`` gives each of these chains the bits and the first bad step that it has alone."""
    ids = torch.arange(len(x)) * 3
    together, first = run(x, own_steps(schedule, chain_ids=ids, **law))
    for c in chains:
        alone, first_alone = run(x[c : c + 1], own_steps(schedule[..., c], chain_ids=ids[c : c + 1], **law))
        assert torch.equal(alone.view(torch.int32), together[c : c + 1].view(torch.int32)), c
        assert first[c] == first_alone[0]
    return together, first


def never(*_):
    raise AssertionError("the kernel ran")


def outcome(energy, x, mode, n_steps, **options):
    """The state after a run, or the step and the chains of its report."""
    try:
        return hatebm.langevin(energy, x, n_steps, compile=mode, **options)
    except hatebm.ChainDiverged as error:
        return error.step, error.chains


def with_mask(steps, x):
    """These steps where two elements of three may move; some chains hold -0, NaN, infinity or what is far away."""
    mask = torch.arange(x.numel()).reshape(x.shape) % 3 != 1
    held = x.clone()
    held[:4] = torch.tensor([-0.0, torch.nan, torch.inf, 1e30])[: len(x), None]
    return steps._replace(mask=mask), torch.where(mask, x, held)


def telling(steps, n, every):
    """These steps with rows for what is told of those that ``every`` divides."""
    kept = len(range(-steps.first_step % every, steps.n_steps, every))
    return steps._replace(facts=Facts(every, *torch.full((4, kept, n), torch.nan)))


def one_by_one(look, x, steps):
    """Where steps of the ops lead in an energy that ``look`` tells, first bad steps, and the facts of kept ones."""
    told, bad = [], torch.full((len(x),), NEVER)
    settings = {name: getattr(steps, name) for name in ("add", "clip", "clip_on", "seed", "chain_ids")}
    box, free = {"low": steps.low, "high": steps.high}, steps.mask
    free = torch.ones_like(x, dtype=torch.bool) if free is None else free
    for i in range(steps.n_steps):
        numbers = steps.schedule[:, i].reshape(5, -1).contiguous()
        place = settings | {"step": steps.first_step + i, "numbers": numbers, "step_size": 1.0}

        def stepped(x, grad, noisy, prior, walls, place=place, **norm):
            law = {"noise_std": float(noisy), "prior_precision": float(prior)}
            moved = torch.where(free, x, 0)
            clamps = box if walls and not steps.reflect else OPEN
            native.langevin_step_(moved, grad, **place, **law, **clamps, **norm)
            moved = folded(moved, *box.values())[0] if walls and steps.reflect else moved
            return torch.where(free, moved, x)

        rests, norms, first = (numbers[:2] == 0).all(0), torch.empty(2, len(x)), steps.noise_at == "before"
        before, here = x, stepped(x, None, steps.noisy, False, steps.clamp_noise) if first else x
        here = torch.where(rests[:, None], before, here)
        energy, grad = look(here)
        grad = torch.where(free, grad, 0)
        unclean = ~(energy.isfinite() & grad.isfinite().all(1)) & ~rests
        bad = torch.where(unclean, bad.clamp(max=steps.first_step + i), bad)
        stepped(here, grad, False, False, False, grad_norm=norms[1])
        x = stepped(here, grad, steps.noisy and not first, steps.prior, True, grad_norm=norms[0])
        x = torch.where(rests[:, None], before, x)
        norms = torch.stack([*norms, reference.sample_norm(x - before)])
        if (steps.first_step + i) % steps.facts.every == 0:
            told.append(torch.stack([energy, *torch.where(rests, 0, norms)]))
    return x, bad, torch.stack(told, 1)


def assert_told(run, look, x, steps, exact=True):
    """``run(x, steps)`` goes where single steps go, and tells of those that are kept what they tell; or nearly so."""
    wanted = one_by_one(look, x, steps)
    moved, first = run(x, steps)
    for got, want in zip((moved, first, torch.stack(steps.facts[1:])), wanted, strict=True):
        assert torch.equal(got.isnan(), want.isnan())
        if exact:
            assert torch.equal(got.nan_to_num(7).view(torch.int32), want.nan_to_num(7).view(torch.int32))
        else:
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)
    return moved, first
