"""What several commands do with their options."""

import argparse
import importlib

import torch

from hatebm.errors import UsageError
from hatebm.runs.folder import Run


def device_of(options: argparse.Namespace) -> torch.device:
    """The device that was asked for, else a GPU where there is one; raises UsageError where torch cannot use it."""
    name = options.device
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        zero = torch.zeros(1, dtype=torch.float32, device=name)
        zero.cpu()  # which "meta" cannot
        return zero.device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(f"--device: cannot use {name!r}: {str(error).splitlines()[0].split('. ')[0]}") from None


def set_threads(threads: int | None, run: Run) -> None:
    """As asked; else one for the smallest images, whose layers are over before a second thread has joined in."""
    if threads is not None or run.config.size <= 8:
        torch.set_num_threads(threads or 1)


def need(*packages: str) -> None:
    """Fail before the work begins, not after it, where a package of the `train` extra is missing."""
    for package in packages:
        importlib.import_module(package)
