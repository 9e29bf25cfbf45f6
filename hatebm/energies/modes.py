"""Running a user's modules in a mode, and leaving them as they were found."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hatebm.energies.held import held

MODES = ("eval", "train", "keep")


def bare(function: Callable | None) -> Callable | None:
    """The module inside a DistributedDataParallel, whose own forward would prepare for gradients of parameters."""
    return function.module if isinstance(function, nn.parallel.DistributedDataParallel) else function


@contextmanager
def in_mode(parts: Sequence[nn.Module], mode: str) -> Iterator[None]:
    """Run in train or eval mode, or "keep" each part's own, and put every flag back as it was, whatever happens.

    Parameters are left alone: a gradient in the state asks for none of theirs. Threads that run one module in one mode
    share it; a thread that wants another mode waits for them.

    Raises:
        RuntimeError: parameters made under torch.inference_mode(), which no gradient can pass.
    """
    traced = torch.compiler.is_compiling()
    parameters = () if traced else (p for part in parts for p in part._parameters.values() if p is not None)
    if any(not is_lazy(p) and p.is_inference() for p in parameters):
        raise RuntimeError(
            "langevin: the energy's parameters were made under torch.inference_mode(), so no gradient can pass them; "
            "build the model outside it, or under torch.no_grad()"
        )
    moded = [part for part in parts if hasattr(part, "training")]  # frozen TorchScript has one mode alone
    places = [(part, "training") for part in moded] if mode != "keep" else []
    with _traced(parts, mode) if traced else held(places, mode == "train"), torch.inference_mode(False):
        yield


@contextmanager
def _traced(parts: Sequence[nn.Module], mode: str) -> Iterator[None]:
    """The same where torch.compile traces the caller."""
    before = [part.training for part in parts]
    try:
        for part in parts if mode != "keep" else ():
            part.training = mode == "train"
        yield
    finally:
        for part, flag in zip(parts, before, strict=True):
            part.training = flag
