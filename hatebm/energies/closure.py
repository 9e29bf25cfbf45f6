"""What a callable can reach beside its arguments: the modules among it, and whether a call wrote to it.

Followed are closures, defaults, the globals and the attributes of modules that code names, what partials and methods
hold, attributes of objects, classes, and containers. Not followed are names that code makes up (``getattr(x, name)``,
``globals()[name]``), weak references, what generators and C extensions hold, and what lies further away than DEEP such
steps or behind the first MANY things or LOOKED names. Nothing is asked for more than it holds.
"""

import functools
import itertools
import sys
import types
from argparse import Namespace
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

# Packages whose code computes from what it is given.
PURE = ("torch", "hatebm", "builtins", "math", "operator", "functools", "itertools", "typing", "collections")
FOREIGN = (*PURE, "numpy", "scipy", "einops", "triton", *sys.stdlib_module_names)  # packages that hold no user's module
LEAVES = (Tensor, int, float, complex, str, bytes, types.BuiltinFunctionType, types.ModuleType, type(None))
MAPPINGS = (dict, types.MappingProxyType)
CONTAINERS = (*MAPPINGS, list, tuple, set, frozenset, deque)
HOLDERS = (ChainMap, UserDict, UserList, Namespace, functools.partialmethod, functools.cached_property)  # by attributes
PLAIN = frozenset({*LEAVES, bool, nn.Parameter})  # most of what there is, told at once
BORN = frozenset(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}  # what every module holds
FEW = 64  # items of a container whose every change is noticed
MANY = 4096  # items of a container, and things in all, that are followed
LOOKED = 16 * MANY  # names and items that are looked at for such
DEEP = 8  # from a function to what it names, from an object to what it holds
Snapshot = list[tuple[str, tuple]]
Space = dict[Any, Any]


def modules_of(*functions: Any) -> list[nn.Module]:
    """Every module that the functions, or containers of them, can reach, parts and all, each once.

    Where torch.compile traces the caller, which cannot look into a function, those given bare, as a method or a
    partial.
    """
    if torch.compiler.is_compiling():
        roots = [owner for owner in map(owner_of, functions) if owner is not None]
    else:
        roots = [root for function in functions if function is not None for root in _roots_in(function)]
    return list(dict.fromkeys(part for root in roots for part in nn.Module.modules(root)))


def _roots_in(function: Any) -> list[nn.Module]:
    """The modules that a thing can reach, but for the parts of others among them."""
    if issubclass(type(function), nn.Module):
        parts = list(nn.Module.modules(function))
        if not any(map(_attributes, parts)):  # PyTorch's own alone, which look nowhere else
            return [function]
    return [thing for thing in _reached(function) if issubclass(type(thing), nn.Module)]


def tensors_of(*functions: Any) -> list[Tensor]:
    """The tensors that callables can reach, but for those that their modules have registered."""
    held = (value for function in functions for thing in _reached(function) for value in _held(thing))
    return [value for value in held if isinstance(value, Tensor)]


def snapshot(function: Callable[..., Any]) -> Snapshot:
    """Each name that ``function`` can reach with what stands there: objects, sizes of containers, tensors' versions."""
    items = (
        item
        for thing in _reached(function)
        for space in (*spaces(thing), *_registered(thing))
        for item in space.items()
    )
    return [(name, _marks(value)) for name, value in items]


def first_difference(before: Snapshot, after: Snapshot) -> str | None:
    """The first name at which two snapshots differ, None where they are one."""
    for (_, old), (name, new) in zip(before, after, strict=False):
        if len(old) != len(new) or not all(map(_same, old, new)):
            return str(name)
    return None if len(before) == len(after) else "a name that was not there"


def is_from(thing: Any, rooms: tuple[str, ...]) -> bool:
    """Whether a module, a class or a function belongs to one of these packages."""
    name = _attribute(thing, "__name__" if issubclass(type(thing), types.ModuleType) else "__module__", None)
    return str(name).split(".")[0] in rooms


def owner_of(function: Callable[..., Any] | None) -> nn.Module | None:
    """The module that a callable is, or whose method it is, or a partial of either."""
    while isinstance(function, functools.partial):
        function = function.func
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _reached(root: Any) -> Iterator[Any]:
    """The root and all that it reaches, the nearest first."""
    met, parts, looked, waiting = {id(root)}, set(), itertools.count(), deque([(root, DEEP)])
    while waiting:
        thing, deep = waiting.popleft()
        yield thing
        if issubclass(type(thing), nn.Module):
            parts.update(map(id, nn.Module.modules(thing)))
        for value in _held(thing) if deep and len(met) < MANY else ():
            if next(looked) > LOOKED:
                break
            if type(value) in PLAIN or id(value) in met or id(value) in parts:
                continue
            if is_followed(value):
                met.add(id(value))
                waiting.append((value, deep - 1))


def _held(thing: Any) -> Iterator[Any]:
    return (value for space in spaces(thing) for value in list(space.values()))


