"""Hat EBM: the energy H(G(z) + y) of a generated image and its residual.

Source: Hill, Nijkamp, Mitchell, Pang and Zhu, "Hat EBM", NeurIPS 2022, arXiv 2210.16486, and its official code.
"""

from hatebm.systems.hat.config import HatConfig, JointConfig, SynthesisConfig
from hatebm.systems.hat.joint import Joint
from hatebm.systems.hat.synthesis import Synthesis

__all__ = ["HatConfig", "Joint", "JointConfig", "Synthesis", "SynthesisConfig"]
