"""Annealed importance sampling against partition functions that are known."""

import math

import pytest
import torch
from torch import nn

import hatebm


def shifted(x):
    """|x - 1/2|^2 / 2, at temperature T the energy of N(1/2, T I) without its constant."""
    return (x - 0.5).square().sum(1) / 2


def log_z_of(temperature, d):
    return d / 2 * math.log(2 * math.pi * temperature)


def double_well(x):
    """Unequal wells at -1 and 1, with a barrier of 6 between them."""
    return (6 * (x.square() - 1).square() + 0.5 * x).sum(1)


def waves(x):
    """An energy that is steep at the walls of the unit square."""
    return 4 * x[:, 0] * x[:, 1] - 3 * x[:, 0] + 2 * torch.sin(7 * x[:, 1])


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.0])
@pytest.mark.parametrize(("d", "bridges", "error"), [(10, 60, 0.12), (50, 120, 0.3)])
def test_gaussians_in_few_dimensions(d, bridges, error, temperature, seed):
    law = {"bridges": bridges, "eps": 0.25, "leapfrog_steps": 5, "temperature": temperature}
    found = hatebm.ais(shifted, (64, d), seed=seed, **law)
    assert found.standard_error < error
    assert abs(found.log_z - log_z_of(temperature, d)) < 3 * found.standard_error
    assert found.ess > 16


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("d", "bridges", "error"), [(100, 150, 0.25), (500, 400, 0.3)])
def test_gaussians_in_many_dimensions(d, bridges, error, seed):
    law = {"bridges": bridges, "eps": 0.2, "leapfrog_steps": 5, "temperature": 0.5, "pilot": 0}
    found = hatebm.ais(shifted, (64, d), seed=seed, **law)
    assert found.standard_error < error
    assert abs(found.log_z - log_z_of(0.5, d)) < 3 * found.standard_error
    assert found.log_weights.mean() < log_z_of(0.5, d)
    assert found.acceptance.min() > 0.5


def test_two_wells_against_quadrature():
    grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    density = (-double_well(grid[:, None])).exp()
    found = hatebm.ais(double_well, (2000, 1), bridges=40, eps=0.2, std=1.5, seed=4)
    assert found.standard_error < 0.03
    assert abs(found.log_z - float(torch.trapezoid(density, grid).log())) < 3 * found.standard_error
    w = (found.log_weights - found.log_z).exp()
    right = (found.states[:, 0] > 0).double()
    share = float(density[grid > 0].sum() / density.sum())
    deviation = w * (right - share)
    assert abs(float(deviation.mean())) < 4 * float(deviation.std()) / math.sqrt(len(w))