def is_followed(value: Any) -> bool:
    """Told by its type: an object may stand for another, or raise when it is asked for anything."""
    kind = type(value)
    if base := _container(kind):
        return base.__len__(value) <= MANY and (base.__len__(value) > 0 or not is_from(kind, FOREIGN))
    if issubclass(kind, LEAVES):
        return False
    if issubclass(kind, nn.Module | functools.partial | types.MethodType) or kind in HOLDERS:
        return True
    return not is_from(value, FOREIGN) or bool(kind is types.FunctionType and value.__closure__)


def _container(kind: type) -> type | None:
    """What kind of container a type is, None where it is none."""
    if kind in CONTAINERS or not issubclass(kind, CONTAINERS):
        return kind if kind in CONTAINERS else None
    return next(base for base in CONTAINERS if issubclass(kind, base))


def _items(thing: Any, base: type) -> Space:
    """What a container holds, whatever its class makes of a look into it."""
    return dict(base.items(thing) if base in MAPPINGS else enumerate(base.__iter__(thing)))


def _attribute(thing: Any, name: str, default: Any) -> Any:
    """An attribute as it stands, without what a class does when it is asked."""
    try:
        return object.__getattribute__(thing, name)
    except AttributeError:
        return default


def spaces(thing: Any) -> list[Space]:
    """What a thing holds, by name, in one or several spaces."""
    kind = type(thing)
    if base := _container(kind):
        return [_items(thing, base), *([] if kind is base else _attributes(thing))]
    if issubclass(kind, functools.partial):
        return [{"func": thing.func}, dict(enumerate(thing.args)), thing.keywords]
    if kind is types.MethodType:
        return [{"self": thing.__self__, "function": thing.__func__}]
    if kind is types.FunctionType:
        defaults = [dict(enumerate(thing.__defaults__ or ())), thing.__kwdefaults__ or {}]
        return [_closure(thing), *defaults, vars(thing), _named(thing.__code__, thing.__globals__)]
    if issubclass(kind, type):
        bases = [base for base in _attribute(thing, "__mro__", ()) if not is_from(base, FOREIGN)]
        return [{name: _function_of(value) for name, value in vars(base).items()} for base in bases]
    parts = nn.Module.modules(thing) if issubclass(kind, nn.Module) else [thing]
    return [space for part in parts for space in _attributes(part)]


def _attributes(thing: Any) -> list[Space]:
    """What an object holds, and its class."""
    kind, own = type(thing), _attribute(thing, "__dict__", {})
    if issubclass(kind, nn.Module):
        listened = own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own
        if kind.__module__.startswith("torch.") and not listened:
            return []
        own = {name: own[name] for name in own if name not in BORN}
        if is_from(kind, FOREIGN):
            return [own]
    slotted = [vars(base) for base in kind.__mro__ if "__slots__" in vars(base)]
    slots = [slot for names in slotted for slot in names.values() if type(slot) is types.MemberDescriptorType]
    return [own, {slot.__name__: _content(slot, thing) for slot in slots}, {"class": kind}]


def _content(slot: types.MemberDescriptorType, thing: Any) -> Any:
    try:
        return slot.__get__(thing)
    except AttributeError:
        return None


def _function_of(value: Any) -> Any:
    """The function behind a name of a class."""
    kind = type(value)
    if issubclass(kind, property):
        return value.fget
    return value.__func__ if issubclass(kind, staticmethod | classmethod) else value


def _registered(thing: Any) -> list[Space]:
    """Attributes, parameters and buffers of every part of a module."""
    parts = nn.Module.modules(thing) if issubclass(type(thing), nn.Module) else ()
    return [space for part in parts for space in (vars(part), part._parameters, part._buffers)]


def _closure(function: types.FunctionType) -> Space:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def _named(code: types.CodeType, space: Space) -> Space:
    """The globals that code names, and what it may name of the modules among them."""
    found = {name: space[name] for name in code.co_names if name in space}
    here = (*code.co_names, *(f"{space.get('__package__')}.{name}" for name in code.co_names))  # imports in the code
    imported = [sys.modules[name] for name in here if name in sys.modules and name not in space]
    named = [value for value in (*found.values(), *imported) if isinstance(value, types.ModuleType)]
    for module in named:  # and so on, those that a package holds
        inside = {} if is_from(module, FOREIGN) else {n: vars(module)[n] for n in code.co_names if n in vars(module)}
        named += [v for v in inside.values() if isinstance(v, types.ModuleType) and not any(v is old for old in named)]
        found |= inside
    for inner in code.co_consts:
        found |= _named(inner, space) if isinstance(inner, types.CodeType) else {}
    return found


def _marks(value: Any) -> tuple:
    """The object itself, held so that no other can take its place, and what a write to it would change."""
    if base := _container(type(value)):
        size = base.__len__(value)
        items = _items(value, base) if size <= FEW else {}
        return (value, size, *items.keys(), *items.values())
    if issubclass(type(value), Tensor) and not value.is_inference():
        return (value, value._version)
    return (value,)


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, int | float | str) and one == other)
