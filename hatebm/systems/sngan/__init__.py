"""SN-GAN, the generator that refinement starts from, and discriminator-driven latent sampling on it.

Source: Miyato, Kataoka, Koyama and Yoshida, "Spectral normalization for generative adversarial networks" (2018); Che et
al., "Your GAN is secretly an energy-based model and you should use discriminator driven latent sampling" (2020). The
numbers are those of the public library mimicry, whose SN-GAN the Hat EBM paper refines.
"""

from hatebm.learning.system import System
from hatebm.systems.sngan import presets
from hatebm.systems.sngan.adversarial import SNGAN
from hatebm.systems.sngan.config import SNGANConfig

__all__ = ["SNGAN", "SYSTEM", "SNGANConfig"]

SYSTEM = System(config=SNGANConfig, learner=SNGAN, preset=presets.small, published=presets.PUBLISHED)
