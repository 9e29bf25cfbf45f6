"""Parallel tempering: exact where a plain chain is stuck, and a plain chain where there is one temperature."""

import math

import pytest
import torch
from scipy.stats import chi2
from targets import quadratic
from torch import nn

import hatebm

LADDER = (1.0, 2.0, 4.0, 8.0)


def double_well(x):
    """Wells at -1 and 1 of unequal weight, with a barrier of 8 between them."""
    return (8 * (x.square() - 1).square() + 0.4 * x).sum(1)


CENTRES = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
WEIGHTS = torch.tensor([0.2, 0.5, 0.3])


def three_bumps(x):
    """A mixture of narrow Gaussians in the plane."""
    return -torch.logsumexp(WEIGHTS.log() - torch.cdist(x, CENTRES).square() / (2 * 0.5**2), 1)


def chi_square(counts, weights):
    """Pearson's statistic and where it lies beyond all but 1e-4 of samples from the weights."""
    wanted = weights / weights.sum() * counts.sum()
    assert wanted.min() > 5
    return float(((counts - wanted).square() / wanted).sum()), chi2.isf(1e-4, len(counts) - 1)


@pytest.mark.parametrize(
    "law", [{"correct": "mala"}, {"leapfrog_steps": 2}, {"correct": "mala", "friction": 2.0}], ids=str
)
def test_both_wells_get_their_weight_where_a_plain_chain_stays_in_one(law):
    edges = torch.cat([torch.linspace(-1.2, -0.8, 9), torch.linspace(0.8, 1.2, 9)]).double()
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    density = (-double_well(grid[:, None])).exp()
    weights = torch.bincount(torch.bucketize(grid, edges), density, len(edges) + 1)
    start, settings = -torch.ones(2500, 1), {"eps": 0.2, "seed": 1, **law}
    cold = hatebm.tempering(double_well, start, 240, temperatures=LADDER, swap_every=3, **settings)
    counts = torch.bincount(torch.bucketize(cold[:, 0].double(), edges), minlength=len(edges) + 1).double()
    found, bound = chi_square(counts, weights)
    assert found < bound
    assert float(density[grid > 0].sum() / density.sum()) > 0.3
    stuck = hatebm.Chain(double_well, start, **settings).run(240)
    assert float((stuck > 0).float().mean()) < 0.05


def test_three_bumps_in_the_plane_get_their_weights():
    start, law = CENTRES[:1].repeat(1000, 1), {"eps": 0.4, "seed": 2, "correct": "mala"}
    ladder = (1.0, 2.5, 6.0, 15.0)
    cold, info = hatebm.tempering(three_bumps, start, 300, temperatures=ladder, swap_every=2, return_info=True, **law)
    counts = torch.bincount(torch.cdist(cold, CENTRES).argmin(1), minlength=3).double()
    found, bound = chi_square(counts, WEIGHTS.double())
    assert found < bound
    assert info["swap_accept"].mean(1).min() > 0.2
    stuck = torch.cdist(hatebm.langevin(three_bumps, start, 300, **law), CENTRES).argmin(1)
    assert float((stuck > 0).float().mean()) < 0.1


def test_the_temperature_keeps_its_hands_off_the_prior():
    ladder, n = (0.5, 1.0, 2.0), 20_000
    law = {"leapfrog_steps": 4, "eps": 0.4, "prior_precision": 1.5}
    _, info = hatebm.tempering(
        lambda x: x.square().sum(1) / 2, torch.zeros(n, 1), 60, temperatures=ladder, seed=3, return_info=True, **law
    )
    for temperature, x in zip(ladder, info["replicas"], strict=True):
        variance = 1 / (1 / temperature + 1.5)
        assert abs(float(x.var()) - variance) < 4 * variance * math.sqrt(2 / n)


def frozen_levels(low, high, n=40_000):
    """States 0 and 1 with energies that no step changes: whatever moves is an exchange."""
    return lambda x: (low + (high - low) * x + 0 * x.detach()).sum(1), [torch.zeros(n, 1), torch.ones(n, 1)]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.7), (1.7, 0.0)])
