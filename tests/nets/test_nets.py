"""The networks against hand-computed cases, exact identities and the published parameter counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hatebm.errors import UsageError
from hatebm.nets import Decoder, Discriminator, Encoder, ResidualEnergy, ResidualGenerator
from hatebm.nets.autoencoder import to_sphere
from hatebm.nets.energy import EnergyBlock
from hatebm.nets.generator import GeneratorBlock
from hatebm.nets.layers import Affine, conv_then_pool, upsample

BLOCK_LAYERS = ("affine1", "conv1", "affine2", "conv2", "shortcut")


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_affine_is_batch_norm_with_untouched_statistics():
    norm, affine = nn.BatchNorm2d(5, eps=1e-3).double().eval(), Affine(5).double()
    with torch.no_grad():
        norm.weight.copy_(normal(5))
        norm.bias.copy_(normal(5))
        affine.weight.copy_(norm.weight[:, None, None] / 1.001**0.5)
        affine.bias.copy_(norm.bias[:, None, None])
        x = normal(2, 5, 3, 3)
        torch.testing.assert_close(affine(x), norm(x), rtol=1e-13, atol=1e-13)


def test_upsampling_has_half_pixel_centres():
    low = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    along = torch.tensor([0, 0.25, 0.75, 1])
    assert torch.equal(upsample(low)[0, 0], along + 2 * along[:, None])


@pytest.mark.parametrize("side", [2, 8, 16])
def test_convolution_then_pool_in_one_is_the_same_function_with_the_same_gradients(side):
    conv = nn.Conv2d(3, 4, 3, padding=1).double()
    x = normal(2, 3, side, side).requires_grad_()
    fused, plain = conv_then_pool(conv, x), F.avg_pool2d(conv(x), 2)
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)
    wanted = (x, conv.weight, conv.bias)
    for ours, theirs in zip(
        torch.autograd.grad(fused.sin().sum(), wanted), torch.autograd.grad(plain.sin().sum(), wanted), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_1x1_convolution_commutes_with_pooling_and_upsampling():
    conv, x = nn.Conv2d(3, 5, 1).double(), normal(2, 3, 8, 8)
    torch.testing.assert_close(conv(F.avg_pool2d(x, 2)), F.avg_pool2d(conv(x), 2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(conv(upsample(x)), upsample(conv(x)), rtol=1e-12, atol=1e-12)


def seeded(net: nn.Module) -> nn.Module:
    """The net in float64 and eval mode, with normal parameters: every bias and every scale plays a part."""
    with torch.no_grad():
        for i, tensor in enumerate(net.parameters()):
            tensor.normal_(generator=torch.Generator().manual_seed(i)).div_(tensor[0].numel() ** 0.5)
    return net.double().eval()


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize(("pool", "width"), [(True, 3), (True, 4), (False, 3), (False, 4)])
def test_an_energy_block_is_the_published_one(pool, width, stem):
    block, x = seeded(EnergyBlock(3, width, pool=pool, stem=stem)), normal(2, 3, 8, 8)
    h = block.conv2(F.relu(block.conv1(x if stem else F.relu(x))))
    shortcut = block.shortcut(x) if pool or width != 3 else x
    assert isinstance(block.shortcut, nn.Conv2d) == (pool or width != 3)
    plain = F.avg_pool2d(h + shortcut, 2) if pool else h + shortcut
    torch.testing.assert_close(block(x), plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize(("doubles", "width"), [(True, 3), (True, 4), (False, 3), (False, 4)])
def test_a_generator_block_is_the_published_one(doubles, width, stem):
    block, x = seeded(GeneratorBlock(3, width, doubles=doubles, stem=stem)), normal(2, 3, 8, 8)
    raised = upsample(x) if doubles else x
    h = x if stem else F.relu(block.affine1(x))
    h = block.conv2(F.relu(block.affine2(block.conv1(upsample(h) if doubles else h))))
    assert isinstance(block.shortcut, nn.Conv2d) == (doubles or width != 3)
    plain = h + (block.shortcut(raised) if doubles or width != 3 else x)
    torch.testing.assert_close(block(x), plain, rtol=1e-12, atol=1e-12)


def test_the_norm_of_a_generator_changes_what_its_slots_hold_and_not_their_names():
    affine, batch = ResidualGenerator(8, 1, 3, (4, 5)), ResidualGenerator(8, 1, 3, (4, 5), norm="batch")
    assert list(affine.state_dict()) == [
        *("dense.weight", "dense.bias"),
        *(f"blocks.0.{layer}.{name}" for layer in BLOCK_LAYERS for name in ("weight", "bias")),
        *("affine.weight", "affine.bias", "conv.weight", "conv.bias"),
    ]
    assert [name for name, _ in batch.named_parameters()] == list(affine.state_dict())
    slots = {name: module for name, module in batch.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert list(slots) == ["blocks.0.affine1", "blocks.0.affine2", "affine"]
    assert {module.eps for module in slots.values()} == {1e-5}


def test_only_training_moves_the_statistics_of_a_batch_norm():
    generator, z = ResidualGenerator(8, 1, 3, (4, 5), norm="batch").double(), normal(6, 3)
    before = {name: tensor.clone() for name, tensor in generator.named_buffers()}
    generator.eval()(z)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.named_buffers())
    generator.train()(z)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in generator.named_buffers())


@pytest.mark.parametrize(
    "make",
    [lambda: Discriminator(8, 3, (32, 48), 1), lambda: ResidualGenerator(8, 3, 32, (32, 48), norm="batch")],
    ids=["discriminator", "generator"],
)
def test_an_sn_gan_starts_as_in_mimicry(make):
    torch.manual_seed(0)
    net = make()
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            spectral = hasattr(layer, "parametrizations")
            weight = layer.parametrizations.weight.original if spectral else layer.weight
            fans = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
            gain = 2**0.5 if "blocks" in name and weight.shape[2:] == (3, 3) else 1
            bound = gain * (6 / fans) ** 0.5
            # of n uniform weights the largest is below 1 - 20/n of the bound with probability exp(-20)
            assert (1 - 20 / weight.numel()) * bound <= weight.abs().max() <= bound, name
            assert layer.bias.abs().max() > 0


def test_the_discriminator_is_the_energy_of_normalised_weights_summed_instead_of_averaged():
    discriminator, x = seeded(Discriminator(8, 3, (4, 5), 1)), normal(2, 3, 8, 8)
    energy = ResidualEnergy(8, 3, (4, 5), 1).double()
    layers = dict(discriminator.named_modules())
    energy.load_state_dict(
        {key: getattr(layers[key.rpartition(".")[0]], key.rpartition(".")[2]) for key in energy.state_dict()}
    )
    plain = energy(x) * 4 * 4 + discriminator.head.bias
    assert discriminator(x).shape == (2,)
    torch.testing.assert_close(discriminator(x), plain, rtol=1e-12, atol=1e-12)


def test_power_iterations_bring_the_largest_singular_value_of_every_weight_to_one():
    discriminator, x = seeded(Discriminator(4, 1, (3, 4), 1)).train(), normal(1, 1, 4, 4)
    with torch.no_grad():
        for _ in range(300):
            discriminator(x)
    weights = [layer.weight for layer in discriminator.eval().modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(weights) == 7
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_a_forward_normalises_each_weight_once_and_moves_the_vectors_in_training_alone(training):
    discriminator, x = seeded(Discriminator(8, 1, (3, 4), 1)).train(training), normal(2, 1, 8, 8)
    evaluated, layers = [], [m for m in discriminator.modules() if hasattr(m, "parametrizations")]
    for layer in layers:
        layer.parametrizations.weight[0].register_forward_hook(lambda norm, *_: evaluated.append(norm))
    before = {name: tensor.clone() for name, tensor in discriminator.named_buffers()}
    logits = discriminator(x)
    assert len(evaluated) == len(set(evaluated)) == len(layers) == 7
    moved = [not torch.equal(tensor, before[name]) for name, tensor in discriminator.named_buffers()]
    assert len(moved) == 14
    assert any(moved) == training
    assert torch.equal(discriminator.eval()(x), logits) or training


@pytest.mark.parametrize(("size", "code_side", "widths"), [(32, 16, (4,) * 4), (32, 8, (4, 6, 5)), (12, 12, (3,))])
def test_codes_lie_on_the_sphere_and_decode_to_images(size, code_side, widths):
    encoder, decoder = seeded(Encoder(size, 3, code_side, widths)), seeded(Decoder(size, 3, code_side, widths))
    raw = []
    encoder.conv.register_forward_hook(lambda conv, inputs, output: raw.append(output))
    x = normal(5, 3, size, size)
    code = encoder(x)
    assert code.shape[1:] == decoder.latent_shape == (1, code_side, code_side)
    length = raw[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(code.flatten(1).norm(dim=1), code_side * length / (length + 1e-6), rtol=1e-12, atol=0)
    torch.testing.assert_close(F.cosine_similarity(code.flatten(1), raw[0].flatten(1)), torch.ones(5).double())
    image = decoder(code)
    assert image.shape == x.shape
    assert image.abs().max() <= 2
    assert Decoder(size, 3, code_side, widths, 0.5)(100 * code.float()).abs().max() <= 0.5


def test_a_decoder_takes_the_code_as_it_is():
    layers = [list(dict(block.named_children())) for block in Decoder(32, 3, 16, (4,) * 3).blocks]
    assert "affine1" not in layers[0]
    assert "affine1" in layers[1]
    assert "affine1" in layers[2]


def test_the_code_of_nothing_is_finite():
    x = torch.zeros(2, 1, 4, 4, requires_grad=True)
    to_sphere(x).sum().backward()
    assert torch.equal(to_sphere(x), torch.zeros_like(x))
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_every_size_and_channel_count_goes_through(size, channels):
    energy = ResidualEnergy(size, channels, (4, 6, 8), 2)
    generator = ResidualGenerator(size, channels, 5, (8, 6, 4), output_scale=2.0)
    x = generator(100 * torch.randn(3, 5))
    assert generator.latent_shape == (5,)
    assert x.shape == (3, channels, size, size)
    assert x.abs().max() <= 2
    assert energy(x).shape == (3,)


def test_the_energy_of_an_image_does_not_depend_on_its_batch():
    energy, x = ResidualEnergy(8, 1, (4, 6), 2).double(), normal(7, 1, 8, 8)
    torch.testing.assert_close(energy(x)[3:4], energy(x[3:4]), rtol=1e-12, atol=1e-12)


REFUSALS = [
    (lambda: ResidualEnergy(12, 1, (4, 4, 4), 3), r"ResidualEnergy: size must be a multiple of .* 8, got 12"),
    (lambda: ResidualEnergy(0, 1, (4, 4), 1), r"ResidualEnergy: size must be a multiple of .* 2, got 0"),
    (lambda: ResidualEnergy(8, 1, (4, 4), 3), r"ResidualEnergy: pools must be 1 to 2 .* got 3"),
    (lambda: Discriminator(12, 1, (4, 4, 4), 3), r"Discriminator: size must be a multiple of .* 8, got 12"),
    (lambda: Discriminator(8, 1, (4, 4), 0), r"Discriminator: pools must be 1 to 2 .* got 0"),
    (lambda: ResidualGenerator(12, 1, 5, (4, 4, 4, 4)), r"ResidualGenerator: size must be a multiple of 8 .* got 12"),
    (lambda: ResidualGenerator(8, 1, 5, ()), r"ResidualGenerator: widths must be at least one width, got \(\)"),
    (lambda: ResidualGenerator(8, 1, 5, (4,), norm="layer"), r"norm must be 'affine' or 'batch', got 'layer'"),
    (lambda: Encoder(32, 1, 12, (4, 4)), r"Encoder: code_side must be one of \[32, 16\], size = 32 .* got 12"),
    (lambda: Encoder(32, 1, 8, (4, 4)), r"Encoder: code_side must be one of \[32, 16\], .* got 8"),
    (lambda: Encoder(6, 1, 3, ()), r"Encoder: widths must be at least one width"),
    (lambda: Decoder(6, 1, 1, (4, 4, 4)), r"Decoder: code_side must be one of \[6, 3\], .* got 1"),
    (lambda: Decoder(6, 1, 12, (4, 4)), r"Decoder: code_side must be one of \[6, 3\], .* got 12"),
]


@pytest.mark.parametrize(("make", "message"), REFUSALS)
def test_what_does_not_fit_together_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
