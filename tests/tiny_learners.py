"""A learner of every system, so small that it learns in milliseconds."""

from dataclasses import replace

import tiny

from hatebm.systems.autoencoder import Autoencoder, AutoencoderConfig
from hatebm.systems.hat import Joint, Synthesis
from hatebm.systems.igebm import IGEBM, IGEBMConfig
from hatebm.systems.sngan import SNGAN, SNGANConfig

SMALL = {"size": 8, "channels": 1, "batch": 4, "iterations": 8, "average": 0.9}


def igebm(**more) -> IGEBM:
    return IGEBM.create(
        IGEBMConfig(
            **SMALL | more,
            network="conv",
            energy_widths=(4, 4),
            hidden=4,
            activation="swish",
            dropout=False,
            langevin_steps=2,
            sample_steps=4,
            buffer_size=10,
            reinit=0.3,
            lr=1e-2,
        )
    )


SYSTEMS = {
    "synthesis": lambda **more: Synthesis.create(replace(tiny.CONFIG, energy_beta1=0.5, **more)),
    "joint": lambda **more: Joint.create(replace(tiny.JOINT, energy_beta1=0.5, **more), tiny.generator()),
    "sngan": lambda **more: SNGAN.create(
        SNGANConfig(
            **SMALL | more,
            latent_dim=5,
            generator_widths=(4, 4),
            discriminator_widths=(4, 4),
            discriminator_updates=2,
            ddls_steps=3,
        )
    ),
    "autoencoder": lambda **more: Autoencoder.create(
        AutoencoderConfig(**SMALL | more, code_side=4, encoder_widths=(4, 4), decoder_widths=(4, 4))
    ),
    "igebm": igebm,
    "conditional": lambda **more: igebm(classes=3, **more),
}
