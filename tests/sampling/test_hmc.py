"""Hamiltonian Monte Carlo: exact laws, and leapfrog steps that err and return as proved."""

import itertools
import math

import pytest
import torch
from loops import LEAST_P, drawn
from targets import (
    DoubleWell,
    LinearHat,
    gaussian_energy,
    kolmogorov_p,
    quadratic,
    shadow_variance,
    truncated_normal_cdf,
)

import hatebm
from hatebm.ops.noise import Purpose

STIFF = torch.tensor([1.0, 16.0, 100.0])


def stiff_energy(x):
    return (STIFF * x * x).sum(1) / 2


@pytest.mark.parametrize("friction", [None, 2.0], ids=["fresh velocities", "friction"])
def test_a_gaussian_of_condition_100_is_exact(friction):
    n, eps = 15_000, 0.14
    law = {"eps": eps, "leapfrog_steps": 9, "seed": 3, "friction": friction}
    x, info = hatebm.hmc(stiff_energy, torch.zeros(n, 3), 40, return_info=True, **law)
    want, spread = 1 / STIFF, math.sqrt(2 / n) / STIFF
    assert abs(shadow_variance(100.0, eps) - 0.01) > 10 * spread[2]
    assert ((x.var(0) - want).abs() < 4 * spread).all()
    assert (x.mean(0).abs() < 4 * (want / n).sqrt()).all()
    assert (torch.corrcoef(x.T).triu(1).abs() < 4 / math.sqrt(n)).all()
    assert 0.5 < float(info["accept"].mean()) < 0.95


LAWS = {
    "temperature": {"temperature": 2.5},
    "prior": {"prior_precision": 1.5, "temperature": 0.8},
    "value": {"clip": ("value", 0.6)},
    "norm of the update": {"clip": ("norm", 0.2), "clip_on": "update", "prior_precision": 0.5},
    "another step": {"eps": None, "step_size": 0.1, "noise_std": 0.7},
    "a wrong gradient given": {"grad_fn": lambda x: x + 0.3},
}


@pytest.mark.parametrize("friction", [None, 0.7], ids=["fresh velocities", "friction"])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_every_law_leaves_its_gaussian(law, friction):
    n, d, precision = 15_000, 2, 2.0
    law = {"eps": 0.9, "leapfrog_steps": 2, "seed": 8, "friction": friction} | law
    law = {name: value for name, value in law.items() if value is not None}
    x = hatebm.Chain(gaussian_energy(precision), torch.zeros(n, d), **law).run(40)
    variance = 1 / (precision / law.get("temperature", 1.0) + law.get("prior_precision", 0.0))
    assert abs(float(x.var()) - variance) < 4 * variance * math.sqrt(2 / (n * d))
    assert abs(float(x.mean())) < 4 * math.sqrt(variance / (n * d))
    assert abs(float((x / math.sqrt(variance)).pow(4).mean()) - 3) < 4 * math.sqrt(96 / (n * d))


@pytest.mark.parametrize("friction", [None, 1.0], ids=["fresh velocities", "friction"])
def test_two_wells(friction):
    well = DoubleWell(2.0, 0.5)
    law = {"eps": 0.35, "leapfrog_steps": 4, "temperature": 1.5, "friction": friction, "seed": 5}
    x, info = hatebm.hmc(well, torch.ones(8_000, 1), 40, return_info=True, **law)
    assert 0.5 < float(info["accept"].mean()) < 0.98
    assert kolmogorov_p(x, lambda at: well.cdf(at, 1.5)) > LEAST_P


@pytest.mark.parametrize("blocks", ["joint", "sequential"])
@pytest.mark.parametrize("friction", [None, (1.0, 0.4)], ids=["fresh velocities", "friction"])
def test_two_blocks_have_the_covariance_of_the_energy(blocks, friction):
    hat, n = LinearHat(), 30_000
    want = torch.linalg.inv(hat.precision)
    start = (torch.zeros(n, 1), torch.zeros(n, 1))
    law = {"eps": (0.7, 0.5), "leapfrog_steps": 4, "blocks": blocks, "friction": friction}
    z, y = hatebm.hmc(hat, start, 40, seed=3, **law)
    spread = torch.sqrt((want**2 + want.diag()[:, None] * want.diag()) / n)
    assert ((torch.cov(torch.cat([z, y], 1).T.double()) - want).abs() < 4 * spread).all()


@pytest.mark.parametrize("friction", [None, 0.8], ids=["fresh velocities", "friction"])
@pytest.mark.parametrize("wall", ["clamp", "reflect"])
def test_walls_leave_a_truncated_gaussian(wall, friction):
    law = {"eps": 0.45, "leapfrog_steps": 3, wall: (-0.3, 1.1), "friction": friction, "seed": 6}
    x = hatebm.hmc(gaussian_energy(2.0), torch.zeros(15_000, 1), 40, **law)
    assert float(x.min()) >= torch.tensor(-0.3)
    assert float(x.max()) <= torch.tensor(1.1)
    assert kolmogorov_p(x, truncated_normal_cdf(-0.3, 1.1, 2.0)) > LEAST_P


