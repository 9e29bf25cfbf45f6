"""The numbers of the autoencoder."""

from dataclasses import dataclass

from hatebm.learning.config import Config, Drops


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(Config):
    """The numbers of the autoencoder; the defaults are those of the official CIFAR-10 configuration."""

    MAY_BE_ZERO = Config.MAY_BE_ZERO | {"code_noise"}

    iterations: int = 49_900
    code_side: int = 16  # a code is a picture of one channel, on the sphere of radius sqrt(code_side^2)
    encoder_widths: tuple[int, ...] = (256, 256, 256, 256)
    decoder_widths: tuple[int, ...] = (256, 256, 256, 256)
    output_scale: float = 2.0
    code_noise: float = 2e-2
    lr: float = 1e-4
    lr_drops: Drops = ()
    loss_weight: float = 1000.0