def test_an_exchange_is_accepted_as_the_closed_form_says(low, high):
    energy, starts = frozen_levels(low, high)
    law = {"step_size": 0.0, "noise_std": 0.0, "temperatures": (1.0, 2.5), "swap_every": 1, "seed": 4}
    cold, info = hatebm.tempering(energy, starts, 2, return_info=True, **law)
    wanted = min(1.0, math.exp((1 - 1 / 2.5) * (low - high)))
    assert abs(float(cold.mean()) - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / len(cold))
    assert torch.equal(info["swap_accept"][0], cold[:, 0].double())
    assert torch.equal(info["replicas"][1], 1 - cold)
    assert torch.equal(info["swap_energy"], torch.tensor([[[low], [high]]]).expand(1, 2, 40_000).float().double())


def test_pairs_decide_apart():
    n, starts = 20_000, [torch.zeros(20_000, 1), torch.ones(20_000, 1)] * 2
    still = {"temperatures": (1, 1 / 0.7, 1 / 0.4, 1 / 0.1), "step_size": 0.0, "noise_std": 0.0, "swap_every": 1}
    told = hatebm.tempering(lambda x: 2 * x.sum(1), starts, 2, seed=3, return_info=True, **still)[1]
    p, accepted = math.exp(-0.3 * 2), told["swap_accept"]
    assert accepted[1].isnan().all()
    both = float((accepted[0] * accepted[2]).mean())
    assert abs(both - p * p) < 4 * math.sqrt(p * p * (1 - p * p) / n)


def test_a_velocity_goes_with_its_state():
    law = {"temperatures": (1, 4), "eps": 0.1, "friction": 1e-9, "seed": 2, "swap_every": 1}
    told = [hatebm.tempering(lambda x: 0 * x.sum(1), torch.zeros(5, 2), t, return_info=True, **law)[1] for t in (1, 2)]
    (cold, hot), (after, _) = (info["replicas"] for info in told)
    assert torch.equal(told[1]["swap_accept"], torch.ones(1, 5).double())
    torch.testing.assert_close(after, hot + hot / 2, atol=1e-4, rtol=0)
    assert not torch.allclose(after, hot + cold, atol=1e-2)


def test_no_step_is_no_exchange():
    starts = [torch.ones(3, 2), torch.zeros(3, 2)]
    law = {"temperatures": (1, 2), "eps": 0.1, "seed": 0, "swap_every": 5}
    assert torch.equal(hatebm.tempering(quadratic, starts, 0, first_step=5, **law), starts[0])


def test_exchanges_alone_keep_the_law_of_two_levels():
    n, ladder, gap = 40_000, (1.0, 1.8, 4.0), 1.3
    ups = [1 / (1 + math.exp(gap / t)) for t in ladder]
    draws = torch.rand(3, n, 1, generator=torch.Generator().manual_seed(5))
    starts = [(u < p).float() for u, p in zip(draws, ups, strict=True)]
    law = {"step_size": 0.0, "noise_std": 0.0, "swap_every": 1, "seed": 6}
    _, info = hatebm.tempering(lambda x: gap * x.sum(1), starts, 8, temperatures=ladder, return_info=True, **law)
    for x, p in zip(info["replicas"], ups, strict=True):
        assert abs(float(x.mean()) - p) < 4 * math.sqrt(p * (1 - p) / n)
    pairs = torch.stack([a * (1 - b) for a, b in zip(info["replicas"], info["replicas"][1:], strict=False)])
    for joint, p, q in zip(pairs, ups, ups[1:], strict=False):
        assert abs(float(joint.mean()) - p * (1 - q)) < 4 * math.sqrt(p * (1 - q) / n)


