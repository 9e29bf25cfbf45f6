"""Hat EBM synthesis: an energy H and a generator G learn together, images are x = G(z) + y.

Source: Hill, Nijkamp, Mitchell, Pang and Zhu, "Hat EBM", NeurIPS 2022, arXiv 2210.16486, and its official code. The
model is `p(y, z) = p0(z) exp(-H(G(z) + y) / T) / Z`; z is drawn once from p0 = N(0, I) and stays, Langevin dynamics
moves y.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.data import Images
from hatebm.dynamics.law import Dynamics
from hatebm.learning.config import dropped
from hatebm.learning.learner import ImageChain, Learner, adam, drawn_by
from hatebm.learning.part import Part
from hatebm.nets import ResidualGenerator
from hatebm.ops.noise import Purpose, normal, uniform
from hatebm.sampling.chain import Chain
from hatebm.systems.hat.config import SynthesisConfig
from hatebm.systems.hat.scores import hat_scores
from hatebm.systems.hat.update import energy_part, noisy_batch, signs_of_health, update_energy


class Synthesis(Learner):
    """H and G of a cooperative Hat EBM, and the bank of past pairs (z, x-) from which G learns.

    The bank's z: (bank_size, latent_dim); its x: (bank_size, channels, size, size).
    """

    BEST: ClassVar = (2, 3)
    CURVES: ClassVar = {
        "energy_gap": "energy gap / T",
        "generator_loss": "generator loss",
        "displacement": "displacement per step (L2)",
    }

    config: SynthesisConfig

    @classmethod
    def create(cls, config: SynthesisConfig, device: torch.device | str = "cpu") -> "Synthesis":
        """Fresh networks, optimisers and bank, determined by `config.seed`; the global random state is left alone."""
        with drawn_by(config.seed):
            energy = energy_part(config, device)
            generator = ResidualGenerator(
                config.size, config.channels, config.latent_dim, config.generator_widths, config.output_scale
            )
        generator.to(device, memory_format=torch.channels_last)
        parts = {
            "energy": energy,
            "generator": Part(
                generator,
                adam(generator, config.generator_lr),
                lambda t: dropped(config.generator_lr, config.generator_lr_drops, t),
                config.average,
            ),
        }
        return cls(config, parts, bank(config, generator))

    @property
    def energy(self) -> nn.Module:
        return self.parts["energy"].evaluated

    @property
    def generator(self) -> nn.Module:
        return self.parts["generator"].evaluated

    def iterate(self, images: Images) -> dict[str, float]:
        """One iteration of cooperative learning.

        1. z ~ N(0, I), y0 = 0; K Langevin steps give x- = G(z) + y. So do a few chains that begin at coarse noise.
        2. H descends (mean H(x+) - mean H(x-)) / T, x+ noisy data.
        3. G descends the squared error to the OLD content of `batch` random slots of the bank.
        4. The slots take the new pairs (z, x-).
        """
        config, t = self.config, self.iteration
        energy, generator = self.parts["energy"], self.parts["generator"]

        shape, purpose = (config.batch, config.latent_dim), Purpose.INITIAL_STATE
        z = normal(shape, seed=config.seed, step=t, purpose=purpose, device=self.device)
        first_step = t * config.langevin_steps
        chain = residual_chain(
            energy.network,
            generator.network,
            z,
            config.dynamics,
            seed=config.seed,
            first_step=first_step,
            others=coarse_noise(config, t, self.device),
        )
        generated = chain.state[: config.batch]
        ended, info = chain.run(config.langevin_steps, return_info=True)
        learned = update_energy(energy, noisy_batch(images, config, t, self.device), ended, config.temperature)
        sampled = ended[: config.batch]

        slots = bank_slots(config, t).to(self.device)
        loss = update_generator(
            generator, self.memory["bank.z"][slots], self.memory["bank.x"][slots], config.generator_weight
        )
        self.memory["bank.z"][slots], self.memory["bank.x"][slots] = z, sampled
        return {
            **learned,
            "generator_loss": loss,
            "displacement": info["displacement"].mean().item(),
            **signs_of_health(sampled, generated),
        }

    def chain(self, chain_ids: Sequence[int], *, seed: int) -> ImageChain:
        config, shape = self.config, (len(chain_ids), self.config.latent_dim)
        place = {"seed": seed, "step": 0, "chain_ids": chain_ids, "purpose": Purpose.INITIAL_STATE}
        z = normal(shape, **place, device=self.device)
        start = config.sample_residual
        chain = residual_chain(
            self.energy, self.generator, z, config.dynamics, seed=seed, chain_ids=chain_ids, residual=start
        )
        return ImageChain(chain, lambda x: x)

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        return hat_scores(self.energy, images, self.config, self.device)

    def stages(self) -> dict[str, int]:
        k, more = self.config.langevin_steps, self.config.sample_steps
        return {"G(z) alone": 0, f"{k} Langevin steps": k, f"{more} Langevin steps": more}


def residual_chain(
    energy: nn.Module,
    generator: nn.Module,
    z: Tensor,  # (n, latent_dim), stays
    dynamics: Dynamics,
    *,
    seed: int,
    first_step: int = 0,
    chain_ids: Sequence[int] | None = None,
    residual: float = 0.0,  # y0 = residual * N(0, I)
    others: Tensor | None = None,  # images where further chains begin
) -> Chain:
    """The Langevin chain of y given z, as a chain of images that starts at G(z) + y0.

    With z frozen and no prior on y the gradients in y and in x = G(z) + y are the same, so the y-chain
    `y' = y - eps^2/2 dH(G(z) + y)/dy / T + eps xi` is the x-chain `x' = x - eps^2/2 dH(x)/dx / T + eps xi`, and G is
    called once.
    """
    with torch.no_grad():
        x = generator(z)
    if residual:
        place = {"seed": seed, "step": 0, "block": 1, "chain_ids": chain_ids, "purpose": Purpose.INITIAL_STATE}
        x = x + residual * normal(x.shape, **place, device=x.device)
    x = x if others is None else torch.cat((x, others))
    return Chain(energy, x, dynamics, seed=seed, first_step=first_step, chain_ids=chain_ids)


def coarse_noise(config: SynthesisConfig, iteration: int, device: torch.device) -> Tensor:
    """Smooth random images of growing fineness, from one grey on: (wide_chains, channels, size, size) in [-1, 1].

    Uniform noise of side 1, 2, 4 or 8 in turn, over chains and iterations, enlarged.
    """
    place = {"seed": config.seed, "step": iteration, "block": 2, "purpose": Purpose.INITIAL_STATE}
    noise = 2 * uniform((config.wide_chains, config.channels, 8, 8), **place, device=device) - 1
    starts = noise.new_empty(config.wide_chains, config.channels, config.size, config.size)
    for i, fine in enumerate(noise):
        side = 2 ** ((iteration * config.wide_chains + i) % 4)
        starts[i] = F.interpolate(fine[None, :, :side, :side], size=config.size, mode="bilinear")[0]
    return starts


@torch.no_grad()
def bank(config: SynthesisConfig, generator: nn.Module) -> dict[str, Tensor]:
    """Latents from N(0, I) with the images that the untrained generator makes of them."""
    device = next(generator.parameters()).device
    shape = (config.bank_size, config.latent_dim)
    z = normal(shape, seed=config.seed, step=0, purpose=Purpose.BANK, device=device)
    return {"bank.z": z, "bank.x": torch.cat([generator(part) for part in z.split(config.batch)])}


def bank_slots(config: SynthesisConfig, iteration: int) -> Tensor:
    """`batch` distinct slots of the bank, drawn uniformly for that iteration: (batch,) int64."""
    noise = normal((config.bank_size, 1), seed=config.seed, step=iteration + 1, purpose=Purpose.BANK, device="cpu")
    return noise.flatten().argsort(stable=True)[: config.batch]


def update_generator(generator: Part, z: Tensor, x: Tensor, weight: float) -> float:
    """One Adam step of G down `weight * mean (G(z) - x)^2`; H has no part in it; returns that loss."""
    return generator.descend(weight * F.mse_loss(generator.network(z), x))
