"""What a callable can reach beside its arguments: the modules among it, and whether a call wrote to it.

Followed are closures, defaults, the globals and the attributes of modules that code names, what partials and methods
hold, attributes of objects, classes, and containers. Not followed are names that code makes up (``getattr(x, name)``,
``globals()[name]``), weak references, what generators and C extensions hold, and what lies further away than DEEP such
steps or behind the first MANY things.
"""

import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

# Packages whose code computes from what it is given.
PURE = ("torch", "hatebm", "builtins", "math", "operator", "functools", "itertools", "typing", "collections")
FOREIGN = (*PURE, "numpy", "scipy", "einops", "triton", *sys.stdlib_module_names)  # packages that hold no user's module
LEAVES = (Tensor, int, float, complex, str, bytes, types.BuiltinFunctionType, types.ModuleType, type(None))
CONTAINERS = (dict, list, tuple, set, frozenset, deque)
BORN = frozenset(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}  # what every module holds
FEW = 64  # items of a container whose every change is noticed
MANY = 4096  # items of a container, and things in all, that are followed
DEEP = 8  # from a function to what it names, from an object to what it holds
Sight = list[tuple[str, tuple]]
Space = dict[Any, Any]


def modules_of(*functions: Any) -> list[nn.Module]:
    """Every module that the functions, or containers of them, can reach, parts and all, each once.

    Where torch.compile traces the caller, which cannot look into a function, those given bare, as a method or a
    partial.
    """
    if torch.compiler.is_compiling():
        roots = [owner for owner in map(owner_of, functions) if owner is not None]
    else:
        things = (thing for function in functions if function is not None for thing, _ in _reached(function))
        roots = [thing for thing in things if isinstance(thing, nn.Module)]
    return list(dict.fromkeys(part for root in roots for part in root.modules()))


def seen(function: Callable[..., Any]) -> Sight:
    """Each name that ``function`` can reach with what stands there: objects, sizes of containers, tensors' versions."""
    spaces = (space for thing, spaces in _reached(function) for space in (*spaces, *_registered(thing)))
    return [(name, _marks(value)) for space in spaces for name, value in space.items()]


def written(before: Sight, after: Sight) -> str | None:
    """The first name at which two sights differ, None where they are one."""
    for (_, old), (name, new) in zip(before, after, strict=False):
        if len(old) != len(new) or not all(map(_same, old, new)):
            return str(name)
    return None if len(before) == len(after) else "a name that was not there"


def is_from(thing: Any, rooms: tuple[str, ...]) -> bool:
    """Whether a module, a class or a function belongs to one of these packages."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    return str(name).split(".")[0] in rooms


def owner_of(function: Callable[..., Any] | None) -> nn.Module | None:
    """The module that a callable is, or whose method it is, or a partial of either."""
    while isinstance(function, functools.partial):
        function = function.func
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _reached(root: Any) -> Iterator[tuple[Any, list[Space]]]:
    """The root and all that it reaches, the nearest first, each with the names that it holds."""
    met, waiting = {id(root)}, deque([(root, DEEP)])
    while waiting:
        thing, deep = waiting.popleft()
        spaces = _spaces(thing)
        yield thing, spaces
        if isinstance(thing, nn.Module):
            met.update(map(id, thing.modules()))
        for value in (value for space in spaces for value in list(space.values())) if deep else ():
            if id(value) not in met and len(met) < MANY and _is_followed(value):
                met.add(id(value))
                waiting.append((value, deep - 1))


def _is_followed(value: Any) -> bool:
    if isinstance(value, CONTAINERS):
        return 0 < len(value) <= MANY
    if isinstance(value, LEAVES):
        return False
    if isinstance(value, nn.Module | functools.partial | types.MethodType):
        return True
    return not is_from(value, FOREIGN) or bool(getattr(value, "__closure__", None))


def _spaces(thing: Any) -> list[Space]:
    if isinstance(thing, dict):
        return [thing]
    if isinstance(thing, CONTAINERS):
        return [dict(enumerate(thing))]
    if isinstance(thing, functools.partial):
        return [{"func": thing.func}, dict(enumerate(thing.args)), thing.keywords]
    if isinstance(thing, types.MethodType):
        return [{"self": thing.__self__, "function": thing.__func__}]
    if isinstance(thing, types.FunctionType):
        defaults = [dict(enumerate(thing.__defaults__ or ())), thing.__kwdefaults__ or {}]
        return [_closure(thing), *defaults, vars(thing), _named(thing.__code__, thing.__globals__)]
    if isinstance(thing, type):
        bases = [base for base in thing.__mro__ if not is_from(base, FOREIGN)]
        return [{name: _function_of(value) for name, value in vars(base).items()} for base in bases]
    parts = thing.modules() if isinstance(thing, nn.Module) else [thing]
    return [space for part in parts for space in _attributes(part)]


def _attributes(thing: Any) -> list[Space]:
    """What an object holds, and its class."""
    kind, own = type(thing), getattr(thing, "__dict__", {})
    if isinstance(thing, nn.Module):
        listened = own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own
        if kind.__module__.startswith("torch.") and not listened:
            return []
        own = {name: value for name, value in own.items() if name not in BORN}
    slots = [base.__dict__.get("__slots__", ()) for base in kind.__mro__ if not is_from(base, FOREIGN)]
    named = [name for names in slots for name in ([names] if isinstance(names, str) else names)]
    return [own, {name: getattr(thing, name, None) for name in named}, {"class": kind}]


def _function_of(value: Any) -> Any:
    """The function behind a name of a class."""
    return value.fget if isinstance(value, property) else getattr(value, "__func__", value)


def _registered(thing: Any) -> list[Space]:
    """Attributes, parameters and buffers of every part of a module."""
    parts = thing.modules() if isinstance(thing, nn.Module) else ()
    return [space for part in parts for space in (vars(part), part._parameters, part._buffers)]


def _closure(function: types.FunctionType) -> Space:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def _named(code: types.CodeType, space: Space) -> Space:
    """The globals that code names, and what it may name of the modules among them."""
    found = {name: space[name] for name in code.co_names if name in space}
    for value in list(found.values()):
        if isinstance(value, types.ModuleType) and not is_from(value, FOREIGN):
            found |= {name: vars(value)[name] for name in code.co_names if name in vars(value)}
    for inner in code.co_consts:
        found |= _named(inner, space) if isinstance(inner, types.CodeType) else {}
    return found


def _marks(value: Any) -> tuple:
    """The object itself, held so that no other can take its place, and what a write to it would change."""
    if isinstance(value, CONTAINERS):
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else [*value]
        return (value, len(value), *(items if len(value) <= FEW else ()))
    if isinstance(value, Tensor) and not value.is_inference():
        return (value, value._version)
    return (value,)


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, int | float | str) and one == other)