@pytest.mark.parametrize("tilt", [0.0, 2.0], ids=["uniform", "tilted"])
def test_reflection_keeps_a_constant_energy_uniform_and_a_tilted_one_tilted(tilt):
    law = {"eps": 0.3, "leapfrog_steps": 3, "reflect": (0, 1), "seed": 6}
    x, info = hatebm.hmc(lambda x: tilt * x.sum(1), torch.full((12_000, 1), 0.05), 25, return_info=True, **law)
    cdf = (lambda at: at.double()) if tilt == 0 else (lambda at: torch.expm1(-tilt * at.double()) / math.expm1(-tilt))
    assert kolmogorov_p(x, cdf) > LEAST_P
    assert (float(info["accept"].min()) == 1) == (tilt == 0)


def test_one_leapfrog_step_reflects_exactly_where_mala_does_not():
    law = {"eps": 0.8, "reflect": (0, None), "seed": 6, "correct": "mala", "friction": math.inf}
    x = hatebm.langevin(lambda x: 2 * x.sum(1), torch.ones(15_000, 1), 40, **law)
    assert kolmogorov_p(x, lambda at: -torch.expm1(-2 * at.double())) > LEAST_P


@pytest.mark.parametrize("shape", [(20_000,), (7_000, 3), (3_000, 2, 2, 2)], ids=str)
def test_states_of_any_shape(shape):
    law = {"eps": 0.5, "leapfrog_steps": 3, "seed": 1}
    x = hatebm.hmc(lambda x: x.reshape(len(x), -1).square().sum(1), torch.zeros(shape), 25, **law)
    assert x.shape == shape
    assert abs(float(x.var()) - 0.5) < 4 * 0.5 * math.sqrt(2 / x.numel())


def free(energy, x, eps, **law):
    """A chain of leapfrog steps that nothing disturbs: a friction under the resolution of float64."""
    return hatebm.Chain(energy, x, eps=eps, friction=1e-300, seed=2, **law)


def hamiltonian(energy, chain):
    (v,) = chain.state_dict()["velocity"]
    return energy(chain.state) + v.square().flatten(1).sum(1) / 2


