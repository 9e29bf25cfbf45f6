"""SN-GAN, the generator that refinement starts from, and discriminator-driven latent sampling on it.

Source: Miyato, Kataoka, Koyama and Yoshida, "Spectral normalization for generative adversarial networks" (2018); Che et
al., "Your GAN is secretly an energy-based model and you should use discriminator driven latent sampling" (2020). The
numbers are those of the public library mimicry, whose SN-GAN the Hat EBM paper refines.
"""

from hatebm.systems.sngan.adversarial import SNGAN, SNGANConfig

__all__ = ["SNGAN", "SNGANConfig"]
