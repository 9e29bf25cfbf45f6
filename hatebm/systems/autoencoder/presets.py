"""Ready configurations of an autoencoder: the published one, and small ones for a CPU, found on digits by trial."""

from dataclasses import replace

from hatebm.learning.widths import halvings
from hatebm.systems.autoencoder.config import AutoencoderConfig

PUBLISHED = {"cifar10": AutoencoderConfig()}

# Noise of 0.3 on the codes spreads them over the sphere: with the paper's 0.02 random codes decode to nothing.
DIGITS = AutoencoderConfig(
    size=8,
    channels=1,
    iterations=800,
    batch=64,
    average=0.0,
    code_side=4,
    encoder_widths=(16, 32, 32),
    decoder_widths=(64, 32),
    code_noise=0.3,
    lr=2e-3,
    lr_drops=((480, 0.3), (640, 0.1)),
)


def small(size: int, channels: int) -> AutoencoderConfig:
    """Autoencoder with codes of half the side of the images, 8 to 128 pixels in steps of 8."""
    if size != 8:
        halvings(size)
    return replace(DIGITS, size=size, channels=channels, code_side=size // 2)
