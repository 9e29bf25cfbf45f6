"""An SN-GAN small enough that a test can train it many times."""

from dataclasses import replace

import tiny
import torch
from torch import nn

from hatebm.systems.sngan import SNGAN, SNGANConfig

CONFIG = SNGANConfig(
    size=8,
    channels=1,
    iterations=6,
    batch=4,
    average=0.9,
    latent_dim=5,
    generator_widths=(6, 6, 4),
    discriminator_widths=(4, 6),
    discriminator_updates=2,
    generator_lr=1e-3,
    discriminator_lr=2e-3,
    beta1=0.5,
    ddls_steps=3,
)


def sngan(**settings) -> SNGAN:
    return SNGAN.create(replace(CONFIG, **settings))


def trained(iterations: int = 3, **settings) -> SNGAN:
    learner = sngan(**settings)
    for _ in range(iterations):
        learner.advance(tiny.images())
    return learner


def put(learner: SNGAN, name: str, network: nn.Module, lr: float) -> None:
    part = learner.parts[name]
    part.network, part.average = network, None
    part.optimizer, part.rate = torch.optim.SGD(network.parameters(), lr), lambda t: lr