def test_even_and_odd_pairs_take_turns():
    told = hatebm.tempering(
        quadratic, torch.zeros(3, 2), 9, temperatures=LADDER, swap_every=2, eps=0.1, seed=0, return_info=True
    )[1]
    assert told["swap_step"].tolist() == [2, 4, 6, 8]
    starts = [torch.full((1, 1), float(i)) for i in range(4)]
    still = {"temperatures": (1.0, 2.0, 3.0, 4.0), "step_size": 0.0, "noise_std": 0.0, "swap_every": 1, "seed": 0}
    told = hatebm.tempering(lambda x: -x.sum(1), starts, 3, return_info=True, **still)[1]
    assert told["swap_energy"][:, :, 0].tolist() == [[0, -1, -2, -3], [-1, 0, -3, -2]]
    assert [float(x) for x in told["replicas"]] == [1, 3, 0, 2]


LAWS = {
    "plain": {"eps": 0.1},
    "clipped": {"step_size": 2.0, "noise_std": 0.01, "clip": ("norm", 0.1), "clamp": (-1, 1)},
    "mala": {"eps": 0.1, "correct": "mala"},
    "friction": {"eps": 0.1, "friction": 1.0},
    "trajectories": {"eps": [0.1] * 12, "leapfrog_steps": 3},
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_one_temperature_is_the_plain_chain_bit_for_bit(law):
    x, seen = torch.randn(5, 3), []
    call = {"seed": 7, "return_info": True, "every": 3}
    got, told = hatebm.tempering(
        quadratic, x, 12, temperatures=[0.7], swap_every=5, callback=lambda t, y: seen.append((t, y)), **call, **law
    )
    chain = hatebm.Chain(quadratic, x, seed=7, temperature=0.7, **law)
    want, info = chain.run(12, return_info=True, every=3)
    assert torch.equal(got, want)
    assert all(torch.equal(told[name], info[name]) for name in info)
    assert [t for t, _ in seen] == [0, 3, 6, 9]
    assert told["swap_accept"].shape == (0, 5)
    assert len(told["swap_step"]) == 0


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_chains_do_not_feel_their_batch(law):
    x, call = torch.randn(8, 3), {"temperatures": LADDER, "swap_every": 2, "seed": 8}
    whole, told = hatebm.tempering(quadratic, x, 12, return_info=True, **call, **law)
    alone = hatebm.tempering(quadratic, x[3:4], 12, chain_ids=[3], **call, **law)
    assert torch.equal(whole[3:4], alone)
    assert torch.equal(whole, hatebm.tempering(quadratic, x, 12, **call, **law))
    assert 0 < told["swap_accept"].nanmean() < 1
    assert not torch.equal(whole, hatebm.tempering(quadratic, x, 12, **call | {"seed": 9}, **law))
    hot = told["replicas"]
    assert all(not torch.equal(a, b) for i, a in enumerate(hot) for b in hot[:i])


@pytest.mark.parametrize("stop", [4, 5, 7])
def test_it_goes_on_from_its_replicas(stop):
    x, law = torch.randn(6, 3), {"temperatures": LADDER, "swap_every": 4, "eps": 0.3, "seed": 9, "correct": "mala"}
    whole = hatebm.tempering(quadratic, x, 12, **law)
    told = hatebm.tempering(quadratic, x, stop, return_info=True, **law)[1]
    assert torch.equal(hatebm.tempering(quadratic, told["replicas"], 12 - stop, first_step=stop, **law), whole)


def test_hot_replicas_drift_as_the_cold_one_and_shake_more():
    ladder, x = (0.5, 2.0), torch.randn(4, 3, dtype=torch.float64)
    law = {"step_size": [0.02] * 3, "noise_std": lambda t: 0.1}
    told = hatebm.tempering(quadratic, x, 1, temperatures=ladder, seed=1, return_info=True, **law)[1]
    grad = 2 * x * torch.linspace(0.5, 2, 3, dtype=torch.float64)
    for i, y in enumerate(told["replicas"]):
        noise = hatebm.normal((4, 3), seed=1, step=0, purpose=0, chain_ids=torch.arange(4) + i * 2**32).double()
        torch.testing.assert_close(y, x - 0.02 * grad / 0.5 + 0.1 * math.sqrt(ladder[i] / 0.5) * noise)


def test_blocks_masks_walls_and_labels():
    def energy(z, y, shift):
        return (z.square().sum(1) + (y - shift[:, None]).square().sum(1)) / 2

    z, y = torch.zeros(6, 2), torch.full((6, 3), 0.5)
    mask = torch.tensor([True, False, True])
    call = {"energy_kwargs": {"shift": torch.arange(6.0)}, "temperatures": (1, 3), "swap_every": 2, "seed": 2}
    got = hatebm.tempering(
        energy, (z, y), 9, eps=(0.3, 0.4), leapfrog_steps=2, mask=(None, mask), reflect=(None, (0, 1)), **call
    )
    assert isinstance(got, tuple)
    assert torch.equal(got[1][:, 1], y[:, 1])
    assert got[1].min() >= 0
    assert got[1].max() <= 1
    assert not torch.equal(got[1][:, 0], y[:, 0])


def test_a_module_is_left_as_it_was_found():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.SiLU(), nn.Linear(8, 1))
    modes = []
    net.register_forward_hook(lambda m, i, o: modes.append((m.training, next(m.parameters()).requires_grad)))
    x = torch.randn(4, 3)
    hatebm.tempering(net, x, 4, temperatures=(1, 2), swap_every=2, eps=0.1, seed=0)
    assert set(modes) == {(False, True)}
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_a_broken_replica_is_reported():
    with pytest.raises(hatebm.ChainDiverged) as caught:
        hatebm.tempering(
            lambda x: x.square().sum(1),
            [torch.zeros(2, 1), torch.tensor([[0.0], [math.nan]])],
            3,
            temperatures=(1, 2),
            eps=0.1,
            seed=0,
        )
    assert caught.value.chains == [1 + 2**32]


