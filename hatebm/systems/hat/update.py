"""How the hat network learns, the same in every Hat EBM, and what the chains' end is worth watching for."""

import torch
from torch import Tensor

from hatebm.data import Images, batch_indices, to_pixels
from hatebm.learning.config import dropped
from hatebm.learning.learner import adam
from hatebm.learning.part import Part
from hatebm.nets import ResidualEnergy
from hatebm.ops.noise import Purpose, normal
from hatebm.systems.hat.config import HatConfig


def energy_part(config: HatConfig, device: torch.device | str) -> Part:
    """A fresh H and how it learns; its weights come from torch's generator as it stands."""
    energy = ResidualEnergy(config.size, config.channels, config.energy_widths, config.energy_pools)
    energy.to(device, memory_format=torch.channels_last)  # a fifth faster on the CPU, the same to rounding
    return Part(
        energy,
        adam(energy, config.energy_lr, config.energy_beta1),
        lambda t: dropped(config.energy_lr, config.energy_lr_drops, t),
        config.average,
        config.max_grad_norm,
    )


def noisy_batch(images: Images, config: HatConfig, iteration: int, device) -> Tensor:
    """The training images of an iteration, with data noise: x+ = x + data_noise * N(0, I)."""
    index = batch_indices(len(images.train), config.batch, seed=config.seed, iteration=iteration)
    data = to_pixels(images.train[index].to(device))
    noise = normal(data.shape, seed=config.seed, step=iteration, purpose=Purpose.DATA_NOISE, device=device)
    return data + config.data_noise * noise


def update_energy(energy: Part, data: Tensor, sampled: Tensor, temperature: float) -> dict[str, float]:
    """One Adam step of H down `(mean H(data) - mean H(sampled)) / T`, the likelihood's gradient.

    Returns that gap and its standard error over the two batches. Only sums x = G(z) + y enter H, so data need no
    latents. Source: Hat EBM (2022), equations 6 and 9.
    """
    energies = energy.network(torch.cat((data, sampled))) / temperature
    real, drawn = energies[: len(data)], energies[len(data) :]
    spread = (real.detach().var() / len(real) + drawn.detach().var() / len(drawn)).sqrt()
    return {"energy_gap": energy.descend(real.mean() - drawn.mean()), "gap_error": spread.item()}


def signs_of_health(sampled: Tensor, generated: Tensor) -> dict[str, float]:
    """How far samples lie from G(z), RMS per pixel, and how far beyond [-1, 1], the mean over all pixels."""
    return {
        "residual": (sampled - generated).square().mean().sqrt().item(),
        "overshoot": (sampled.abs() - 1).clamp_min(0).mean().item(),
    }
