"""A deterministic autoencoder on a sphere of codes: the non-probabilistic generator that a Hat EBM can retrofit.

Source: Hill et al., "Hat EBM" (2022), arXiv 2210.16486, retrofit experiment, and its official code.
"""

from hatebm.systems.autoencoder.reconstruction import Autoencoder, AutoencoderConfig

__all__ = ["Autoencoder", "AutoencoderConfig"]
