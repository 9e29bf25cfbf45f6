"""The autoencoder: its iteration against one written out, its codes, what it draws, and how it goes on."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from tiny import one_thread  # noqa: F401
from torch import nn

from hatebm.data import Images, batch_indices, to_pixels
from hatebm.errors import UsageError
from hatebm.ops.noise import Purpose, normal
from hatebm.systems.autoencoder import Autoencoder, AutoencoderConfig

CONFIG = AutoencoderConfig(
    size=8,
    channels=1,
    iterations=6,
    batch=4,
    average=0.9,
    code_side=4,
    encoder_widths=(4, 6),
    decoder_widths=(6, 4),
    code_noise=0.5,
    lr=2e-3,
    lr_drops=((2, 0.25),),
)


def autoencoder(**settings) -> Autoencoder:
    return Autoencoder.create(replace(CONFIG, **settings))


def trained(iterations: int = 3, **settings) -> Autoencoder:
    learner = autoencoder(**settings)
    for _ in range(iterations):
        learner.advance(tiny.images())
    return learner


class Two(nn.Module):
    """Code or image: the input times a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return self.weight * x


def test_the_loss_by_hand():
    learner = autoencoder(code_noise=0.0, batch=1, loss_weight=10.0)
    for name, weight in (("encoder", 0.5), ("decoder", 4.0)):
        part = learner.parts[name]
        part.network, part.average = Two(weight), None
        part.optimizer, part.rate = torch.optim.SGD(part.network.parameters()), lambda t: 0.01
    image = torch.full((1, 1, 8, 8), 204, dtype=torch.uint8)  # 204 / 127.5 - 1 = 0.6
    loss = learner.advance(Images(image, image[:0]))["reconstruction_loss"]
    assert loss == pytest.approx(10 * (4 * 0.5 * 0.6 - 0.6) ** 2, rel=1e-5)
    # both move at once: d loss / d (ab) = 20 * 0.6^2 (ab - 1) at ab = 2
    slope = 20 * 0.36
    assert learner.parts["encoder"].network.weight.item() == pytest.approx(0.5 - 0.01 * slope * 4, rel=1e-5)
    assert learner.parts["decoder"].network.weight.item() == pytest.approx(4 - 0.01 * slope * 0.5, rel=1e-5)


@pytest.mark.parametrize("t", [0, 3])
def test_an_iteration_written_out(t):
    learner, images = trained(t), tiny.images()
    networks = {name: copy.deepcopy(part.network) for name, part in learner.parts.items()}
    adams = {}
    for name, network in networks.items():
        adams[name] = torch.optim.Adam(network.parameters(), betas=(0.9, 0.999), eps=1e-7)
        adams[name].load_state_dict(copy.deepcopy(learner.parts[name].optimizer.state_dict()))
        adams[name].param_groups[0]["lr"] = 2e-3 if t < 2 else 5e-4
    averages = {name: copy.deepcopy(part.average) for name, part in learner.parts.items()}
    measured = learner.advance(images)

    data = to_pixels(images.train[batch_indices(10, 4, seed=0, iteration=t)])
    noise = normal((4, 1, 4, 4), seed=0, step=t, purpose=Purpose.DATA_NOISE)
    loss = 1000 * (networks["decoder"](networks["encoder"](data) + 0.5 * noise) - data).square().mean()
    loss.backward()
    assert measured == {"reconstruction_loss": pytest.approx(loss.item(), rel=1e-5)}
    for name, network in networks.items():
        adams[name].step()
        averages[name].update_parameters(network)
        for ours, theirs in (
            (learner.parts[name].network, network),
            (learner.parts[name].evaluated, averages[name].module),
        ):
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def test_codes_lie_on_the_sphere_of_random_ones():
    learner = trained()
    codes = learner.parts["encoder"].evaluated(to_pixels(tiny.images().train))
    assert codes.shape == (10, 1, 4, 4)
    torch.testing.assert_close(codes.flatten(1).norm(dim=1), torch.full((10,), 4.0), rtol=1e-5, atol=0)
    assert learner.generator.latent_shape == (1, 4, 4)


@pytest.mark.parametrize(("held_out", "title"), [(6, "held-out, decoded"), (0, "data, decoded")])
def test_it_draws_reconstructions_and_decoded_noise(held_out, title):
    learner, images = trained(), tiny.images(12)
    images = Images(images.train[held_out:], images.train[:held_out])
    drawn = learner.samples(images, 5, seed=2)
    assert list(drawn) == [title, "G(z) alone"]
    shown = to_pixels((images.held_out if held_out else images.train)[:5])
    encoder, decoder = (learner.parts[name].average.module for name in ("encoder", "decoder"))
    with torch.no_grad():
        z = normal((5, 1, 4, 4), seed=2, step=0, purpose=Purpose.INITIAL_STATE)
        torch.testing.assert_close(drawn[title], decoder(encoder(shown)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(drawn["G(z) alone"], decoder(z), rtol=1e-5, atol=1e-6)


def test_codes_do_not_move():
    chain = trained(1).chain(range(3, 5), seed=0)
    assert torch.equal(chain.run(0), chain.run(0))
    alone = trained(1).chain([4], seed=0).run(0)
    torch.testing.assert_close(alone, chain.run(0)[1:], rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="--steps: an autoencoder has no chain, wanted 0 steps, got 5"):
        chain.run(5)


def test_the_same_seed_trains_the_same_bits_and_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    one, same, other = (trained(seed=seed).tensors() for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["decoder.conv.weight"], other["decoder.conv.weight"])


def test_resuming_equals_going_on():
    straight, learner, later = trained(5).tensors(), trained(2), autoencoder()
    later.restore({name: tensor.clone().contiguous() for name, tensor in learner.tensors().items()}, 2)
    for _ in range(3):
        later.advance(tiny.images())
    assert straight.keys() == later.tensors().keys()
    assert all(torch.equal(tensor, straight[name]) for name, tensor in later.tensors().items())


def test_it_has_no_energy():
    with pytest.raises(UsageError, match="Autoencoder has no energy of images"):
        _ = autoencoder().energy
