"""Metropolis-adjusted Langevin: laws that are exact at any step, and each move and decision against float64."""

import math

import pytest
import torch
from loops import LEAST_P, drawn, drift
from targets import DoubleWell, LinearHat, gaussian_energy, kolmogorov_p, quadratic, truncated_normal_cdf
from torch.distributions import Normal

import hatebm
from hatebm.ops.noise import Purpose


def doubled_column(x):
    """The energy |x|^2 of each sample, as networks return it: (n, 1)."""
    return x.flatten(1).square().sum(1, keepdim=True)


PRECISION = 2.0
LAWS = {
    "plain": {"step_size": 0.4},
    "another noise": {"step_size": 0.2, "noise_std": 0.5},
    "large noise": {"step_size": 0.2, "noise_std": 1.0},
    "temperature": {"step_size": 0.8, "temperature": 2.5},
    "prior": {"step_size": 0.3, "prior_precision": 1.5},
    "all of it": {"step_size": 0.5, "noise_std": 0.8, "temperature": 2.0, "prior_precision": 0.7, "clip": ("norm", 1)},
    "value": {"step_size": 0.4, "clip": ("value", 0.8)},
    "norm": {"step_size": 0.4, "clip": ("norm", 1.5)},
    "value of the update": {"step_size": 0.4, "clip": ("value", 0.3), "clip_on": "update"},
    "norm of the update": {"step_size": 0.4, "clip": ("norm", 0.6), "clip_on": "update", "prior_precision": 0.5},
    "random walk": {"step_size": 0.0, "noise_std": 0.9, "prior_precision": 1.0},
    "column of energies": {"step_size": 0.4, "energy": doubled_column},
    "gradient given": {"step_size": 0.4, "grad_fn": lambda x: PRECISION * x},
    "a wrong gradient given": {"step_size": 0.3, "grad_fn": lambda x: x + 0.3},
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_gaussian_is_exact_where_the_unadjusted_chain_is_not(law):
    n, d = 20_000, 3
    law = {"energy": gaussian_energy(PRECISION), "x": torch.zeros(n, d), "n_steps": 60, "seed": 11} | law
    variance = 1 / (PRECISION / law.get("temperature", 1.0) + law.get("prior_precision", 0.0))
    spread = variance * math.sqrt(2 / (n * d))
    unadjusted = hatebm.langevin(**law)
    assert abs(float(unadjusted.var()) - variance) > 10 * spread
    x = hatebm.langevin(correct="mala", **law)
    assert abs(float(x.var()) - variance) < 4 * spread
    assert abs(float(x.mean())) < 4 * math.sqrt(variance / (n * d))
    assert abs(float((x[:, 0] * x[:, 1]).mean())) < 4 * variance / math.sqrt(n)
    assert abs(float((x / math.sqrt(variance)).pow(4).mean()) - 3) < 4 * math.sqrt(96 / (n * d))


@pytest.mark.parametrize("blocks", ["joint", "sequential"])
def test_two_blocks_have_the_covariance_of_the_energy(blocks):
    hat, s, n = LinearHat(), (0.35, 0.2), 60_000
    want = torch.linalg.inv(hat.precision)
    spread = torch.sqrt((want**2 + want.diag()[:, None] * want.diag()) / n)
    assert ((hat.stationary(*s, blocks) - want).abs() > 10 * spread).any()
    start = (torch.zeros(n, 1), torch.zeros(n, 1))
    z, y = hatebm.langevin(hat, start, 70, step_size=s, blocks=blocks, seed=3, correct="mala")
    assert ((torch.cov(torch.cat([z, y], 1).T.double()) - want).abs() < 4 * spread).all()


@pytest.mark.parametrize("tilt", [0.0, 0.5])
def test_two_wells_at_a_temperature(tilt):
    well, law = DoubleWell(3.0, tilt), {"step_size": 0.12, "temperature": 1.5, "seed": 5}
    start = torch.ones(10_000, 1)
    unadjusted = hatebm.langevin(well, start, 20, clip=("value", 20.0), **law)
    x = hatebm.langevin(well, start, 150, clip=("value", 20.0), correct="mala", **law)
    cdf = lambda at: well.cdf(at, 1.5)  # noqa: E731
    assert kolmogorov_p(unadjusted, cdf) < 1e-9
    assert kolmogorov_p(x, cdf) > LEAST_P


BOXED = {"step_size": 0.3, "clamp": (-0.3, 1.1), "seed": 6}


def test_a_clamp_refuses_what_lies_outside():
    cdf = truncated_normal_cdf(*BOXED["clamp"], PRECISION)
    seen = []
    x = hatebm.langevin(
        gaussian_energy(PRECISION),
        torch.zeros(20_000, 1),
        60,
        correct="mala",
        callback=lambda t, x: seen.append((float(x.min()), float(x.max()))),
        **BOXED,
    )
    assert min(low for low, _ in seen) > -0.3
    assert max(high for _, high in seen) < 1.1
    assert kolmogorov_p(x, cdf) > LEAST_P
    assert kolmogorov_p(hatebm.langevin(gaussian_energy(PRECISION), torch.zeros(20_000, 1), 60, **BOXED), cdf) < 1e-9


def test_an_infinite_energy_refuses_like_a_wall():
    def walled(x):
        inside = ((x > -0.3) & (x < 1.1)).all(1)
        return torch.where(inside, gaussian_energy(PRECISION)(x), math.inf)

    x, open_law = torch.zeros(500, 2), BOXED | {"clamp": None}
    want = hatebm.langevin(gaussian_energy(PRECISION), x, 30, correct="mala", **BOXED)
    assert torch.equal(hatebm.langevin(walled, x, 30, correct="mala", **open_law), want)
    assert float(want.max()) < 1.1


def test_a_chain_that_starts_outside_walks_in():
    x = torch.full((200, 1), 1.4)
    out = hatebm.langevin(gaussian_energy(PRECISION), x, 60, correct="mala", **BOXED)
    assert float(out.max()) < 1.1


def test_a_nan_where_a_chain_is_is_reported_with_its_step_and_chain():
    def energy(x, t):
        bad = torch.zeros(len(x))
        bad[2] = math.nan if t == 103 else 0.0
        return gaussian_energy(1.0)(x) + bad

    x = torch.ones(5, 3)
    place = {"chain_ids": range(10, 15), "first_step": 100, "energy_kwargs": lambda t: {"t": t}}
    chain = hatebm.Chain(energy, x, step_size=0.1, seed=0, correct="mala", **place)
    with pytest.raises(hatebm.ChainDiverged, match="step 103 in chain 12") as error:
        chain.run(8)
    assert (error.value.step, error.value.chains) == (103, [12])
    assert torch.equal(chain.state, x)
    assert chain.step == 100


@pytest.mark.parametrize("form", [{"correct": "mala"}, {"leapfrog_steps": 2}], ids=str)
def test_an_energy_without_a_floor_is_reported(form):
    pit = lambda x: torch.where(x[:, 0] > 1, -math.inf, 0.0) + x.square().sum(1)  # noqa: E731
    with pytest.raises(hatebm.ChainDiverged):
        hatebm.Chain(pit, torch.zeros(4, 1), eps=0.7, seed=0, **form).run(20)


def wavy(z, y, a=1.0):
    """A smooth energy that is no Gaussian and ties its blocks."""
    tie = (z.flatten(1).sum(1) + y.flatten(1).sum(1)).square() / 8
    return a * (z.square() / 2 + (2 * z).cos()).flatten(1).sum(1) + (y.square() / 2).flatten(1).sum(1) + a * tie


def log_uniforms(seed, step, block, chains):
    """The log of u = (float32(w0 >> 1) + 1/2) / 2^31, w0 the first word of a chain's Metropolis counter."""
    counters = [[0, c % 2**32, step % 2**32, block | 2 << 8 | c >> 32 << 16 | step >> 32 << 24] for c in chains]
    words = hatebm.philox(torch.tensor(counters), torch.tensor([seed % 2**32, seed >> 32]))[:, 0]
    return (((words >> 1).float() + 0.5) * 2.0**-31).double().log()


def gradients(energy, state):
    leaves = [v.clone().requires_grad_() for v in state]
    energies = energy(*leaves)
    return energies.detach(), list(torch.autograd.grad(energies.sum(), leaves))


def independent_mala(energy, state, n_steps, laws, groups, seed, first_step, chains, kwargs):
    """Roberts and Tweedie's algorithm box in float64, from densities."""
    state, decisions = list(state), []
    for t in range(first_step, first_step + n_steps):
        now = lambda z, y, t=t: energy(z, y, **kwargs(t))  # noqa: E731
        for group in groups:
            before, at = gradients(now, state)
            proposal = list(state)
            for k in group:
                eps = hatebm.normal(state[k].shape, seed=seed, step=t, block=k, chain_ids=chains).double()
                proposal[k] = state[k] - drift(state[k], at[k], laws[k]) + laws[k]["noise_std"] * eps
            after, there = gradients(now, proposal)
            log_ratio = (before - after) / laws[group[0]].get("temperature", 1.0)
            for k in group:
                x, y, law = state[k], proposal[k], laws[k]
                forth = Normal(x - drift(x, at[k], law), law["noise_std"]).log_prob(y)
                back = Normal(y - drift(y, there[k], law), law["noise_std"]).log_prob(x)
                prior = law.get("prior_precision", 0.0) / 2 * (x.square() - y.square())
                log_ratio = log_ratio + (back - forth + prior).flatten(1).sum(1)
            accept = log_uniforms(seed, t, group[0], chains) < log_ratio
            decisions.append(accept)
            for k in group:
                state[k] = torch.where(accept.view(-1, *[1] * (state[k].dim() - 1)), proposal[k], state[k])
    return state, torch.stack(decisions)


MECHANICS = {
    "plain": {},
    "tempered": {"temperature": 0.6, "prior_precision": (0.8, 0.0)},
    "value": {"clip": (("value", 0.7), None)},
    "norm": {"clip": (("norm", 1.0), ("value", 0.5)), "prior_precision": (0.3, 0.2)},
    "update": {"clip": (("norm", 0.2), ("value", 0.1)), "clip_on": "update", "temperature": 2.0},
    "an energy for each step": {"energy_kwargs": lambda t: {"a": 1.0 + t % 3 / 2}},
}


@pytest.mark.parametrize(
    ("law", "blocks"), [*((name, "sequential") for name in MECHANICS), ("norm", "joint"), ("tempered", "joint")]
)
def test_every_move_and_decision_is_the_algorithm_s(law, blocks):
    state = (drawn((12, 3)).double(), drawn((12, 2, 2), seed=78).double())
    law = {"step_size": (0.2, 0.15), "noise_std": (0.6, 0.5)} | MECHANICS[law]
    one = lambda v, k: v[k] if isinstance(v, tuple) else v  # noqa: E731
    laws = [{name: one(v, k) for name, v in law.items()} for k in (0, 1)]
    at = {"seed": 2**50 + 9, "first_step": 2**34 - 20, "chain_ids": [5, 2**32 + 5, 2**40 - 1, *range(100, 109)]}
    kwargs = law.get("energy_kwargs", lambda t: {})
    groups = [[0, 1]] if blocks == "joint" else [[0], [1]]
    place = (laws, groups, at["seed"], at["first_step"], at["chain_ids"])
    want, decisions = independent_mala(wavy, state, 50, *place, kwargs)
    settings = {"correct": "mala", "blocks": blocks, "return_info": True, **at, **law}
    got, info = hatebm.langevin(wavy, state, 50, **settings)
    shares = decisions.view(50, len(groups), 12).float().mean(1)
    assert 0.2 < float(shares.mean()) < 0.95
    assert torch.equal(info["accept"].float(), shares)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    before = gradients(lambda z, y: wavy(z, y, **kwargs(at["first_step"])), state)[0]
    torch.testing.assert_close(info["energy"][0], before)


@pytest.mark.parametrize("given", [False, True], ids=["autograd", "grad_fn"])
def test_a_step_costs_one_evaluation(given):
    calls = {"energy": 0, "grad_fn": 0}

    def energy(x):
        calls["energy"] += 1
        return quadratic(x)

    def grad_fn(x):
        calls["grad_fn"] += 1
        return 2 * x * torch.linspace(0.5, 2, 4)

    hatebm.langevin(energy, torch.ones(3, 4), 9, eps=0.4, seed=0, correct="mala", grad_fn=grad_fn if given else None)
    assert calls == {"energy": 10, "grad_fn": 10 * given}


def test_accept_says_who_moved_and_rises_as_the_step_falls():
    x, rejected = drawn((4000, 4)) / math.sqrt(PRECISION), []
    for step_size in (0.32, 0.08, 0.02):
        energy = gaussian_energy(PRECISION)
        out, info = hatebm.langevin(energy, x, 1, step_size=step_size, seed=2, correct="mala", return_info=True)
        assert torch.equal(info["accept"][0] == 1, (out != x).any(1))
        assert torch.equal(info["displacement"][0] > 0, (out != x).any(1))
        rejected.append(1 - float(info["accept"].mean()))
    assert 1.2 < math.log(rejected[0] / rejected[2], 16) < 1.8  # the log ratio is of order step_size^(3/2)
    assert rejected[2] < 0.02


def test_what_a_corrected_chain_refuses():
    x = torch.ones(4, 3)
    for changes, message in [
        ({"correct": "barker"}, "correct must be None or 'mala'"),
        ({"noise_std": 0.0}, "noise_std must be > 0 with correct='mala'"),
        ({"noise_at": "before"}, "noise_at must be 'after'"),
        ({"reflect": (-1, 2)}, "reflect must be left out"),
        ({"x": (x, x), "energy": wavy, "temperature": (1.0, 2.0)}, "temperature must be one for all blocks"),
        ({"energy": lambda x: x.square().sum()}, "energy's result must be one energy a chain"),
        ({"energy": None, "grad_fn": lambda x: x}, "energy must be a callable"),
    ]:
        call = {"energy": quadratic, "x": x, "n_steps": 2, "step_size": 0.1, "seed": 0, "correct": "mala"} | changes
        with pytest.raises(ValueError, match=message):
            hatebm.langevin(**call)
    assert Purpose.METROPOLIS == 2