def test_the_energy_error_of_a_leapfrog_step_is_of_second_order():
    well, x, errors = DoubleWell(1.0, 0.3), drawn((50, 2)).double(), []
    for halvings in (0, 1, 2, 3):
        chain = free(well, x, 0.08 / 2**halvings)
        before = hamiltonian(well, chain)
        chain.run(16 * 2**halvings)
        errors.append(float((hamiltonian(well, chain) - before).abs().mean()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert abs(orders[-1] - 2) < 0.03
    assert abs(orders[0] - 2) < 0.3


@pytest.mark.parametrize(
    "law", [{}, {"clip": ("norm", 1.0), "prior_precision": 0.4}, {"reflect": (-1.2, 0.9)}], ids=str
)
def test_a_trajectory_whose_velocity_turns_comes_back(law):
    well, x = DoubleWell(1.0, 0.3), drawn((50, 3)).double().clamp(-1.1, 0.8)
    chain = free(well, x, 0.05, **law)
    start = chain.state_dict()
    there = chain.run(30)
    assert float((there - x).abs().max()) > 0.5
    saved = chain.state_dict()
    chain.load_state_dict(saved | {"velocity": tuple(-v for v in saved["velocity"])})
    torch.testing.assert_close(chain.run(30), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(chain.state_dict()["velocity"][0], -start["velocity"][0], rtol=0, atol=1e-9)


def log_uniforms(seed, step, block, n):
    counters = [[0, c, step, block | Purpose.METROPOLIS << 8] for c in range(n)]
    words = hatebm.philox(torch.tensor(counters), torch.tensor([seed, 0]))[:, 0]
    return (((words >> 1).float() + 0.5) * 2.0**-31).double().log()


def tied(z, y):
    """A smooth energy that is no Gaussian and ties its blocks, convex enough for roundings not to grow."""
    tie = (z.flatten(1).sum(1) + y.flatten(1).sum(1)).square() / 8
    return (z.square() / 2 + z.cos() / 2).sum(1) + (y.square() + y.sin() / 2).flatten(1).sum(1) + tie


def independent_hmc(energy, state, n_steps, law, groups, velocity, seed):
    """Neal's figure 2 with Horowitz's refreshment, in float64: fresh velocities where friction is infinite."""
    x, v, accepts, n = list(state), list(velocity), [], len(state[0])
    T, precision, L = law["temperature"], law["prior_precision"], law["leapfrog_steps"]

    def potential(x):
        leaves = [part.clone().requires_grad_() for part in x]
        parts = [p / 2 * part.square().flatten(1).sum(1) for p, part in zip(precision, leaves, strict=True)]
        total = energy(*leaves) / T + sum(parts)
        return total.detach(), torch.autograd.grad(total.sum(), leaves)

    for t in range(n_steps):
        for group in groups:
            for k in group:
                keep = math.exp(-law["friction"][k] * law["eps"][k] * L)
                fresh = hatebm.normal(x[k].shape, seed=seed, step=t, block=k).double()
                v[k] = keep * v[k] + math.sqrt(1 - keep**2) * fresh
            y, w = list(x), list(v)
            for _ in range(L):
                g = potential(y)[1]
                for k in group:
                    w[k] = w[k] - law["eps"][k] / 2 * g[k]
                    y[k] = y[k] + law["eps"][k] * w[k]
                g = potential(y)[1]
                for k in group:
                    w[k] = w[k] - law["eps"][k] / 2 * g[k]
            kinetic = sum((v[k].square() - w[k].square()).flatten(1).sum(1) / 2 for k in group)
            accept = log_uniforms(seed, t, group[0], n) < potential(x)[0] - potential(y)[0] + kinetic
            accepts.append(accept)
            for k in group:
                rows = accept.view(-1, *[1] * (x[k].dim() - 1))
                x[k], v[k] = torch.where(rows, y[k], x[k]), torch.where(rows, w[k], -v[k])
    return x, v, torch.stack(accepts).view(n_steps, len(groups), n)


@pytest.mark.parametrize("friction", [None, (0.4, 1.5)], ids=["fresh velocities", "friction"])
@pytest.mark.parametrize("blocks", ["joint", "sequential"])
def test_every_trajectory_and_decision_is_the_algorithm_s(blocks, friction):
    state = (drawn((12, 3)).double(), drawn((12, 2, 2), seed=78).double())
    law = {"eps": (0.7, 0.6), "temperature": 0.7, "prior_precision": (0.5, 0.0), "leapfrog_steps": 3}
    velocity = [hatebm.normal(v.shape, seed=9, step=0, block=k, purpose=7).double() for k, v in enumerate(state)]
    groups = [[0, 1]] if blocks == "joint" else [[0], [1]]
    drags = {"friction": friction or (math.inf, math.inf)}
    x, v, accepts = independent_hmc(tied, state, 25, law | drags, groups, velocity, 9)
    chain = hatebm.Chain(tied, state, seed=9, blocks=blocks, friction=friction, **law)
    got, info = chain.run(25, return_info=True)
    assert 0.3 < float(accepts.float().mean()) < 0.95
    assert torch.equal(info["accept"].float(), accepts.float().mean(1))
    for a, b in zip(got, x, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for a, b in zip(chain.state_dict()["velocity"] if friction else (), v, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_trajectory_costs_its_leapfrog_steps():
    calls = []
    energy = lambda x: calls.append(1) or quadratic(x)  # noqa: E731
    hatebm.hmc(energy, torch.ones(3, 4), 5, eps=0.2, leapfrog_steps=4, seed=0)
    assert len(calls) == 5 * 4 + 1
    calls.clear()
    hatebm.langevin(energy, torch.ones(3, 4), 9, eps=0.2, friction=1.0, seed=0)
    assert len(calls) == 9 + 1


def test_short_steps_are_always_accepted():
    x = drawn((500, 4))
    _, info = hatebm.hmc(quadratic, x, 4, eps=0.01, leapfrog_steps=5, seed=0, return_info=True)
    assert float(info["accept"].mean()) > 0.998


@pytest.mark.parametrize(
    "law", [{"friction": 0.8}, {"leapfrog_steps": 3}, {"leapfrog_steps": 2, "friction": 0.5}], ids=str
)
def test_chain_17_of_128_equals_chain_17_alone(law):
    x, law = drawn((128, 3, 5)), {"eps": 0.5, "seed": 9, "clip": ("norm", 4.0)} | law
    batch = hatebm.Chain(quadratic, x, **law).run(12)
    alone = hatebm.Chain(quadratic, x[17:18], chain_ids=[17], **law).run(12)
    assert torch.equal(batch[17:18], alone)


def test_a_diverging_trajectory_is_refused_and_a_nan_energy_reported():
    steep = lambda x: x.pow(4).sum(1)  # noqa: E731
    x, info = hatebm.hmc(steep, drawn((300, 1)), 20, eps=0.8, leapfrog_steps=8, seed=0, return_info=True)
    assert x.isfinite().all()
    assert 0 < float(info["accept"].mean()) < 1
    with pytest.raises(hatebm.ChainDiverged, match="step 0 in chain 1"):
        hatebm.hmc(lambda x: (x * torch.tensor([[1.0], [math.nan]])).sum(1), torch.ones(2, 1), 3, eps=0.1, seed=0)
