"""The joint Hat EBM: its iteration against one written out, what it costs, and that its generator stays."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from tiny import one_thread  # noqa: F401
from torch import nn

from hatebm.data import batch_indices, to_pixels
from hatebm.errors import UsageError
from hatebm.ops.noise import Purpose, normal
from hatebm.systems.hat import Joint
from hatebm.systems.hat.update import noisy_batch, update_energy

KERNELS = pytest.mark.parametrize("alternate", [True, False], ids=["alternating", "simultaneous"])


def joint(**settings) -> Joint:
    return Joint.create(replace(tiny.JOINT, **settings), tiny.generator())


def written_out(learner: Joint, t: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Chains of iteration t as the algorithm is published: z, y, and |drift| and |move| of y at each step."""
    config, hat, generator = learner.config, learner.parts["energy"].network, learner.generator
    z = normal((config.batch, 5), seed=config.seed, step=t, purpose=Purpose.INITIAL_STATE)
    y = torch.zeros(config.batch, 1, 8, 8)
    s_z, s_y, tau = config.eps_latent**2 / 2, config.eps**2 / 2, config.residual_precision
    drifts, moves = [], []
    for step in range(t * config.langevin_steps, (t + 1) * config.langevin_steps):
        noise_z, noise_y = (normal(x.shape, seed=config.seed, step=step, block=k) for k, x in enumerate((z, y)))
        leaf = z.clone().requires_grad_()
        (grad,) = torch.autograd.grad(hat(generator(leaf) + y).sum() / config.temperature, leaf)
        moved = z - s_z * grad + config.eps_latent * noise_z
        leaf = y.clone().requires_grad_()
        image = generator(moved if config.alternate else z).detach() + leaf
        energy = hat(image).sum() / config.temperature + tau * leaf.square().sum()
        drift = s_y * torch.autograd.grad(energy, leaf)[0]
        length = drift.flatten(1).norm(dim=1)
        bounded = drift * (config.max_displacement / length).clamp(max=1)[:, None, None, None]
        z, last, y = moved, y, y - bounded + config.eps * noise_y
        drifts.append(length)
        moves.append((y - last).flatten(1).norm(dim=1))
    return z, y, drifts, moves


@KERNELS
@pytest.mark.parametrize("t", [0, 2])
def test_an_iteration_is_the_published_one(alternate, t):
    # drifts of the size of the noise, from H and from tau, of which some meet the cap
    settings = {"temperature": 1e-4, "residual_precision": 1000.0, "max_displacement": 0.035, "batch": 6}
    learner, images = joint(alternate=alternate, **settings), tiny.images()
    learner.iteration = t
    z, y, drifts, moves = written_out(learner, t)
    capped = torch.stack(drifts) > learner.config.max_displacement
    assert capped.any()
    assert not capped.all()

    start = normal((6, 5), seed=0, step=t, purpose=Purpose.INITIAL_STATE)
    with torch.no_grad():
        generated, hat = learner.generator(z), learner.parts["energy"].network
        sampled, data = generated + y, noisy_batch(images, learner.config, t, "cpu")
        gap = float(hat(data).mean() - hat(sampled).mean()) / learner.config.temperature
    hand = copy.deepcopy(learner.parts["energy"])
    hand.optimizer.param_groups[0]["lr"] = learner.config.energy_lr
    learned = update_energy(hand, data, sampled, learner.config.temperature)

    measured = learner.advance(images)
    assert measured == pytest.approx(
        {
            "energy_gap": gap,
            "gap_error": learned["gap_error"],
            "displacement": float(torch.stack(moves).mean()),
            "latent_displacement": float((z - start).square().mean().sqrt()),
            "latent_norm": float(z.square().mean().sqrt()),
            "residual": float(y.square().mean().sqrt()),
            "overshoot": float((sampled.abs() - 1).clamp_min(0).mean()),
        },
        rel=1e-3,
    )
    assert learner.iteration == t + 1
    for ours, theirs in zip(learner.parts["energy"].network.parameters(), hand.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * learner.config.energy_lr)


def test_the_two_kernels_are_two():
    ends = [written_out(joint(alternate=alternate, temperature=1e-4), 0)[1] for alternate in (True, False)]
    assert not torch.allclose(*ends, rtol=1e-2, atol=1e-3)


@KERNELS
def test_an_iteration_pays_for_no_more_than_its_steps_the_last_images_and_the_update(alternate):
    learner, passes = joint(alternate=alternate, langevin_steps=5), {}

    def count(name: str, module: nn.Module) -> None:
        def see(module, given, made):
            passes[name] = passes.get(name, 0) + 1
            if made.requires_grad:
                made.register_hook(lambda grad: passes.update({f"{name}'": passes.get(f"{name}'", 0) + 1}))

        module.register_forward_hook(see)

    count("G", learner.generator)
    count("H", learner.parts["energy"].network)
    learner.advance(tiny.images())
    steps = {"G": 5, "G'": 5, "H": 10, "H'": 10} if alternate else {"G": 5, "G'": 5, "H": 5, "H'": 5}
    # an alternating chain needs G once more, where it begins; x- = G(z) + y is one G; the update is one H and one H'
    outside = {"G": 2 if alternate else 1, "G'": 0, "H": 1, "H'": 1}
    assert passes == {name: steps[name] + outside[name] for name in steps}


