"""Networks of the published systems, generic in image size, channels and widths."""

from hatebm.nets.autoencoder import Decoder, Encoder
from hatebm.nets.discriminator import Discriminator
from hatebm.nets.energy import ResidualEnergy
from hatebm.nets.generator import ResidualGenerator
from hatebm.nets.igebm import SpectralConvNet, SpectralResNet
from hatebm.nets.imported import generator_from, load_generator

__all__ = [
    "Decoder",
    "Discriminator",
    "Encoder",
    "ResidualEnergy",
    "ResidualGenerator",
    "SpectralConvNet",
    "SpectralResNet",
    "generator_from",
    "load_generator",
]
