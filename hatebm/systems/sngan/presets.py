"""Ready configurations of an SN-GAN: the published ones, and small ones for a CPU, found on digits by trial."""

from dataclasses import replace

from hatebm.learning.widths import halvings, narrowing, widening
from hatebm.systems.sngan.config import SNGANConfig

PUBLISHED = {
    "cifar10": SNGANConfig(),
    "celeba": SNGANConfig(  # G and D as wide as G and H of the official Hat EBM code
        size=64,
        generator_widths=(1024, 512, 256, 128, 64),
        discriminator_widths=(64, 128, 256, 512, 1024),
        discriminator_pools=5,
    ),
}

DIGITS = SNGANConfig(
    size=8,
    channels=1,
    iterations=1200,
    batch=32,
    average=0.99,
    latent_dim=32,
    generator_widths=(64, 32, 16),
    discriminator_widths=(24, 48),
    discriminator_updates=2,
    generator_lr=1e-3,
    discriminator_lr=1e-3,
    lr_hold=0.5,
    ddls_steps=10,  # with 30 and more the samples were worse than without
)


def small(size: int, channels: int) -> SNGANConfig:
    """SN-GAN at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    config = replace(DIGITS, size=size, channels=channels)
    if size == 8:
        return config
    pools = halvings(size)
    return replace(
        config,
        latent_dim=64,
        generator_widths=narrowing(pools),
        discriminator_widths=widening(pools),
        discriminator_pools=pools,
    )
