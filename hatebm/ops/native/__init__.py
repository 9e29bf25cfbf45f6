"""The compiled backends: the C++ loops for CPU tensors and the CUDA kernels for GPU tensors, in one module ``_C``."""

from hatebm.ops.native.chains import look, perceptron_chains_, perceptron_fits, perceptron_look, whole_chains_
from hatebm.ops.native.ops import langevin_ratio, langevin_step_, metropolis, normal, philox, ready_step, residual_add

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
    "ready_step",
    "residual_add",
    "whole_chains_",
]
