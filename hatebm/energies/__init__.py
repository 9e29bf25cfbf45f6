"""Energies whose chains run in one kernel: formulas, targets with known answers, and the multilayer perceptron."""

from hatebm.energies.gaussian import Gaussian, Mixture
from hatebm.energies.mlp import MLP
from hatebm.energies.shapes import DoubleWell, Funnel

__all__ = ["MLP", "DoubleWell", "Funnel", "Gaussian", "Mixture"]
