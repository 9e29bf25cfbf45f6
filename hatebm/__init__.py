"""Fused, reproducible Langevin dynamics for energy-based models."""

from hatebm.terminal import answer_ctrl_c

answer_ctrl_c()  # to import torch, as all below does, takes seconds

from hatebm import diagnostics, energies, ops
from hatebm.dynamics.health import ChainDiverged
from hatebm.dynamics.law import Dynamics
from hatebm.energies.composition import mixture, negate, product
from hatebm.energies.hat import HatEnergy
from hatebm.ops.backend import backends
from hatebm.ops.law_tensors import per_chain
from hatebm.ops.noise import Purpose, normal, philox
from hatebm.sampling.ais import ais
from hatebm.sampling.chain import Chain
from hatebm.sampling.hmc import hmc
from hatebm.sampling.langevin import langevin
from hatebm.sampling.replay import ReplayBuffer
from hatebm.sampling.tempering import tempering

__all__ = [
    "Chain",
    "ChainDiverged",
    "Dynamics",
    "HatEnergy",
    "Purpose",
    "ReplayBuffer",
    "ais",
    "backends",
    "diagnostics",
    "energies",
    "hmc",
    "langevin",
    "mixture",
    "negate",
    "normal",
    "ops",
    "per_chain",
    "philox",
    "product",
    "tempering",
]
