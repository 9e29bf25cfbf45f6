"""A module again, with other tensors: what is tried on it, nobody who holds the module sees."""

import types
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def twin(module: nn.Module, made: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a module and its parts whose parameters and buffers are ``made`` of the originals.

    Tied tensors and parts stay tied. Containers and methods of the parts that attributes hold lead to the twin; all
    else that they hold is shared.
    """
    parts = {id(part): object.__new__(type(part)) for part in module.modules()}
    named = [v for part in module.modules() for v in (*part._parameters.values(), *part._buffers.values())]
    tensors = {id(v): made(v) for v in named if v is not None}
    met: dict[int, Any] = {}

    def mapped(value: Any) -> Any:
        if id(value) in parts:
            return parts[id(value)]
        if id(value) in tensors:
            return tensors[id(value)]
        kind = type(value)
        if kind in (list, set) or issubclass(kind, dict):
            return met[id(value)] if id(value) in met else filled(value)
        if kind is tuple:
            return tuple(map(mapped, value))
        if kind is types.MethodType and id(value.__self__) in parts:
            return types.MethodType(value.__func__, parts[id(value.__self__)])
        return value

    def filled(value: Any) -> Any:
        new = met[id(value)] = value.copy()  # before its items, which may lead back to it
        if isinstance(value, dict):
            for key in value:
                dict.__setitem__(new, key, mapped(value[key]))
        else:
            new.clear()
            (new.extend if isinstance(value, list) else new.update)(map(mapped, value))
        return new

    for part in module.modules():
        vars(parts[id(part)]).update((name, mapped(value)) for name, value in vars(part).items())
    return parts[id(module)]
