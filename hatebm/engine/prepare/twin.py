"""A module again, with other tensors: what is tried on it, nobody who holds the module sees."""

import functools
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hatebm.energies.closure import FOREIGN, is_from
from hatebm.energies.named import named_by


def twin(module: nn.Module, made: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a module and its parts whose parameters and buffers are ``made`` of the originals.

    Tied tensors and parts stay tied. Containers and methods of the parts that attributes hold lead to the twin, and so
    does what a part says that its functions ``reach``; all else that they hold is shared.
    """
    parts = {id(part): object.__new__(type(part)) for part in module.modules()}
    named = [v for part in module.modules() for v in (*part._parameters.values(), *part._buffers.values())]
    followed = {id(thing) for part in module.modules() for thing in vars(part).get("reach", ())}
    twins = _Twins(parts, {id(v): made(v) for v in named if v is not None}, followed)
    for part in module.modules():
        own = vars(part).items()
        vars(parts[id(part)]).update((name, twins.of(value)) for name, value in own if name != "reach")
    return parts[id(module)]


def with_others(function: Callable[..., Any], others: dict[int, Any]) -> Callable[..., Any]:
    """A callable with other things in place of those, by their ids, that its code names."""
    return _Twins({}, others, set(map(id, named_by(function).reach))).of(function)


def is_plain(kind: type) -> bool:
    """Whether all that an object of this type holds lies in its attributes."""
    made_plainly = kind.__new__ in (object.__new__, types.SimpleNamespace.__new__) and not issubclass(kind, type)
    return made_plainly and bool(kind.__dictoffset__) and not any("__slots__" in vars(base) for base in kind.__mro__)


class _Twins:
    """What stands for each thing in a twin."""

    def __init__(self, parts: dict[int, nn.Module], tensors: dict[int, Any], followed: set[int]) -> None:
        self.parts, self.tensors, self.followed = parts, tensors, followed
        self.met: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        """What stands for a value."""
        for known in (self.parts, self.tensors, self.met):
            if id(value) in known:
                return known[id(value)]
        kind = type(value)
        if kind in (list, set, deque) or issubclass(kind, dict):
            return self._filled(value)
        if kind is tuple:
            return tuple(map(self.of, value))
        if kind is types.MethodType:
            return types.MethodType(self.of(value.__func__), self.of(value.__self__))
        if id(value) not in self.followed:
            return value
        if issubclass(kind, functools.partial):
            return functools.partial(self.of(value.func), *map(self.of, value.args), **self._filled(value.keywords))
        if kind is types.FunctionType:
            return self._rebound(value)
        return self._object(value) if is_plain(kind) else value

    def _filled(self, value: Any) -> Any:
        new = self.met[id(value)] = value.copy()  # before its items, which may lead back to it
        if isinstance(value, dict):
            for key in value:
                dict.__setitem__(new, key, self.of(value[key]))
        else:
            new.clear()
            (new.update if isinstance(value, set) else new.extend)(map(self.of, value))
        return new

    def _object(self, value: Any) -> Any:
        new = self.met[id(value)] = type(value).__new__(type(value))
        vars(new).update((name, self.of(held)) for name, held in vars(value).items())
        return new

    def _rebound(self, function: types.FunctionType) -> types.FunctionType:
        """The function with the globals, the closure and the defaults of the twin."""
        foreign = is_from(function, FOREIGN)
        space = function.__globals__ if foreign else self._space(function.__globals__)
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        new = types.FunctionType(function.__code__, space, function.__name__, None, cells or None)
        self.met[id(function)] = new
        new.__defaults__, new.__kwdefaults__ = self.of(function.__defaults__), self.of(function.__kwdefaults__)
        vars(new).update((name, self.of(value)) for name, value in vars(function).items())
        for cell, own in zip(cells, function.__closure__ or (), strict=True):
            if own != types.CellType():
                cell.cell_contents = self.of(own.cell_contents)
        return new

    def _space(self, names: dict[str, Any]) -> dict[str, Any]:
        """The globals of a module, with the twins of what is followed among them."""
        if id(names) in self.met:
            return self.met[id(names)]
        new = self.met[id(names)] = dict(names)
        for name, value in names.items():
            known = id(value) in self.parts or id(value) in self.tensors or id(value) in self.followed
            new[name] = self.of(value) if known else value
        return new