@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 0.5)])
def test_a_box_against_quadrature(box):
    line = torch.linspace(*box, 2001, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    inner = torch.trapezoid((-waves(grid) / 0.5).exp().view(2001, 2001), line)
    truth = float(torch.trapezoid(inner, line).log())
    law = {"bridges": 60, "eps": 0.1, "leapfrog_steps": 6, "temperature": 0.5, "seed": 5}
    found = hatebm.ais(waves, (1500, 2), box=box, **law)
    assert found.standard_error < 0.04
    assert abs(found.log_z - truth) < 3 * found.standard_error
    assert found.states.min() >= box[0]
    assert found.states.max() <= box[1]


def test_images_in_a_box():
    energy, n = lambda x: 3 * x.flatten(1).sum(1), 200
    found = hatebm.ais(energy, (n, 1, 4, 4), box=(0, 1), bridges=100, eps=0.1, leapfrog_steps=6, seed=2)
    assert found.states.shape == (n, 1, 4, 4)
    assert found.standard_error < 0.1
    assert abs(found.log_z - 16 * math.log((1 - math.exp(-3)) / 3)) < 3 * found.standard_error


@pytest.mark.parametrize("bridges", [1, 2, 4])
def test_the_mean_weight_is_right_with_any_number_of_bridges(bridges):
    found = hatebm.ais(shifted, (20_000, 2), bridges=bridges, eps=0.5, leapfrog_steps=2, temperature=0.5, seed=6)
    assert abs(found.log_z - log_z_of(0.5, 2)) < 3 * found.standard_error


def test_more_bridges_close_the_gap_below_and_above():
    truth, gaps = log_z_of(0.5, 20), []
    law = {"eps": 0.3, "leapfrog_steps": 4, "temperature": 0.5, "seed": 7, "pilot": 0}
    exact = 0.5 + math.sqrt(0.5) * hatebm.normal((500, 20), seed=8, step=0, purpose=4)
    for bridges in (4, 16, 64):
        below = hatebm.ais(shifted, exact.shape, bridges=bridges, **law)
        above = hatebm.ais(shifted, exact, bridges=bridges, **law)
        assert below.log_weights.mean() < truth < -above.log_weights.mean()
        gaps.append((truth - float(below.log_weights.mean()), -float(above.log_weights.mean()) - truth))
    assert gaps[0][0] > 2 * gaps[1][0] > 4 * gaps[2][0]
    assert gaps[0][1] > 2 * gaps[1][1] > 4 * gaps[2][1]
    for found in (below, above):
        assert abs(found.log_z - truth) < 3 * found.standard_error < 0.15
    assert above.acceptance[:-1].min() > 0.5
    assert above.acceptance[-1].isnan()


def test_samples_run_back_to_the_box():
    exact = torch.linspace(0, 1, 2002, dtype=torch.float64)[1:-1, None] ** 0.5
    one = torch.ones(1, 1, dtype=torch.float64)
    found = hatebm.ais(
        lambda x: -(x.clamp(min=1e-30) @ one).log().sum(1), exact, box=(0, 1), bridges=10, eps=0.1, seed=1
    )
    assert found.states.dtype == torch.float64
    assert abs(found.log_z + math.log(2)) < 3 * found.standard_error < 0.1


def test_a_constant_shifts_log_z_and_nothing_else():
    law = {"bridges": 10, "eps": 0.3, "seed": 3}
    plain = hatebm.ais(lambda x: shifted(x.double()), (8, 3), **law)
    moved = hatebm.ais(lambda x: shifted(x.double()) + 40, (8, 3), temperature=1.0, **law)
    assert torch.equal(plain.states, moved.states)
    assert abs(plain.log_z - 40 - moved.log_z) < 1e-10
    assert abs(plain.standard_error - moved.standard_error) < 1e-10


def test_the_error_bar_is_the_delta_methods():
    found = hatebm.ais(shifted, (50, 3), bridges=3, eps=0.3, seed=9)
    w = found.log_weights.exp()
    assert found.log_z == pytest.approx(float(w.mean().log()), abs=1e-12)
    assert found.standard_error == pytest.approx(float(w.std() / w.mean() / math.sqrt(50)), rel=1e-12)
    assert found.ess == pytest.approx(float(w.sum() ** 2 / (w**2).sum()), rel=1e-12)
    assert found.log_weights.dtype == torch.float64


def test_error_bars_cover():
    found = hatebm.ais(shifted, (100 * 64, 6), bridges=20, eps=0.3, leapfrog_steps=4, temperature=0.5, seed=10)
    w = (found.log_weights - log_z_of(0.5, 6)).exp().view(100, 64)
    z = w.mean(1).log() / (w.std(1) / w.mean(1) / 8)
    assert abs(float(z.mean())) < 4 / 10
    assert abs(float(z.std()) - 1) < 4 / math.sqrt(200)


def test_chains_do_not_feel_their_batch():
    law = {"bridges": 8, "eps": 0.4, "temperature": 0.3, "seed": 11}
    whole, again = (hatebm.ais(shifted, (12, 3), **law) for _ in range(2))
    part = hatebm.ais(shifted, (4, 3), chain_ids=range(5, 9), **law)
    assert torch.equal(whole.log_weights[5:9], part.log_weights)
    assert torch.equal(whole.states[5:9], part.states)
    assert torch.equal(whole.states, again.states)
    assert whole.log_z == again.log_z
    assert not torch.equal(whole.states, hatebm.ais(shifted, (12, 3), **law | {"seed": 12}).states)


def test_the_pilot_shortens_steps_that_are_refused():
    law = {"bridges": 100, "eps": 0.3, "temperature": 1e-3, "seed": 13}
    steered = hatebm.ais(shifted, (64, 4), **law)
    held = hatebm.ais(shifted, (64, 4), pilot=0, **law)
    assert held.acceptance[-20:].max() < 0.3
    assert 0.5 < steered.acceptance[-20:].mean() < 0.95
    assert steered.eps[0] == 0.3
    assert steered.eps[-1] < 0.1
    assert steered.eps.max() <= 0.3
    assert steered.log_weights.var() < held.log_weights.var() / 4
    same = hatebm.ais(shifted, (64, 4), **law | {"eps": steered.eps})
    assert torch.equal(same.log_weights, steered.log_weights)


def test_the_pilot_draws_noise_of_its_own():
    seen = {}

    def energy(x):
        seen.setdefault(len(x), x.detach().clone())
        return shifted(x)

    hatebm.ais(energy, (8, 3), bridges=2, eps=0.3, pilot=5, seed=1)
    assert seen.keys() == {5, 8}
    assert torch.cdist(seen[5], seen[8]).min() > 0.01


def test_betas_of_ones_own():
    law = {"eps": 0.3, "seed": 14, "pilot": 0}
    want = hatebm.ais(shifted, (9, 3), bridges=4, **law)
    for betas in ([0, 1 / 16, 1 / 4, 9 / 16, 1], torch.tensor([0, 0.0625, 0.25, 0.5625, 1])):
        assert torch.equal(hatebm.ais(shifted, (9, 3), bridges=betas, **law).log_weights, want.log_weights)
    assert len(want.acceptance) == len(want.eps) == 4


def test_labels_and_more_trajectories():
    def energy(x, c):
        return (x - c[:, None]).square().sum(1) / 2

    law = {"bridges": 30, "eps": 0.2, "leapfrog_steps": 3, "seed": 15}
    law |= {"energy_kwargs": {"c": torch.tensor([0.0, 2.0]).repeat(100)}}
    one = hatebm.ais(energy, (200, 2), pilot=0, **law)
    three = hatebm.ais(energy, (200, 2), pilot=200, trajectories=3, **law)
    for found in (one, three):
        at_the_base, away = found.log_weights.view(100, 2).T
        torch.testing.assert_close(at_the_base, torch.full_like(at_the_base, log_z_of(1.0, 2)), atol=1e-5, rtol=0)
        w = (away - log_z_of(1.0, 2)).exp()
        assert abs(float(w.mean()) - 1) < 3 * float(w.std()) / 10
    assert three.log_weights.var() < one.log_weights.var() / 2


def test_a_module_is_left_as_it_was_found():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.SiLU(), nn.Linear(8, 1))
    modes = []
    net.register_forward_hook(lambda m, i, o: modes.append((m.training, next(m.parameters()).requires_grad)))
    found = hatebm.ais(net, (4, 3), bridges=3, eps=0.1, seed=0)
    assert set(modes) == {(False, True)}
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert not found.log_weights.requires_grad