@KERNELS
def test_the_generator_stays_bit_for_bit(alternate):
    given = tiny.generator()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    assert any(name.endswith("running_mean") and tensor.abs().max() > 0 for name, tensor in before.items())
    learner = Joint.create(replace(tiny.JOINT, alternate=alternate), given.train())
    weights = [p.detach().clone() for p in learner.parts["energy"].network.parameters()]
    for _ in range(3):
        learner.advance(tiny.images())
    learner.sample(3, [0, 2], seed=1)
    after = learner.generator.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(part.training for part in learner.generator.modules())
    assert all(p.grad is None and not p.requires_grad for p in learner.generator.parameters())
    assert not any(
        torch.equal(*pair) for pair in zip(weights, learner.parts["energy"].network.parameters(), strict=True)
    )


def test_the_noise_on_data_has_its_deviation_and_is_another_in_every_iteration():
    images, config = tiny.images(), replace(tiny.JOINT, batch=10, data_noise=0.3)
    clean = to_pixels(images.train)
    noises = []
    for t in (0, 1):
        noises.append(noisy_batch(images, config, t, "cpu") - clean[batch_indices(10, 10, seed=0, iteration=t)])
        assert float(noises[-1].square().mean()) == pytest.approx(0.09, rel=4 * (2 / 640) ** 0.5)
    assert abs(float((noises[0] * noises[1]).mean())) < 4 * 0.09 / 640**0.5
    for purpose in (Purpose.LANGEVIN, Purpose.INITIAL_STATE):  # nor is it the noise of a chain
        drawn = normal(clean.shape, seed=0, step=1, purpose=purpose)
        assert abs(float((noises[1] * drawn).mean())) < 4 * 0.3 / 640**0.5
    assert torch.equal(noisy_batch(images, config, 1, "cpu"), noisy_batch(images, config, 1, "cpu"))


@KERNELS
def test_under_a_constant_energy_latents_and_residuals_walk(alternate):
    n, steps, eps_z, eps = 1000, 8, 0.4, 0.2
    learner = joint(
        alternate=alternate, batch=n, langevin_steps=steps, eps_latent=eps_z, eps=eps, residual_precision=0.0
    )
    with torch.no_grad():
        learner.parts["energy"].network.head.weight.zero_()
    measured = learner.advance(tiny.images())
    assert measured["energy_gap"] == 0
    wanted = {
        "latent_norm": (1 + steps * eps_z**2, 5 * n),
        "latent_displacement": (steps * eps_z**2, 5 * n),
        "residual": (steps * eps**2, 64 * n),
    }
    for name, (mean_square, draws) in wanted.items():
        assert measured[name] ** 2 == pytest.approx(mean_square, rel=4 * (2 / draws) ** 0.5), name
    squares = (64 - 0.5) * eps**2  # (E|move|)^2 of 64 normals, to 1 / 64^2
    spread = (2 / 64 / (n * steps)) ** 0.5  # of the mean of so many |move|^2
    assert measured["displacement"] ** 2 == pytest.approx(squares, rel=4 * spread + 1 / 64**2)


def test_a_residual_without_energy_relaxes_to_its_prior():
    n, tau, eps, steps = 200, 50.0, 0.05, 40
    learner = joint(residual_precision=tau, eps=eps, batch=n, langevin_steps=steps, max_displacement=100.0)
    with torch.no_grad():
        learner.parts["energy"].network.head.weight.zero_()
    kept = (1 - eps**2 * tau) ** 2  # y' = (1 - eps^2 / 2 * 2 tau) y + eps xi
    variance = eps**2 * (1 - kept**steps) / (1 - kept)
    measured = learner.advance(tiny.images())
    assert measured["residual"] ** 2 == pytest.approx(variance, rel=4 * (2 / (64 * n)) ** 0.5)


