"""Fused, reproducible Langevin dynamics for energy-based models."""

from hatebm import ops
from hatebm.backend import backends
from hatebm.ops import Purpose, normal, philox

__all__ = ["Purpose", "backends", "normal", "ops", "philox"]
