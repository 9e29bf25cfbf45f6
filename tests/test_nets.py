"""The networks against hand-computed cases, exact identities and the published parameter counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hatebm.nets import ResidualEnergy, ResidualGenerator
from hatebm.nets.layers import Affine, conv_then_pool, upsample


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


@pytest.mark.parametrize(
    ("size", "widths", "pools", "millions"),
    [
        pytest.param(32, (256,) * 4, 2, 4.20, id="32"),
        pytest.param(64, (64, 128, 256, 512, 1024), 5, 19.5, id="64"),
        pytest.param(128, (64, 128, 256, 512, 1024, 1024), 5, 38.4, id="128"),
    ],
)
def test_energies_have_the_published_number_of_parameters(size, widths, pools, millions):
    with torch.device("meta"):
        energy = ResidualEnergy(size, 3, widths, pools)
    assert sum(p.numel() for p in energy.parameters()) / 1e6 == pytest.approx(millions, rel=3e-3)


@pytest.mark.parametrize(
    ("size", "widths", "millions"),
    [
        pytest.param(32, (256,) * 4, 4.28, id="32"),
        pytest.param(64, (1024, 512, 256, 128, 64), 12.2, id="64"),
        pytest.param(128, (1024, 1024, 512, 256, 128, 64), 32.2, id="128"),
    ],
)
def test_generators_have_the_published_number_of_parameters(size, widths, millions):
    with torch.device("meta"):
        generator = ResidualGenerator(size, 3, 128, widths)
    assert sum(p.numel() for p in generator.parameters()) / 1e6 == pytest.approx(millions, rel=3e-3)
    assert generator.side == 4


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_every_size_and_channel_count_goes_through(size, channels):
    energy = ResidualEnergy(size, channels, (4, 6, 8), 2)
    generator = ResidualGenerator(size, channels, 5, (8, 6, 4), output_scale=2.0)
    x = generator(100 * torch.randn(3, 5))
    assert x.shape == (3, channels, size, size)
    assert x.abs().max() <= 2
    assert energy(x).shape == (3,)


def test_the_energy_of_an_image_does_not_depend_on_its_batch():
    energy, x = ResidualEnergy(8, 1, (4, 6), 2).double(), normal(7, 1, 8, 8)
    torch.testing.assert_close(energy(x)[3:4], energy(x[3:4]), rtol=1e-12, atol=1e-12)


def test_sizes_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match=r"ResidualEnergy: size must be a multiple of .* 8, got 12"):
        ResidualEnergy(12, 1, (4, 4, 4), 3)
    with pytest.raises(ValueError, match=r"ResidualGenerator: size must be a multiple of 8 .* got 12"):
        ResidualGenerator(12, 1, 5, (4, 4, 4, 4))
    with pytest.raises(ValueError, match=r"ResidualEnergy: pools must be 1 to 2 .* got 3"):
        ResidualEnergy(8, 1, (4, 4), 3)
