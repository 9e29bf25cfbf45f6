"""Adversarial learning: a generator and a spectrally normalised discriminator under the hinge loss.

Source: Miyato, Kataoka, Koyama and Yoshida, "Spectral normalization for generative adversarial networks" (2018).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.data import Images, batch_indices, to_pixels
from hatebm.dynamics.law import Dynamics
from hatebm.learning.learner import ImageChain, Learner, adam, drawn_by
from hatebm.learning.part import Part
from hatebm.learning.scores import scores_of
from hatebm.nets import Discriminator, ResidualGenerator
from hatebm.ops.noise import Purpose, normal
from hatebm.sampling.chain import Chain
from hatebm.systems.sngan.config import SNGANConfig, held_then_linear
from hatebm.systems.sngan.ddls import Calibration, LatentEnergy


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

    @torch.no_grad()
    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """The calibrated log odds a D + b of an image being real and not the generator's."""
        discriminator, calibration = self.parts["discriminator"].evaluated, self.parts["calibration"].evaluated
        by = {"a D(x) + b": lambda x: calibration(discriminator(x))}
        return scores_of(images, by, self.config, self.device)

    def stages(self) -> dict[str, int]:
        return {"G(z) alone": 0, f"DDLS, {self.config.ddls_steps} steps": self.config.ddls_steps}

    def _latents(self, step: int, block: int = 0) -> Tensor:
        config = self.config
        shape, purpose = (config.batch, config.latent_dim), Purpose.INITIAL_STATE
        return normal(shape, seed=config.seed, step=step, block=block, purpose=purpose, device=self.device)
