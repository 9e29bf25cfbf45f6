"""Underdamped Langevin: the exact law of its discrete chain, its limit of infinite friction, and its velocities."""

import io
import math

import pytest
import torch
from loops import drawn
from targets import gaussian_energy, quadratic, shadow_variance

import hatebm
from hatebm.ops.noise import Purpose


def underdamped_covariance(precision, h, friction):
    """The covariance of (x, v) that one step leaves, iterated: v <- a v + sqrt(1 - a^2) xi, then a leapfrog step."""
    a = math.exp(-friction * h)
    one = torch.eye(2, dtype=torch.float64)
    kick, drift, damp = one.clone(), one.clone(), one.clone()
    kick[1, 0], drift[0, 1], damp[1, 1] = -h / 2 * precision, h, a
    leap = kick @ drift @ kick
    q = leap @ torch.tensor([[0, 0], [0, 1 - a * a]], dtype=torch.float64) @ leap.T
    kron = torch.kron(leap @ damp, leap @ damp)
    return torch.linalg.solve(torch.eye(4, dtype=torch.float64) - kron, q.flatten()).view(2, 2)


@pytest.mark.parametrize("friction", [0.3, 1.0, math.inf])
def test_underdamped_langevin_has_the_variance_of_its_shadow(friction):
    k, temperature, prior, h, n = 3.0, 2.0, 0.5, 1.0, 40_000
    precision = k / temperature + prior
    want = underdamped_covariance(precision, h, friction)
    exact = torch.tensor([[shadow_variance(precision, h), 0], [0, 1]], dtype=torch.float64)
    torch.testing.assert_close(want, exact)
    law = {"eps": h, "temperature": temperature, "prior_precision": prior, "friction": friction, "seed": 4}
    chain = hatebm.Chain(gaussian_energy(k), torch.zeros(n, 1), **law)
    x = chain.run(60)
    got = torch.cov(torch.cat([x, chain.state_dict()["velocity"][0]], 1).T.double())
    spread = torch.sqrt((want**2 + want.diag()[:, None] * want.diag()) / n)
    assert abs(1 / precision - want[0, 0]) > 10 * spread[0, 0]
    assert ((got - want).abs() < 4 * spread).all()


@pytest.mark.parametrize(
    "law",
    [{}, {"clip": ("norm", 0.7)}, {"clip": ("value", 0.01), "clip_on": "update"}, {"clamp": (-0.8, 1.0)}],
    ids=str,
)
def test_infinite_friction_is_the_overdamped_chain(law):
    x = drawn((8, 5)).double().clamp(-0.8, 1.0)
    law = {"eps": 0.3, "seed": 3, "prior_precision": 0.6, "temperature": 0.7} | law
    overdamped = hatebm.langevin(quadratic, x, 20, **law)
    torch.testing.assert_close(hatebm.langevin(quadratic, x, 20, friction=math.inf, **law), overdamped)
    assert not torch.allclose(hatebm.langevin(quadratic, x, 20, friction=3.0, **law), overdamped, atol=0.1)


def test_infinite_friction_and_a_test_of_one_step_are_mala():
    x, law = drawn((40, 5)).double(), {"eps": 0.7, "seed": 3, "prior_precision": 0.6, "return_info": True}
    mala, facts = hatebm.langevin(quadratic, x, 30, correct="mala", **law)
    hmc, other = hatebm.hmc(quadratic, x, 30, leapfrog_steps=1, **law)
    assert 0.3 < float(facts["accept"].mean()) < 0.95
    assert torch.equal(facts["accept"], other["accept"])
    torch.testing.assert_close(mala, hmc)


@pytest.mark.parametrize("leapfrog_steps", [None, 3])
def test_velocities_survive_a_file(leapfrog_steps):
    x, law = drawn((20, 3, 2)), {"eps": 0.2, "friction": 0.8, "leapfrog_steps": leapfrog_steps}
    want = hatebm.Chain(quadratic, x, seed=5, first_step=3, **law).run(15)
    chain = hatebm.Chain(quadratic, x, seed=5, first_step=3, **law)
    start = hatebm.normal(x.shape, seed=5, step=3, purpose=Purpose.VELOCITY)
    assert torch.equal(chain.state_dict()["velocity"][0], start)
    chain.run(6)
    file = io.BytesIO()
    torch.save(chain.state_dict(), file)
    file.seek(0)
    later = hatebm.Chain(quadratic, torch.zeros_like(x), seed=0, **law)
    later.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(later.run(9), want)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 2), torch.zeros(4, 3), torch.zeros(4, 2).double()], ids=str)
def test_velocities_that_do_not_fit_are_refused(wrong):
    chain = hatebm.Chain(quadratic, torch.zeros(4, 2), eps=0.1, friction=1.0)
    with pytest.raises(ValueError, match="load_state_dict: velocity must be blocks like the state's"):
        chain.load_state_dict(chain.state_dict() | {"velocity": (wrong,)})
