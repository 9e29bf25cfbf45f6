"""The ops as Triton kernels: twins of :mod:`hatebm.reference`, with the same bits."""

from hatebm.kernels.langevin import langevin_step_
from hatebm.kernels.noise import normal, philox
from hatebm.kernels.residual import residual_add

__all__ = ["langevin_step_", "normal", "philox", "residual_add"]
