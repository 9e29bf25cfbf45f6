"""Discriminator-driven latent sampling: the energy of the latents of a GAN whose discriminator is calibrated.

Source: Che et al., "Your GAN is secretly an energy-based model and you should use discriminator driven latent
sampling" (2020), arXiv 2003.06060.
"""

import torch
from torch import Tensor, nn


class Calibration(nn.Module):
    """The log odds a D + b of an image being real, of the score D that a hinge loss leaves uncalibrated."""

    def __init__(self) -> None:
        super().__init__()
        here = torch.get_default_device()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float32, device=here))
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float32, device=here))

    def forward(self, scores: Tensor) -> Tensor:
        return self.scale * scores + self.shift


class LatentEnergy(nn.Module):
    """Minus the log odds of G(z): with the prior N(0, I) the energy of a latent, Che et al. 2020, equation 5."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, calibration: nn.Module) -> None:
        super().__init__()
        self.generator, self.discriminator, self.calibration = generator, discriminator, calibration

    def forward(self, z: Tensor) -> Tensor:
        return -self.calibration(self.discriminator(self.generator(z)))
