"""Leaving a user's modules as they were found."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

MODES = ("eval", "train", "keep")


def bare(function: Callable | None) -> Callable | None:
    """The module inside a DistributedDataParallel, whose own forward would prepare for gradients of parameters."""
    return function.module if isinstance(function, nn.parallel.DistributedDataParallel) else function


def modules_of(*functions: Callable | None) -> list[nn.Module]:
    """The modules behind callables: a module, a method of one, or a partial of either."""
    found = []
    for function in functions:
        while isinstance(function, functools.partial):
            function = function.func
        owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
        if isinstance(owner, nn.Module):
            found.append(owner)
    return found


@contextmanager
def frozen(modules: list[nn.Module], mode: str) -> Iterator[Callable[[], None]]:
    """Freeze the parameters and set train or eval mode, and put every flag back as it was, whatever happens.

    Yields a function that thaws the parameters early.

    Raises:
        RuntimeError: parameters made under torch.inference_mode(), which no gradient can pass.
    """
    parts = [part for module in modules for part in module.modules()]
    traced = torch.compiler.is_compiling()  # a traced gradient never reaches the parameters
    held = [] if traced else [p for part in parts for p in part._parameters.values() if p is not None]
    parameters = [p for p in held if p.is_leaf]
    if any(p.is_inference() for p in parameters):
        raise RuntimeError(
            "langevin: the energy's parameters were made under torch.inference_mode(), so no gradient can pass them; "
            "build the model outside it, or under torch.no_grad()"
        )
    training = [part.training for part in parts]
    requires_grad = [p.requires_grad for p in parameters]

    def thaw() -> None:
        for p, flag in zip(parameters, requires_grad, strict=True):
            p.requires_grad_(flag)

    try:
        for part in parts if mode != "keep" else ():
            _set_training(part, mode == "train")
        for p in parameters:
            p.requires_grad_(False)
        with torch.inference_mode(False):
            yield thaw
    finally:
        for part, flag in zip(parts, training, strict=True):
            _set_training(part, flag)
        thaw()


def _set_training(part: nn.Module, flag: bool) -> None:
    if part.training is not flag:  # a module takes its time to set an attribute
        part.training = flag
