"""A callable as a module, so that it is followed like one: a function, a method, a partial, an object."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hatebm.energies.named import named_by
from hatebm.engine.prepare.signatures import Refused, signature, told
from hatebm.engine.prepare.twin import with_others


class Called(nn.Module):
    """A callable as a module: its parts are the modules that its code names; ``tensors`` are named by it too."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        modules, tensors, self.reach = named_by(function)
        self.training, self.function = False, function
        self.tensors = {  # under names that no keyword has
            f"tensor.{k}": tensor for k, tensor in enumerate(tensors)
        }
        for k, part in enumerate(modules):
            self.add_module(f"part{k}", part)

    def forward(self, /, *state: Tensor, **kwargs: Any) -> Any:
        """What the callable returns, with those of the tensors replaced that are given again by their names."""
        others = {id(self.tensors[name]): kwargs.pop(name) for name in self.tensors if name in kwargs}
        function = with_others(self.function, others) if others else self.function
        return function(*state, **kwargs)

    def told(self) -> tuple:
        """All that the callable names, as a key: but for what its parts are, and the values of tensors.

        Raises:
            Refused: where something that it names may change unseen.
        """
        places = {id(part): ("part", k) for k, part in enumerate(self._modules.values())}
        places |= {id(v): ("tensor", k, v.shape, v.dtype, v.device) for k, v in enumerate(self.tensors.values())}
        return told(self.reach, places)


def as_module(energy: Callable[..., Any]) -> nn.Module:
    """A module as it is, another callable as :class:`Called`."""
    return energy if isinstance(energy, nn.Module) else Called(energy)


def anchor_of(energy: nn.Module) -> nn.Module:
    """What outlives a callable that is made anew for each run: the first module that it names."""
    return next(iter(energy._modules.values()), energy) if type(energy) is Called else energy


def standing(energy: nn.Module) -> Any:
    """All that a prepared form of the energy is made from, to be compared with a later look; None if unknown."""
    try:
        found = signature(energy)
    except Refused:
        found = None
    tensors = energy.tensors.values() if type(energy) is Called else ()
    return found and (found, *(id(part) for part in energy.modules() if type(part) is not Called), *map(id, tensors))


def code_of(function: Callable[..., Any]) -> Any:
    """What is the same of a callable that is made anew for each run: its code, or its class."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__code__", None) or type(function)