REFUSALS = [
    ({"x": (1, 3)}, "x must be"),
    ({"x": 3}, "x must be"),
    ({"x": ()}, "x must be"),
    ({"x": 2 * torch.ones(4, 3), "box": (0, 1)}, "x must be samples inside the box"),
    ({"bridges": 0}, "bridges must be > 0"),
    ({"bridges": [0, 0.5]}, "bridges must be 0 = beta_0"),
    ({"bridges": [0, 0.5, 0.5, 1]}, "bridges must be 0 = beta_0"),
    ({"bridges": [0.1, 1]}, "bridges must be 0 = beta_0"),
    ({"bridges": "many"}, "bridges must be a number, a list"),
    ({"eps": 0}, "eps must be finite and > 0"),
    ({"eps": [0.1]}, "eps must be a number, or 3"),
    ({"eps": None}, "eps must be a number, a list"),
    ({"temperature": 0.0}, "temperature must be"),
    ({"std": 0.0}, "std must be"),
    ({"box": (0, None)}, "box must be"),
    ({"box": (1, 0)}, "box must be"),
    ({"pilot": -1}, "pilot must be"),
    ({"leapfrog_steps": 0}, "leapfrog_steps must be"),
    ({"trajectories": 1.5}, "trajectories must be"),
    ({"chain_ids": [0, 1]}, "chain_ids must be"),
    ({"chain_ids": [0, 1, 2, 2**40 - 1]}, "chain_ids must be"),
    ({"energy_kwargs": lambda t: {}}, "energy_kwargs must be a dict"),
    ({"energy": lambda x: shifted(x).sum()}, "energy's result must be one energy a chain"),
]


@pytest.mark.parametrize(
    ("changes", "message"), REFUSALS, ids=[f"{next(iter(c))}{i}" for i, (c, _) in enumerate(REFUSALS)]
)
def test_bad_arguments_are_named(changes, message):
    call = {"energy": shifted, "x": (4, 3), "bridges": 3, "eps": 0.1, "seed": 0} | changes
    with pytest.raises((ValueError, TypeError), match=message):
        hatebm.ais(**call)
