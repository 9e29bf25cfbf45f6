"""SN-GAN, the generator that refinement starts from, and discriminator-driven latent sampling on it.

Source: Miyato, Kataoka, Koyama and Yoshida, "Spectral normalization for generative adversarial networks" (2018); Che et
al., "Your GAN is secretly an energy-based model and you should use discriminator driven latent sampling" (2020). The
numbers are those of the public library mimicry, whose SN-GAN the Hat EBM paper refines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.data import Images, batch_indices, to_pixels
from hatebm.dynamics.law import Dynamics
from hatebm.learning.config import Config
from hatebm.learning.learner import ImageChain, Learner, Part, adam, drawn_by
from hatebm.nets import Discriminator, ResidualGenerator
from hatebm.ops.noise import Purpose, normal
from hatebm.sampling.chain import Chain


@dataclass(frozen=True, kw_only=True)
class SNGANConfig(Config):
    """The numbers of an SN-GAN and of latent sampling on it. Pixels lie in [-1, 1]."""

    FRACTIONS = Config.FRACTIONS | {"beta1", "beta2", "lr_hold"}

    iterations: int = 100_000
    batch: int = 64
    average: float = 0.0
    latent_dim: int = 128
    generator_widths: tuple[int, ...] = (256, 256, 256, 256)
    output_scale: float = 1.0
    discriminator_widths: tuple[int, ...] = (128, 128, 128, 128)
    discriminator_pools: int = 2
    discriminator_updates: int = 5  # for each update of the generator
    generator_lr: float = 2e-4
    discriminator_lr: float = 2e-4
    lr_hold: float = 0.0  # share of the training after which the rates fall, linearly to 0
    beta1: float = 0.0
    beta2: float = 0.9
    calibration_lr: float = 1e-2

    ddls_eps: float = 0.1
    ddls_steps: int = 100


def held_then_linear(iteration: int, config: SNGANConfig) -> float:
    """Factor on the learning rates: 1 up to `lr_hold`, then down to 0 at the last iteration."""
    return min(1.0, (1 - iteration / config.iterations) / (1 - config.lr_hold))


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


class SNGAN(Learner):
    """G and D of an SN-GAN under the hinge loss, and the calibration of D by logistic regression beside them."""

    METHOD: ClassVar = "ddls"
    CURVES: ClassVar = {"discriminator_loss": "discriminator loss", "generator_loss": "generator loss"}

    config: SNGANConfig

    @classmethod
    def create(cls, config: SNGANConfig, device: torch.device | str = "cpu") -> "SNGAN":
        """Fresh networks and optimisers, determined by `config.seed`; the global random state is left alone."""
        with drawn_by(config.seed):
            generator = ResidualGenerator(
                config.size, config.channels, config.latent_dim, config.generator_widths, config.output_scale, "batch"
            )
            discriminator = Discriminator(
                config.size, config.channels, config.discriminator_widths, config.discriminator_pools
            )
            calibration = Calibration()

        def part(network: nn.Module, lr: float, average: float = 0.0) -> Part:
            optimizer = adam(network.to(device), lr, config.beta1, config.beta2)
            return Part(network, optimizer, lambda t: lr * held_then_linear(t, config), average)

        parts = {
            "generator": part(generator, config.generator_lr, config.average),
            "discriminator": part(discriminator, config.discriminator_lr),
            "calibration": part(calibration, config.calibration_lr),
        }
        return cls(config, parts)

    @property
    def generator(self) -> nn.Module:
        return self.parts["generator"].evaluated

    def iterate(self, images: Images) -> dict[str, float]:
        """One iteration: several updates of D, each on fresh images, one of its calibration, then one of G.

        1. D descends E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))).
        2. a and b descend the cross-entropy of a D + b between x and G(z).
        3. G descends -E D(G(z)).
        """
        config, t = self.config, self.iteration
        generator, discriminator = self.parts["generator"], self.parts["discriminator"]
        for part in self.parts.values():
            part.network.train()
        for update in range(t * config.discriminator_updates, (t + 1) * config.discriminator_updates):
            index = batch_indices(len(images.train), config.batch, seed=config.seed, iteration=update)
            with torch.no_grad():
                fake = generator.network(self._latents(update))
            scores = discriminator.network(torch.cat((to_pixels(images.train[index].to(self.device)), fake)))
            real, fake = scores.split(config.batch)
            discriminator_loss = discriminator.descend(F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        log_odds = self.parts["calibration"].network(scores.detach())
        truth = torch.cat((torch.ones_like(real), torch.zeros_like(fake)))
        calibration_loss = self.parts["calibration"].descend(F.binary_cross_entropy_with_logits(log_odds, truth))
        discriminator.network.requires_grad_(False)
        generator_loss = generator.descend(-discriminator.network(generator.network(self._latents(t, 1))).mean())
        discriminator.network.requires_grad_(True)
        return {
            "discriminator_loss": discriminator_loss,
            "generator_loss": generator_loss,
            "calibration_loss": calibration_loss,
        }

    def chain(self, chain_ids: Sequence[int], *, seed: int) -> ImageChain:
        """Latent chains of DDLS: exp(-|z|^2 / 2 + a D(G(z)) + b), from N(0, I)."""
        config, shape = self.config, (len(chain_ids), self.config.latent_dim)
        place = {"seed": seed, "step": 0, "chain_ids": chain_ids, "purpose": Purpose.INITIAL_STATE}
        z = normal(shape, **place, device=self.device)
        energy = LatentEnergy(
            self.generator, self.parts["discriminator"].evaluated, self.parts["calibration"].evaluated
        )
        law = Dynamics(eps=config.ddls_eps, prior_precision=1.0)
        return ImageChain(Chain(energy, z, law, seed=seed, chain_ids=chain_ids), torch.no_grad()(self.generator))

    def stages(self) -> dict[str, int]:
        return {"G(z) alone": 0, f"DDLS, {self.config.ddls_steps} steps": self.config.ddls_steps}

    def _latents(self, step: int, block: int = 0) -> Tensor:
        config = self.config
        shape, purpose = (config.batch, config.latent_dim), Purpose.INITIAL_STATE
        return normal(shape, seed=config.seed, step=step, block=block, purpose=purpose, device=self.device)
