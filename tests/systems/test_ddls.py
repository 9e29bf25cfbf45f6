"""Chains in the latent space of an SN-GAN: their energy, and their law where it is a Gaussian."""

import pytest
import torch
from tiny import one_thread  # noqa: F401
from tiny_sngan import put, sngan, trained
from torch import nn

from hatebm.systems.sngan.ddls import Calibration, LatentEnergy


def test_the_latent_energy_is_minus_the_log_odds():
    learner = trained(1)
    generator, discriminator = learner.generator, learner.parts["discriminator"].evaluated
    calibration = Calibration()
    with torch.no_grad():
        calibration.scale.fill_(1.5)
        calibration.shift.fill_(-0.25)
        z = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        wanted = -1.5 * discriminator(generator(z)) + 0.25
        torch.testing.assert_close(LatentEnergy(generator, discriminator, calibration)(z), wanted)


class Linear(nn.Module):
    """x = W z, two pixels."""

    latent_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.tensor([[1.0, 0.5, 0.0], [0.0, -0.5, 2.0]]))

    def forward(self, z):
        return (z @ self.W.T)[:, None, None]


class Slope(nn.Module):
    """D(x) = w x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.6, -0.4]))

    def forward(self, x):
        return x.flatten(1) @ self.w


@pytest.mark.parametrize("steps", [4, 60])
def test_the_chains_of_a_linear_gan_have_their_gaussian_law(steps):
    """exp(-|z|^2 / 2 + a w W z + b) is N(a W' w, I); the chain z' = (1 - s) z + s a W' w + eps xi is known too."""
    n, eps = 4000, 0.5
    learner = sngan(latent_dim=3, ddls_eps=eps, average=0.0)
    put(learner, "generator", Linear(), lr=0.0)
    put(learner, "discriminator", Slope(), lr=0.0)
    with torch.no_grad():
        learner.parts["calibration"].network.scale.fill_(1.5)
        learner.parts["calibration"].network.shift.fill_(7.0)
    mean = 1.5 * Linear().W.T @ Slope().w
    kept = 1 - eps**2 / 2
    chain = learner.chain(range(n), seed=0)
    images = chain.run(steps)
    z = chain.chain.state
    torch.testing.assert_close(images, Linear()(z))
    variance = kept ** (2 * steps) + eps**2 * (1 - kept ** (2 * steps)) / (1 - kept**2)
    centre = mean * (1 - kept**steps)
    assert (z.mean(0) - centre).abs().max() < 4 * (variance / n) ** 0.5
    covariance = (z - centre).T @ (z - centre) / n
    assert (covariance - variance * torch.eye(3)).abs().max() < 4 * variance * (2 / n) ** 0.5
    if steps == 60:  # stationary: eps^2 / (1 - kept^2) = 1 / (1 - s / 2) about the exact mean
        assert variance == pytest.approx(1 / (1 - eps**2 / 4), rel=1e-6)
        assert (centre - mean).abs().max() < 1e-3
