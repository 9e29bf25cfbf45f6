"""The cooperative Hat EBM against the facts of its mathematics."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from tiny import one_thread  # noqa: F401
from torch import nn

from hatebm.data import batch_indices
from hatebm.errors import UsageError
from hatebm.learning.config import dropped
from hatebm.learning.part import Part
from hatebm.ops.noise import Purpose, normal
from hatebm.sampling.chain import Chain
from hatebm.systems.hat import Synthesis
from hatebm.systems.hat.synthesis import bank_slots, residual_chain, update_generator
from hatebm.systems.hat.update import update_energy


@pytest.fixture
def learner():
    return Synthesis.create(tiny.CONFIG)


def nets(learner: Synthesis) -> tuple[nn.Module, nn.Module]:
    """H and G as they learn."""
    return learner.parts["energy"].network, learner.parts["generator"].network


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("steps", [1, 7])
def test_the_chain_of_y_at_frozen_z_is_the_chain_of_x_from_one_call_of_g(learner, steps):
    energy, generator = (net.double() for net in nets(learner))
    law = replace(tiny.CONFIG, eps=0.1, temperature=0.01, max_displacement=0.3).dynamics
    z = torch.randn(4, 5, dtype=torch.float64)
    y0 = torch.zeros(4, 1, 8, 8, dtype=torch.float64)
    y = Chain(lambda y: energy(generator(z) + y), y0, law, seed=3, first_step=9).run(steps)
    x = residual_chain(energy, generator, z, law, seed=3, first_step=9).run(steps)
    with torch.no_grad():
        torch.testing.assert_close(x, generator(z) + y, rtol=1e-12, atol=1e-12)
    assert (y.flatten(1).norm(dim=1) > 0.1).all()


def test_an_iteration_calls_g_once_for_its_chain_and_once_to_train_it_and_h_once_a_step_and_once_to_train_it(learner):
    calls = {"G": 0, "H": 0}
    energy, generator = nets(learner)
    generator.register_forward_hook(lambda *_: calls.update(G=calls["G"] + 1))
    energy.register_forward_hook(lambda *_: calls.update(H=calls["H"] + 1))
    learner.advance(tiny.images())
    assert calls == {"G": 2, "H": tiny.CONFIG.langevin_steps + 1}


def test_the_cap_bounds_each_image_by_itself():
    config = replace(tiny.CONFIG, eps=0.5, temperature=0.5, max_displacement=1.0)
    x = torch.zeros(2, 1, 8, 8)
    x[0], x[1] = 10.0, 0.01
    chain = Chain(lambda x: x.square().sum((1, 2, 3)) / 2, x, config.dynamics, seed=0, noise=lambda t: 0 * x)
    moved = (x - chain.run(1)).flatten(1)
    assert float(moved[0].norm()) == pytest.approx(1.0, rel=1e-6)
    torch.testing.assert_close(moved[1], 0.25 * x[1].flatten())


def test_energy_and_temperature_scaled_together_change_nothing(learner):
    scaled, t = copy.deepcopy(learner), tiny.CONFIG.temperature
    with torch.no_grad():
        nets(scaled)[0].head.weight *= 4
    z, data = torch.randn(4, 5), torch.randn(4, 1, 8, 8)
    laws = tiny.CONFIG.dynamics, replace(tiny.CONFIG, temperature=4 * t).dynamics
    sampled = [
        residual_chain(*nets(one), z, law, seed=0).run(5) for one, law in zip((learner, scaled), laws, strict=True)
    ]
    torch.testing.assert_close(*sampled, rtol=0, atol=0)
    gaps = [
        update_energy(one.parts["energy"], data, sampled[0], scale * t) for one, scale in ((learner, 1), (scaled, 4))
    ]
    assert gaps[0] == gaps[1]


def test_the_gap_comes_with_its_standard_error():
    data, sampled = torch.randn(5000, 1, 8, 8), 2 * torch.randn(3000, 1, 8, 8)
    energy = GaussianEnergy(2.0)
    part = Part(energy, torch.optim.SGD(energy.parameters(), lr=0.0), lambda t: 0.0)
    found = update_energy(part, data, sampled, 0.5)
    # |x|^2 of 64 standard normals has variance 128; H / T = 2 |x|^2
    assert found["gap_error"] == pytest.approx((4 * 128 / 5000 + 16 * 4 * 128 / 3000) ** 0.5, rel=0.05)
    assert abs(found["energy_gap"] - (2 * 64 - 8 * 64)) < 5 * found["gap_error"]


class GaussianEnergy(nn.Module):
    """H(x) = theta |x|^2 / 2."""

    def __init__(self, theta: float):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, x):
        return self.theta * x.flatten(1).square().sum(1) / 2


def test_the_update_of_h_follows_the_likelihood():
    temperature, theta, d = 0.5, 2.0, 64
    energy = GaussianEnergy(theta)
    part = Part(energy, torch.optim.SGD(energy.parameters(), lr=1e-3), lambda t: 1e-3)
    data = torch.randn(4, 1, 8, 8)
    model = torch.full((4, 1, 8, 8), (temperature / theta) ** 0.5)  # the second moment of exp(-H / T), exactly
    update_energy(part, data, model, temperature)
    # log-likelihood d/2 log theta - theta |x|^2 / (2 T), up to a constant
    slope = d / (2 * theta) - float(data.flatten(1).square().sum(1).mean()) / (2 * temperature)
    assert energy.theta.item() - theta == pytest.approx(1e-3 * slope, rel=1e-3)


def test_an_update_of_h_lowers_the_gap_and_leaves_g_alone(learner):
    data, sampled = torch.randn(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    energy, before = learner.parts["energy"], weights(nets(learner)[1])
    first = update_energy(energy, data, sampled, 1e-6)["energy_gap"]
    assert update_energy(energy, data, sampled, 1e-6)["energy_gap"] < first
    assert same(before, weights(nets(learner)[1]))


def test_an_update_of_g_lowers_its_error_and_leaves_h_alone(learner):
    z, x = torch.randn(4, 5), torch.randn(4, 1, 8, 8)
    energy, generator = nets(learner)
    before = weights(energy)
    with torch.no_grad():
        error = float((generator(z) - x).square().mean())
    first = update_generator(learner.parts["generator"], z, x, 1000.0)
    assert first == pytest.approx(1000 * error)
    assert update_generator(learner.parts["generator"], z, x, 1000.0) < first
    assert same(before, weights(energy))


def test_the_bank_begins_as_the_generators_images(learner):
    z, x = learner.memory["bank.z"], learner.memory["bank.x"]
    with torch.no_grad():
        torch.testing.assert_close(x, nets(learner)[1](z))
    assert z.shape == (12, 5)


def test_slots_are_distinct_and_every_slot_is_as_likely():
    drawn = torch.stack([bank_slots(tiny.CONFIG, t) for t in range(3000)])
    assert all(len(set(slots)) == 4 for slots in drawn.tolist())
    counts = torch.bincount(drawn.flatten(), minlength=12)
    assert ((counts - 1000).abs() < 5 * (3000 * 4 / 12 * 8 / 12) ** 0.5).all()


def test_the_age_of_what_g_learns_from_is_geometric_with_mean_bank_over_batch():
    config, born, ages = replace(tiny.CONFIG, bank_size=32, seed=1), torch.zeros(32), []
    for t in range(4000):
        slots = bank_slots(config, t)
        ages.append(t - born[slots])
        born[slots] = t
    ages = torch.cat(ages[200:])
    assert float(ages.mean()) == pytest.approx(8, rel=0.03)
    assert float((ages == 1).float().mean()) == pytest.approx(1 / 8, rel=0.05)


def test_g_learns_from_the_old_content_and_the_new_pairs_take_its_place(learner):
    images, config = tiny.images(), tiny.CONFIG
    for _ in range(3):
        learner.advance(images)
    before, t = copy.deepcopy(learner), learner.iteration
    learner.advance(images)

    slots = bank_slots(config, t)
    z = normal((config.batch, config.latent_dim), seed=config.seed, step=t, purpose=Purpose.INITIAL_STATE)
    sampled = residual_chain(
        *nets(before), z, config.dynamics, seed=config.seed, first_step=t * config.langevin_steps
    ).run(config.langevin_steps)
    assert torch.equal(learner.memory["bank.z"][slots], z)
    assert torch.equal(learner.memory["bank.x"][slots], sampled)
    others = torch.ones(config.bank_size, dtype=torch.bool)
    others[slots] = False
    assert torch.equal(learner.memory["bank.x"][others], before.memory["bank.x"][others])

    generator = before.parts["generator"]
    generator.optimizer.param_groups[0]["lr"] = config.generator_lr * 0.5
    update_generator(generator, before.memory["bank.z"][slots], before.memory["bank.x"][slots], 1000.0)
    assert same(weights(generator.network), weights(nets(learner)[1]))


def test_the_same_seed_trains_the_same_model_and_another_seed_another():
    def trained(seed: int) -> list[torch.Tensor]:
        learner = Synthesis.create(replace(tiny.CONFIG, seed=seed))
        torch.rand(7)  # the global random state has no say
        for _ in range(2):
            learner.advance(tiny.images())
        return [weight for net in nets(learner) for weight in weights(net)]

    assert same(trained(0), trained(0))
    assert not same(trained(0), trained(1))


def test_the_flags_of_the_networks_and_the_graph_are_left_as_found(learner):
    energy, generator = nets(learner)
    energy.blocks[0].conv1.bias.requires_grad_(False)
    chain = residual_chain(energy, generator, torch.randn(2, 5), tiny.CONFIG.dynamics, seed=0)
    assert not chain.run(2).requires_grad
    assert [p.requires_grad for p in energy.parameters()].count(False) == 1
    assert all(p.grad is None for p in (*energy.parameters(), *generator.parameters()))


def test_a_sampled_image_is_determined_by_its_id_and_the_seed(learner):
    together = learner.chain(range(8), seed=5).run(4)
    alone = learner.chain(range(6, 7), seed=5).run(4)
    torch.testing.assert_close(together[6:7], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


def test_batches_follow_the_order_of_training(learner):
    seen = []
    nets(learner)[0].register_forward_hook(lambda module, given, _: seen.append(given[0].detach()))
    images = tiny.images()
    learner.config = replace(learner.config, data_noise=0.0)
    learner.advance(images)
    index = batch_indices(10, 4, seed=0, iteration=0)
    torch.testing.assert_close(seen[-1][:4], images.train[index] / 127.5 - 1)


def test_learning_rates_drop_at_their_iterations(learner):
    assert [dropped(2.0, ((800, 0.1), (500, 0.5)), t) for t in (0, 499, 500, 799, 800, 10**6)] == [
        2, 2, 1, 1, 0.2, 0.2,
    ]  # fmt: skip
    rates = []
    for _ in range(5):
        learner.advance(tiny.images())
        rates.append([part.optimizer.param_groups[0]["lr"] for part in learner.parts.values()])
    assert rates == [[2e-3, 2e-3]] * 3 + [[1e-3, 1e-3]] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 0}, "batch must be positive, got 0"),
        ({"eps": float("nan")}, "eps must be positive, got nan"),
        ({"average": 1.0}, "average must lie"),
        ({"crop": "left"}, "crop must be one of center, random, got left"),
        ({"iterations": -1}, "iterations must not be negative, got -1"),
        ({"bank_size": 3, "batch": 4}, "bank_size must be at least batch = 4, got 3"),
        ({"energy_widths": ()}, "energy_widths"),
        ({"generator_widths": (4, 0)}, "generator_widths"),
        ({"energy_lr_drops": (5,)}, "energy_lr_drops"),
        ({"seed": 1 << 64}, "seed"),
        ({"energy_beta1": 1.0}, "energy_beta1"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        replace(tiny.CONFIG, **wrong)
