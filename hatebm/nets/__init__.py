"""Networks of the published systems, generic in image size, channels and widths."""

from hatebm.nets.energy import ResidualEnergy
from hatebm.nets.generator import ResidualGenerator

__all__ = ["ResidualEnergy", "ResidualGenerator"]
