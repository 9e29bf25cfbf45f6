"""The SN-GAN: its iteration against one written out, its calibration, its statistics."""

import copy
import math
from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from tiny import one_thread  # noqa: F401
from tiny_sngan import CONFIG, put, sngan, trained
from torch import nn

from hatebm.data import Images, batch_indices, to_pixels
from hatebm.ops.noise import Purpose, normal
from hatebm.systems.sngan import SNGAN, SNGANConfig
from hatebm.systems.sngan.config import held_then_linear
from hatebm.systems.sngan.ddls import Calibration


def latents(step: int, block: int, config: SNGANConfig = CONFIG) -> torch.Tensor:
    shape, purpose = (config.batch, config.latent_dim), Purpose.INITIAL_STATE
    return normal(shape, seed=config.seed, step=step, block=block, purpose=purpose)


class Scores(nn.Module):
    """Of an image its mean, times a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return self.weight * x.flatten(1).mean(1)


class Flat(nn.Module):
    """Of a latent the image that is everywhere a + b tanh of its first entry."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, z):
        return (self.a + self.b * torch.tanh(z[:, :1])).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def test_the_losses_are_the_hinge_losses_by_hand():
    learner = sngan(discriminator_updates=1, batch=2, average=0.0)
    put(learner, "discriminator", Scores(2.0), lr=0.25)
    put(learner, "generator", Flat(0.25, 0.0), lr=0.5)
    put(learner, "calibration", Calibration(), lr=0.125)
    # data: one image is 51 / 127.5 - 1 = -0.6 everywhere, one is 0.8, so D is -1.2 and 1.6; of G(z) = 0.25 it is 0.5
    train = torch.tensor([51, 229], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 8, 8).contiguous()
    first, second = -0.6, 229 / 127.5 - 1
    measured = learner.advance(Images(train, train[:0]))
    # D: mean of max(0, 1 - (-1.2)) = 2.2 and of max(0, 1 - 1.59..) = 0; and 1 + 0.5 for each generated image
    assert measured["discriminator_loss"] == pytest.approx((1 - 2 * first) / 2 + 1.5, rel=1e-6)
    # its derivative in D's weight is -first / 2 + 0.25: the second image lies beyond the hinge
    weight = 2 - 0.25 * (-first / 2 + 0.25)
    assert learner.parts["discriminator"].network.weight.item() == pytest.approx(weight, rel=1e-6)
    # G: -D of the weight just moved, whose derivative in a is -weight
    assert measured["generator_loss"] == pytest.approx(-weight * 0.25, rel=1e-6)
    assert learner.parts["generator"].network.a.item() == pytest.approx(0.25 + 0.5 * weight, rel=1e-6)
    # the calibration sees the scores before D moved: real -1.2 and 1.59.., generated 0.5 twice
    scores = [2 * first, 2 * second, 0.5, 0.5]
    odds = [1 / (1 + math.exp(-score)) for score in scores]
    loss = -(math.log(odds[0]) + math.log(odds[1]) + 2 * math.log(1 - odds[2])) / 4
    assert measured["calibration_loss"] == pytest.approx(loss, rel=1e-5)
    errors = [odd - real for odd, real in zip(odds, (1, 1, 0, 0), strict=True)]
    slope = sum(error * score for error, score in zip(errors, scores, strict=True)) / 4
    calibration = learner.parts["calibration"].network
    assert calibration.scale.item() == pytest.approx(1 - 0.125 * slope, rel=1e-5)
    assert calibration.shift.item() == pytest.approx(-0.125 * sum(errors) / 4, rel=1e-5)


@pytest.mark.parametrize("t", [0, 2])
def test_an_iteration_written_out(t):
    learner, images = trained(t), tiny.images()
    generator, discriminator = (copy.deepcopy(learner.parts[name].network) for name in ("generator", "discriminator"))
    generator.train(), discriminator.train()
    adams = {}
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        adams[name] = torch.optim.Adam(network.parameters(), betas=(0.5, 0.9), eps=1e-7)
        adams[name].load_state_dict(copy.deepcopy(learner.parts[name].optimizer.state_dict()))
        adams[name].param_groups[0]["lr"] = {"generator": 1e-3, "discriminator": 2e-3}[name] * (1 - t / 6)
    measured = learner.advance(images)

    for update in (2 * t, 2 * t + 1):
        data = to_pixels(images.train[batch_indices(10, 4, seed=0, iteration=update)])
        fake = generator(latents(update, 0)).detach()
        scores = discriminator(torch.cat((data, fake)))
        loss = F.relu(1 - scores[:4]).mean() + F.relu(1 + scores[4:]).mean()
        adams["discriminator"].zero_grad()
        loss.backward()
        adams["discriminator"].step()
    assert measured["discriminator_loss"] == pytest.approx(loss.item(), rel=1e-5)
    loss = -discriminator(generator(latents(t, 1))).mean()
    adams["generator"].zero_grad()
    loss.backward()
    adams["generator"].step()
    assert measured["generator_loss"] == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        for (key, ours), theirs in zip(
            learner.parts[name].network.state_dict().items(), network.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=f"{name}.{key}")


