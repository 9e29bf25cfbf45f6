"""Hat EBM: the energy H(G(z) + y) of a generated image and its residual.

Source: Hill, Nijkamp, Mitchell, Pang and Zhu, "Hat EBM", NeurIPS 2022, arXiv 2210.16486, and its official code.
"""

from hatebm.learning.system import System
from hatebm.systems.hat import presets
from hatebm.systems.hat.config import HatConfig, JointConfig, SynthesisConfig
from hatebm.systems.hat.joint import Joint
from hatebm.systems.hat.symptoms import SYMPTOMS
from hatebm.systems.hat.synthesis import Synthesis

__all__ = ["REFINE", "RETROFIT", "SYNTHESIS", "HatConfig", "Joint", "JointConfig", "Synthesis", "SynthesisConfig"]

SYNTHESIS = System(
    config=SynthesisConfig,
    learner=Synthesis,
    preset=presets.small_synthesis,
    published=presets.PUBLISHED_SYNTHESIS,
    symptoms=SYMPTOMS,
)
REFINE = System(
    config=JointConfig,
    learner=Joint,
    preset=presets.small_refine,
    published=presets.PUBLISHED_REFINE,
    symptoms=SYMPTOMS,
    generator="sngan",
)
RETROFIT = System(
    config=JointConfig,
    learner=Joint,
    preset=presets.small_retrofit,
    published=presets.PUBLISHED_RETROFIT,
    symptoms=SYMPTOMS,
    generator="autoencoder",
)
