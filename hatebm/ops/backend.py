"""Which backends can run here, and which one a tensor takes."""

import functools
import importlib
from types import ModuleType
from typing import Any

import torch

from hatebm.ops import native, reference
from hatebm.ops.checks import require
from hatebm.ops.native.extension import unavailable

BACKENDS = ("reference", "cpu", "cuda", "triton")
CHOICE = f"one of {BACKENDS} or None"


def backends() -> dict[str, bool | str]:
    """Each backend with True, or the reason why it cannot run here."""
    return {"reference": True} | {name: unavailable(name) or True for name in BACKENDS[1:]}


def check_backend(op: str, backend: Any) -> None:
    """Raise unless a backend is named, or left to be chosen."""
    require(backend is None or isinstance(backend, str), op, "backend", CHOICE, backend, TypeError)
    require(backend is None or backend in BACKENDS, op, "backend", CHOICE, backend)


@functools.cache
def module_for(op: str, backend: str | None, device: torch.device, dtype: torch.dtype = torch.float32) -> ModuleType:
    chosen = backend or _fastest(device, dtype)
    require(chosen in BACKENDS, op, "backend", CHOICE, backend)
    if chosen == "reference":
        return reference
    require(dtype != torch.float64, op, "backend", "'reference' or None for a float64 state", backend)
    if reason := unavailable(chosen):
        raise RuntimeError(f"{op}: backend {chosen!r} cannot run here: {reason}")
    interpreted = chosen == "triton" and device.type == "cpu"
    fits = interpreted or (device.type == "cpu") == (chosen == "cpu")
    require(fits, op, "backend", f"one that runs on {device}", backend)
    return importlib.import_module("hatebm.kernels") if chosen == "triton" else native


def kernels_for(backend: str | None, device: torch.device, dtype: torch.dtype = torch.float32) -> ModuleType | None:
    """The compiled kernels that a tensor takes; None where a step alone has to do, or to say what is missing."""
    try:
        module = module_for("langevin_step_", backend, device, dtype)
    except (RuntimeError, ValueError):
        return None
    return None if module is reference else module


def _fastest(device: torch.device, dtype: torch.dtype) -> str:
    if dtype == torch.float64 or device.type not in ("cpu", "cuda"):
        return "reference"
    order = ("cpu",) if device.type == "cpu" else ("cuda", "triton")
    return next((name for name in order if not unavailable(name)), order[0])