@pytest.mark.parametrize(("moving", "still"), [("generator", "discriminator"), ("discriminator", "generator")])
def test_the_update_of_one_network_leaves_the_other_alone(moving, still):
    learner = trained(1)
    learner.parts[still].rate = lambda t: 0.0  # its own update is none; what moves it then is the other's
    before = {name: [p.detach().clone() for p in learner.parts[name].network.parameters()] for name in (moving, still)}
    learner.advance(tiny.images())
    equal = {name: list(map(torch.equal, learner.parts[name].network.parameters(), before[name])) for name in before}
    assert all(equal[still])
    assert not all(equal[moving])
    assert all(p.requires_grad for p in learner.parts["discriminator"].network.parameters())


def test_the_gradient_of_the_generators_loss_does_not_reach_the_discriminator():
    learner = trained(1)
    seen = {}
    descend = learner.parts["generator"].descend

    def watched(loss):
        discriminator = learner.parts["discriminator"].network
        seen["before"] = [p.grad.clone() for p in discriminator.parameters()]
        value = descend(loss)
        seen["after"] = [p.grad for p in discriminator.parameters()]
        return value

    learner.parts["generator"].descend = watched
    learner.advance(tiny.images())
    assert all(map(torch.equal, seen["before"], seen["after"]))


def test_calibration_converges_to_logistic_regression():
    scores = torch.linspace(-2, 2, 9, dtype=torch.float64)
    truth = torch.tensor([0, 0, 1, 0, 0, 1, 1, 0, 1], dtype=torch.float64)
    a, b = 1.0, 0.0
    for _ in range(30):  # Newton's method
        odds = torch.sigmoid(a * scores + b)
        slope = torch.stack(((odds - truth) @ scores, (odds - truth).sum()))
        w = odds * (1 - odds)
        curvature = torch.stack((torch.stack((w @ scores**2, w @ scores)), torch.stack((w @ scores, w.sum()))))
        a, b = (torch.tensor([a, b], dtype=torch.float64) - torch.linalg.solve(curvature, slope)).tolist()
    assert slope.abs().max() < 1e-12

    part = sngan().parts["calibration"]
    for _ in range(3000):
        part.descend(F.binary_cross_entropy_with_logits(part.network(scores.float()), truth.float()))
    assert part.network.scale.item() == pytest.approx(a, abs=2e-3)
    assert part.network.shift.item() == pytest.approx(b, abs=2e-3)


@pytest.mark.parametrize(("hold", "factors"), [(0.0, [1, 0.75, 0.5, 0.25, 0]), (0.5, [1, 1, 1, 0.5, 0])])
def test_rates_are_held_and_fall_linearly(hold, factors):
    config = replace(CONFIG, iterations=8, lr_hold=hold)
    assert [held_then_linear(t, config) for t in (0, 2, 4, 6, 8)] == pytest.approx(factors)
    learner = SNGAN.create(config)
    learner.iteration = 6
    learner.advance(tiny.images())
    rates = [learner.parts[name].optimizer.param_groups[0]["lr"] for name in ("generator", "discriminator")]
    assert rates == pytest.approx([1e-3 * factors[3], 2e-3 * factors[3]])


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_samples_use_the_running_statistics_and_change_nothing(average):
    learner = trained(average=average)
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    chains = learner.sample(3, [0, 4], seed=1)
    after = learner.tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())

    part = learner.parts["generator"]
    prefix = "generator." if average == 0 else "generator_average.module."
    generator = SNGAN.create(CONFIG).parts["generator"].network.eval()
    generator.load_state_dict({key.removeprefix(prefix): t for key, t in before.items() if key.startswith(prefix)})
    assert not torch.equal(generator.affine.running_mean, torch.zeros(4))
    with torch.no_grad():
        z = normal((3, 5), seed=1, step=0, purpose=Purpose.INITIAL_STATE)
        torch.testing.assert_close(chains[0], generator(z), rtol=0, atol=1e-6)
        in_training = generator.train()(z)
    assert (in_training - chains[0]).abs().max() > 1e-3
    learner.advance(tiny.images())
    assert all(module.training for module in part.network.modules())


def test_an_image_is_its_ids_and_seeds_in_any_batch():
    learner = trained()
    together = learner.chain(range(4, 9), seed=3).run(3)
    for i in (4, 6):
        torch.testing.assert_close(learner.chain([i], seed=3).run(3), together[i - 4 : i - 3], rtol=1e-5, atol=1e-6)
    assert (together[0] - together[2]).abs().max() > 1e-3
    assert (learner.chain(range(4, 9), seed=4).run(3) - together).abs().max() > 1e-3


def test_the_same_seed_trains_the_same_bits_and_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    one, same, other = (trained(seed=seed).tensors() for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["generator.conv.weight"], other["generator.conv.weight"])


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_resuming_equals_going_on(average):
    straight = trained(5, average=average).tensors()
    learner = trained(2, average=average)
    learner.sample(2, [0, 2], seed=0)  # which puts networks into eval mode
    later = sngan(average=average)
    later.restore({name: tensor.clone() for name, tensor in learner.tensors().items()}, 2)
    for _ in range(3):
        later.advance(tiny.images())
    assert straight.keys() == later.tensors().keys()
    assert all(torch.equal(tensor, straight[name]) for name, tensor in later.tensors().items())
