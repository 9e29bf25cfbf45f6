"""The keyword arguments of an energy: inputs of its prepared form, and constants that the form is made for."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.engine.prepare.signatures import OPAQUE, Refused, plain


class Arguments(NamedTuple):
    """Tensors and numbers are taken anew at each call; all else is as it was."""

    inputs: dict[str, Tensor | float]
    constants: dict[str, Any]

    def key(self) -> Any:
        """What a prepared form depends on."""
        return kinds_of(self.inputs | self.constants)


def arguments_of(kwargs: dict[str, Any]) -> Arguments:
    """The keyword arguments by what becomes of them.

    Raises:
        Refused: one that is neither a tensor, a number nor a constant.
    """
    inputs = {name: value for name, value in kwargs.items() if isinstance(value, Tensor) or type(value) is float}
    constants = {name: value for name, value in kwargs.items() if name not in inputs}
    for name, value in constants.items():
        if plain(value) is OPAQUE:
            raise Refused(f"its argument {name!r}, of type {type(value).__name__}, may change unseen")
    return Arguments(inputs, constants)


def of_chains(kwargs: dict[str, Any], here: slice, n: int) -> dict[str, Any]:
    """The arguments of some of n chains: the rows of tensors that have one for each."""
    return {name: value[here] if _has_rows(value, n) else value for name, value in kwargs.items()}


def like(kwargs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments with floating-point tensors in another type."""
    floats = {name for name, value in kwargs.items() if isinstance(value, Tensor) and value.is_floating_point()}
    return {name: value.detach().to(dtype) if name in floats else value for name, value in kwargs.items()}


def kinds_of(kwargs: dict[str, Any]) -> tuple:
    """What a prepared form of an energy depends on, of its keyword arguments."""
    return tuple((name, _kind(value)) for name, value in kwargs.items())


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if type(value) is tuple:  # one for each expert
        return tuple(map(_kind, value))
    return float if type(value) is float else plain(value)


def _has_rows(value: Any, n: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == n
