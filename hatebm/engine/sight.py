"""What a callable can see beside its arguments, and whether a call wrote to it.

A graph repeats the kernels of a call, not the Python around them: who counts calls, or keeps something from one to the
next, is left to Python.
"""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from hatebm.engine.reads import PURE, is_from

LEAVES = Tensor | type | types.ModuleType
FEW = 64  # items of a container that are looked at one by one
DEEP = 4  # from a function to what it names, from an object to what it holds
Sight = list[tuple[str, tuple]]


def seen(function: Callable[..., Any]) -> Sight:
    """Each name that ``function`` can reach with what stands there: objects, sizes of containers, tensors' versions."""
    return [(name, _marks(value)) for space in _spaces(function, set()) for name, value in space.items()]


def modules_seen(function: Callable[..., Any]) -> list[nn.Module]:
    """Every module that ``function`` can reach, its own parts first."""
    roots = [function, *(marks[0] for _, marks in seen(function))]
    parts = [part for root in roots if isinstance(root, nn.Module) for part in root.modules()]
    return list(dict.fromkeys(parts))


def written(before: Sight, after: Sight) -> str | None:
    """The first name at which two sights differ, None where they are one."""
    for (_, old), (name, new) in zip(before, after, strict=False):
        if len(old) != len(new) or not all(map(_same, old, new)):
            return str(name)
    return None if len(before) == len(after) else "a name that was not there"


def _spaces(function: Any, met: set[int], deep: int = DEEP) -> Iterator[dict[Any, Any]]:
    if id(function) in met or not deep:
        return
    met.add(id(function))
    spaces: list[dict[Any, Any]] = []
    if isinstance(function, functools.partial):
        spaces = [{"func": function.func}, dict(enumerate(function.args)), function.keywords]
    elif isinstance(function, types.MethodType):
        spaces = [{"self": function.__self__}]
    elif isinstance(function, types.FunctionType):
        spaces = [_closure(function), _globals(function.__code__, function.__globals__)]
    elif isinstance(function, nn.Module):
        spaces = [space for part in function.modules() for space in (vars(part), part._parameters, part._buffers)]
        met.update(map(id, function.modules()))
    elif hasattr(function, "__dict__"):
        spaces = [vars(function)]
    for space in spaces:
        yield space
        for value in list(space.values()):
            if isinstance(value, nn.Module) or not (isinstance(value, LEAVES) or is_from(value, PURE)):
                yield from _spaces(value, met, deep - 1)


def _closure(function: types.FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def _globals(code: types.CodeType, space: dict[str, Any]) -> dict[str, Any]:
    found = {name: space[name] for name in code.co_names if name in space}
    for inner in code.co_consts:
        found |= _globals(inner, space) if isinstance(inner, types.CodeType) else {}
    return found


def _marks(value: Any) -> tuple:
    """The object itself, held so that no other can take its place, and what a write to it would change."""
    if isinstance(value, dict | list | set | tuple):
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else [*value]
        return (value, len(value), *(items if len(value) <= FEW else ()))
    if isinstance(value, Tensor) and not value.is_inference():
        return (value, value._version)
    return (value,)


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, int | float | str) and one == other)
