"""What the code of a callable names: variables, the attributes of what they hold, and so on.

Where code makes up names of attributes, every attribute may be meant. Nothing is followed into a module: see
:mod:`hatebm.energies.closure` for all that a callable can reach.
"""

import dis
import functools
import inspect
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from hatebm.energies.closure import CONTAINERS, is_followed, spaces

WHOLE = (types.FunctionType, types.MethodType, functools.partial, *CONTAINERS)  # of which every item may be meant

BY_WORD = frozenset({"getattr", "vars", "__dict__"})  # by which code takes an attribute of any name


class Named(NamedTuple):
    """The modules and the tensors that a callable names, each once, and what leads there, the callable first."""

    modules: list[nn.Module]
    tensors: list[Tensor]
    reach: list[Any]


def named_by(*things: Any) -> Named:
    """What the code of functions, methods, partials or objects that are called can name, and of classes with them."""
    found: dict[int, tuple[type, Any]] = {}
    reach, size = {id(thing): thing for thing in things}, 0
    while size != (size := len(reach)):
        for _thing, _, value in held_under_names(list(reach.values())):
            kind = next((kind for kind in (nn.Module, Tensor) if issubclass(type(value), kind)), None)
            if kind is not None:
                found[id(value)] = kind, value
            elif is_followed(value):
                reach[id(value)] = value
    by_kind = ([value for kind, value in found.values() if kind is wanted] for wanted in (nn.Module, Tensor))
    return Named(*by_kind, list(reach.values()))


def held_under_names(things: Iterable[Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Each thing with the names and the values that it holds and that the code among the things names."""
    things = list(things)
    codes = [thing.__code__ for thing in things if type(thing) is types.FunctionType]
    names = {"class", "__call__"}.union(*map(names_in, codes))
    made_up = not names.isdisjoint(BY_WORD)
    for thing in things:
        whole = issubclass(type(thing), WHOLE)
        for space in spaces(thing):
            for name, value in list(space.items()):
                meant = whole or name in names or (made_up and not str(name).startswith("__"))
                if meant and not _is_no_variable(thing, name, value):
                    yield thing, name, value


@functools.lru_cache(256)
def names_used_by(kind: type) -> frozenset[str]:
    """The names that the forward of a class of modules names, and all functions and methods that it names."""
    names: set[str] = set()
    waiting, met = [kind.forward], set()
    while waiting:
        function = waiting.pop()
        if type(function) is not types.FunctionType or function in met:
            continue
        met.add(function)
        names |= names_in(function.__code__)
        waiting += named_by(function).reach
        members = [member for name in names if (member := inspect.getattr_static(kind, name, None)) is not None]
        waiting += [getattr(member, "fget", None) or getattr(member, "__func__", member) for member in members]
    return frozenset(names)


def _is_no_variable(thing: Any, name: Any, value: Any) -> bool:
    """Whether a function has a global of this name but means an attribute by it."""
    is_function = type(thing) is types.FunctionType
    return is_function and name in _attributes_in(thing.__code__) and thing.__globals__.get(name) is value


@functools.lru_cache(1024)
def names_in(code: types.CodeType) -> frozenset[str]:
    """The names that code names, and the words in it, by which it may name."""
    inner = [value for value in code.co_consts if isinstance(value, types.CodeType)]
    return frozenset(code.co_names).union((v for v in code.co_consts if type(v) is str), *map(names_in, inner))


@functools.lru_cache(1024)
def _attributes_in(code: types.CodeType) -> frozenset[str]:
    """The names that code has as attributes alone."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for here in (code, *(value for value in code.co_consts if isinstance(value, types.CodeType))):
        for step in dis.get_instructions(here):
            found["ATTR" in step.opname or "METHOD" in step.opname].add(str(step.argval))
    return frozenset(found[True] - found[False])
