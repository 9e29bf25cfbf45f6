"""Energies with a formula: targets with known answers, whose chains run in one kernel."""

from hatebm.energies.gaussian import Gaussian, Mixture
from hatebm.energies.shapes import DoubleWell, Funnel

__all__ = ["DoubleWell", "Funnel", "Gaussian", "Mixture"]