def test_the_cap_holds_each_residual_by_itself_and_no_latent():
    class Slope(nn.Module):
        """H = a * the first pixel, where a is the image's own: 1000 or 1."""

        def forward(self, x):
            return torch.tensor([1000.0, 1.0]) * x[:, 0, 0, 0]

    class Spread(nn.Module):
        latent_shape = (1,)

        def forward(self, z):
            return z[:, :, None, None].expand(-1, 1, 8, 8)

    config = replace(tiny.JOINT, eps=0.2, eps_latent=0.2, temperature=1.0, residual_precision=0.0, max_displacement=0.5)
    chain = Joint.create(config, Spread())._chain(Slope(), range(2), seed=0, step=0, residual=0.0)
    z, y = chain.state
    noise_z, noise_y = (normal(x.shape, seed=0, step=0, block=k) for k, x in enumerate((z, y)))
    moved_z, moved_y = chain.run(1)
    torch.testing.assert_close(moved_z - z - 0.2 * noise_z, torch.tensor([[-20.0], [-0.02]]), rtol=1e-5, atol=1e-6)
    drift = (moved_y - y - 0.2 * noise_y)[:, 0, 0, 0]
    torch.testing.assert_close(drift, torch.tensor([-0.5, -0.02]), rtol=1e-5, atol=1e-6)


class Scaled(nn.Module):
    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        return self.factor * self.net(x)


@KERNELS
def test_energy_and_temperature_scaled_together_train_the_same_bits(alternate):
    learner, scaled = (joint(alternate=alternate, temperature=temperature, average=0.0) for temperature in (1e-5, 4e-5))
    part, images = scaled.parts["energy"], tiny.images()
    part.network = Scaled(part.network, 4.0)
    for _ in range(3):
        assert learner.advance(images) == scaled.advance(images)
    weights = learner.parts["energy"].network.parameters()
    assert all(torch.equal(*pair) for pair in zip(weights, part.network.parameters(), strict=True))


def test_adam_does_not_see_the_temperature():
    one, data, sampled = joint(), torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    one.parts["energy"].optimizer.param_groups[0]["eps"] = 1e-30
    other = copy.deepcopy(one)
    for _ in range(3):
        gap = update_energy(one.parts["energy"], data, sampled, 1e-2)["energy_gap"]
        same = update_energy(other.parts["energy"], data, sampled, 1e-2 / 1024)["energy_gap"]
        assert same == pytest.approx(1024 * gap, rel=1e-4)
    for ours, theirs in zip(*(learner.parts["energy"].network.parameters() for learner in (one, other)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_chains_begin_at_the_prior_and_a_small_residual_and_are_their_own_in_any_batch():
    learner = joint(temperature=1e-4)
    z = normal((5, 5), seed=3, step=0, chain_ids=range(4, 9), purpose=Purpose.INITIAL_STATE)
    y = 0.1 * normal((5, 1, 8, 8), seed=3, step=0, block=1, chain_ids=range(4, 9), purpose=Purpose.INITIAL_STATE)
    with torch.no_grad():
        start = learner.generator(z) + y
    chain = learner.chain(range(4, 9), seed=3)
    torch.testing.assert_close(chain.run(0), start, rtol=0, atol=0)
    together, alone = chain.run(6), learner.chain([6], seed=3).run(6)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)
    assert (together - start).abs().max() > 0.01


def test_an_energy_is_determined_by_the_seed_and_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    one, same, other = (joint(seed=seed).parts["energy"].network.state_dict() for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["head.weight"], other["head.weight"])


class Foreign(nn.Module):
    """A generator from elsewhere, which knows nothing of latent_shape."""

    def __init__(self, give=lambda z: z.flatten(1)[:, :1, None, None].expand(-1, 1, 8, 8)):
        super().__init__()
        self.give = give

    def forward(self, z):
        return self.give(z)


def test_the_configuration_can_say_the_shape_of_the_latents():
    learner = Joint.create(replace(tiny.JOINT, latent_shape=(2, 3)), Foreign())
    assert learner.advance(tiny.images())["latent_norm"] > 0
    assert learner.chain(range(2), seed=0).chain.state[0].shape == (2, 2, 3)


REFUSED = [
    (Foreign(), (), r"--generator: has no attribute latent_shape; say it with --set latent_shape"),
    (tiny.generator(), (7,), r"--generator: cannot take latents of shape \(7,\): "),
    (tiny.generator().double(), (5,), r"--generator: cannot take latents of shape \(5,\): "),
    (Foreign(lambda z: z), (3,), r"--generator: wanted two images, a tensor of shape \(2, 1, 8, 8\), got \(2, 3\)"),
    (Foreign(lambda z: torch.zeros(1, 1, 8, 8)), (3,), r"--generator: wanted two images, .* got \(1, 1, 8, 8\)"),
    (Foreign(lambda z: (z, z)), (3,), r"--generator: wanted two images, .* got tuple"),
    (Foreign(lambda z: {}["image"]), (3,), r"--generator: cannot take latents of shape \(3,\): KeyError: 'image'"),
]


@pytest.mark.parametrize(("generator", "latent_shape", "message"), REFUSED)
def test_generators_that_do_not_fit_are_refused(generator, latent_shape, message):
    with pytest.raises(UsageError, match=message):
        Joint.create(replace(tiny.JOINT, latent_shape=latent_shape), generator)
