"""The keyword arguments of an energy as a graph reads them: tensors at fixed addresses, all else as it is."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.engine.prepare.signatures import OPAQUE, plain

Structure = tuple[tuple[str, Any], ...]
CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def structure_of(kwargs: dict[str, Any], device: torch.device) -> Structure:
    """What a graph depends on of keyword arguments: shapes and types of tensors, and constants by value."""
    return tuple((name, _kind(value, device)) for name, value in kwargs.items())


def unreadable(kwargs: dict[str, Any], device: torch.device, changes: bool) -> str | None:
    """Why no graph can read keyword arguments; those that change from step to step have to be tensors or constants."""
    for name, value in kwargs.items():
        what = f"the energy's argument {name} is a {type(value).__name__}"
        if _holds_tensors(value):
            return f"{what} of tensors"
        if changes and _kind(value, device) is OPAQUE:
            return f"{what}{' of another device' if isinstance(value, Tensor) else ''}, and may change at each step"
    return None


def is_known(structure: Structure) -> bool:
    """Whether a graph depends on nothing but what the structure tells."""
    return all(kind is not OPAQUE for _, kind in structure)


class Arguments:
    """Keyword arguments whose tensors stay where they are."""

    def __init__(self, kwargs: dict[str, Any], device: torch.device) -> None:
        self.structure, self.device = structure_of(kwargs, device), device
        self.kwargs = {name: v.detach().clone() if _is_input(v, device) else v for name, v in kwargs.items()}

    def load(self, kwargs: dict[str, Any]) -> bool:
        """Take over the values of others; False where they are of another structure."""
        if structure_of(kwargs, self.device) != self.structure:
            return False
        for name, own in self.kwargs.items():
            if _is_input(own, self.device):
                own.copy_(kwargs[name].detach())
        return True


def _is_input(value: Any, device: torch.device) -> bool:
    dense = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided
    return dense and value.device == device


def _kind(value: Any, device: torch.device) -> Any:
    if _is_input(value, device):
        return tuple(value.shape), value.dtype
    return plain(value) if _is_constant(value) else OPAQUE


def _is_constant(value: Any) -> bool:
    return all(map(_is_constant, value)) if type(value) in (tuple, list) else isinstance(value, CONSTANTS)


def _holds_tensors(value: Any) -> bool:
    values = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(values, list | tuple | set | frozenset):
        return False
    return any(isinstance(entry, Tensor) or _holds_tensors(entry) for entry in values)
