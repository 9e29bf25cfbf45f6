"""A deterministic autoencoder on a sphere of codes: the non-probabilistic generator that a Hat EBM can retrofit.

Source: Hill et al., "Hat EBM" (2022), arXiv 2210.16486, retrofit experiment, and its official code.
"""

from hatebm.learning.system import System
from hatebm.systems.autoencoder import presets
from hatebm.systems.autoencoder.config import AutoencoderConfig
from hatebm.systems.autoencoder.reconstruction import Autoencoder

__all__ = ["SYSTEM", "Autoencoder", "AutoencoderConfig"]

SYSTEM = System(config=AutoencoderConfig, learner=Autoencoder, preset=presets.small, published=presets.PUBLISHED)
