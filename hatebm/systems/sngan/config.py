"""The numbers of an SN-GAN; the defaults are those of the published CIFAR-10 configuration."""

from dataclasses import dataclass

from hatebm.learning.config import Config


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