REFUSALS = [
    ({"temperatures": (2, 1)}, "temperatures must be finite, > 0 and increasing"),
    ({"temperatures": (1, 1)}, "temperatures must be finite, > 0 and increasing"),
    ({"temperatures": (0, 1)}, "temperatures must be finite, > 0 and increasing"),
    ({"temperatures": (1, math.nan)}, "temperatures must be finite, > 0 and increasing"),
    ({"temperatures": (1, math.inf)}, "temperatures must be finite, > 0 and increasing"),
    ({"temperatures": ()}, "temperatures must be of 1 to 256"),
    ({"temperatures": 2.0}, "temperatures must be a list"),
    ({"temperatures": torch.ones(2, 2)}, "temperatures must be a list"),
    ({"temperature": 2.0}, "temperature must be left to temperatures"),
    ({"swap_every": 0}, "swap_every must be an integer > 0"),
    ({"swap_every": 1.5}, "swap_every must be an integer > 0"),
    ({"n_steps": -1}, "n_steps must be"),
    ({"energy": lambda x: x.square().sum()}, "energy's result must be one energy a chain"),
    ({"energy": None, "grad_fn": lambda x: x}, "energy must be a callable"),
    ({"x": [torch.ones(4, 3)]}, "x must be a state, or a list of 2"),
    ({"x": [torch.ones(4, 3), torch.ones(5, 3)]}, "chain_ids must be"),
    ({"x": [torch.ones(4, 3)] * 2, "mask": torch.ones(3, dtype=torch.bool)}, "mask must be left out"),
    ({"chain_ids": [0, 1, 2, 2**32]}, "chain_ids must be ids in"),
    ({"dynamics": hatebm.Dynamics(eps=0.1)}, "dynamics must be given alone"),
    ({"noise": lambda t: torch.zeros(4, 3)}, "unexpected keyword argument 'noise'"),
]


@pytest.mark.parametrize(
    ("changes", "message"), REFUSALS, ids=[f"{next(iter(c))}{i}" for i, (c, _) in enumerate(REFUSALS)]
)
def test_bad_arguments_are_named(changes, message):
    call = {"energy": quadratic, "x": torch.ones(4, 3), "n_steps": 3, "eps": 0.1, "seed": 0, "swap_every": 1}
    with pytest.raises((ValueError, TypeError), match=message):
        hatebm.tempering(**{"temperatures": (1, 2)} | call | changes)
