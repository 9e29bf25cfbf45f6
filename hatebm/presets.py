"""Ready configurations. A number without a source was found by trial, on scikit-learn's digits and two CPU cores."""

from dataclasses import replace

from hatebm.errors import UsageError
from hatebm.systems.hat import HatConfig

# Small networks, a tenth of the paper's bank and five of its Langevin steps in one: eps^2 / (2 T) = 2.
# H learns without momentum (beta1 = 0): after 600 iterations the classifier's Frechet distance was 16, and 28 with 0.9.
HAT_SYNTHESIS_DIGITS = HatConfig(
    size=8,
    channels=1,
    energy_widths=(32, 64),
    energy_pools=2,
    latent_dim=32,
    generator_widths=(64, 64, 32),
    langevin_steps=10,
    eps=2e-3,
    temperature=1e-6,
    max_displacement=1.0,
    iterations=800,
    batch=64,
    bank_size=640,
    data_noise=0.02,
    energy_lr=2e-3,
    energy_beta1=0.0,
    generator_lr=2e-3,
    lr_drops=((480, 0.5), (640, 0.25), (720, 0.12)),
)


def hat_synthesis(size: int, channels: int) -> HatConfig:
    """Hat EBM synthesis at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    if size == 8:
        return replace(HAT_SYNTHESIS_DIGITS, channels=channels)
    if not (8 < size <= 128 and size % 8 == 0):
        raise UsageError(f"--size: wanted a multiple of 8 from 8 to 128, got {size}")
    pools = _halvings(size, smallest=4)
    return HatConfig(
        size=size,
        channels=channels,
        energy_widths=(16, 32, 64, 64, 64, 64)[: pools + 1],
        energy_pools=pools,
        latent_dim=64,
        generator_widths=(16, 16, 32, 64, 64, 64)[pools::-1],
        langevin_steps=20,
        eps=2e-3,
        temperature=1e-6,
        iterations=2000,
        batch=32,
        bank_size=640,
        data_noise=0.02,
        energy_lr=1e-3,
        energy_beta1=0.0,
        generator_lr=1e-3,
        lr_drops=((1200, 0.3), (1600, 0.1)),
    )


def _halvings(size: int, smallest: int) -> int:
    return 0 if size % 2 or size // 2 < smallest else 1 + _halvings(size // 2, smallest)
