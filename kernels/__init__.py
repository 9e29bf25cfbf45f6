"""The ops as Triton kernels: twins of :mod:`hatebm.ops.reference`, with the same bits."""

from hatebm.kernels.langevin import langevin_step_
from hatebm.kernels.metropolis import metropolis
from hatebm.kernels.noise import normal, philox
from hatebm.kernels.perceptron import perceptron_chains_, perceptron_fits, perceptron_look
from hatebm.kernels.ratio import langevin_ratio
from hatebm.kernels.residual import residual_add
from hatebm.kernels.whole import look, whole_chains_

__all__ = [
    "langevin_ratio",
    "langevin_step_",
    "look",
    "metropolis",
    "normal",
    "perceptron_chains_",
    "perceptron_fits",
    "perceptron_look",
    "philox",
    "residual_add",
    "whole_chains_",
]
