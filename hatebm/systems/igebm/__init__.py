"""IGEBM: implicit generation with a replay buffer.

Source: Du and Mordatch, "Implicit generation and modeling with energy-based models" (2019), arXiv 1903.08689, and the
code published with it.
"""

from hatebm.learning.system import System
from hatebm.systems.igebm import presets
from hatebm.systems.igebm.config import IGEBMConfig
from hatebm.systems.igebm.learner import IGEBM
from hatebm.systems.igebm.symptoms import SYMPTOMS

__all__ = ["IGEBM", "SYSTEM", "IGEBMConfig"]

SYSTEM = System(config=IGEBMConfig, learner=IGEBM, preset=presets.small, published=presets.PUBLISHED, symptoms=SYMPTOMS)
