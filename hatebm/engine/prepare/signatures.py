"""What a trace depends on beside the tensors, as keys that compare by value."""

import enum
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.energies.closure import FOREIGN, is_from
from hatebm.energies.named import held_under_names, named_by, names_used_by
from hatebm.engine.prepare.twin import is_plain

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "forward")
BORN = frozenset(vars(nn.Module()))
REGISTERED = {"_parameters", "_buffers", "_modules", "training"}
OPAQUE = object()
STANDING = (types.ModuleType, type, types.BuiltinFunctionType, types.MethodDescriptorType)
CONSTANTS = (bool, int, float, str, type(None), torch.dtype, torch.device, type)
HELD = (tuple, list, set, frozenset, dict)


class Refused(Exception):  # noqa: N818 (no error: a reason)
    """Why a network is left alone."""


def signature(module: nn.Module) -> Any:
    """What a trace depends on beside the tensors; None where that cannot be told, and each run traces anew."""
    parts = []
    for name, part in module.named_modules(remove_duplicate=False):
        own = _attributes_of(part)
        if own is None:
            return None
        parts.append((name, type(part), part.training, own))
    try:
        return tuple(parts), tuple((kind, _outside(kind)) for kind in dict.fromkeys(kind for _, kind, *_ in parts))
    except Refused:
        return None


def _attributes_of(part: nn.Module) -> tuple | None:
    """The attributes of a part as a key, but for what modules hold when they are made."""
    held = vars(part)
    if "reach" in held:  # a callable
        return type(part).told(part)
    own = []
    for key, value in held.items():
        if key in REGISTERED or (key in BORN and not value):  # the truth of a tensor may be none
            continue
        found = bool(value) if key in HOOKS else plain(value)  # the trace calls such a part, whatever it does
        if found is not OPAQUE:
            own.append((key, found))
        elif key in names_used_by(type(part)):
            return None
    return tuple(own)


def _outside(kind: type) -> tuple:
    """What the forward of a class of modules names that no module holds: globals, attributes of classes, functions.

    Raises:
        Refused: where something of that may change unseen.
    """
    if is_from(kind, FOREIGN):
        return ()
    return _told_alone(kind.forward, kind)


def _told_alone(*things: Any) -> tuple:
    modules, tensors, reach = named_by(*things)
    if modules or tensors:
        raise Refused(f"it names what may change unseen, of type {type((modules + tensors)[0]).__name__}")
    return told(reach, {})


def told(reach: Sequence[Any], places: dict[int, tuple]) -> tuple:
    """All that the code among things names of them, as a key; ``places``, by id, are told as such.

    Raises:
        Refused: where something that is named may change unseen.
    """
    places = {id(thing): ("thing", k, _kind_of(thing)) for k, thing in enumerate(reach)} | places
    held = ((id(thing), name, value) for thing, name, value in held_under_names(reach))
    return tuple((places[thing][1:], name, _told(name, value, places)) for thing, name, value in held)


def _kind_of(thing: Any) -> Any:
    return thing.__code__ if type(thing) is types.FunctionType else type(thing)


def _told(name: Any, value: Any, places: dict[int, tuple]) -> Any:
    if id(value) in places:
        return places[id(value)]
    kind = type(value)
    if issubclass(kind, STANDING) or (kind is types.FunctionType and is_from(value, FOREIGN)):
        return "standing", value
    found = plain(value) if issubclass(kind, (*CONSTANTS, *HELD)) else OPAQUE
    if found is OPAQUE:
        raise Refused(f"what it names {name!r}, of type {kind.__name__}, may change unseen")
    return found


def plain(value: Any, within: tuple[Any, ...] = ()) -> Any:
    """A constant as a key that compares by value and type; OPAQUE where something else may change it.

    Told by its type, since a proxy answers for another or raises; ``within`` are the containers that hold it.
    """
    kind = type(value)
    if issubclass(kind, CONSTANTS):
        return (kind, value)
    if issubclass(kind, HELD):
        if any(value is outer for outer in within):
            return OPAQUE
        listed = [part for item in value.items() for part in item] if issubclass(kind, dict) else value
        items = tuple(plain(item, (*within, value)) for item in listed)
        return OPAQUE if OPAQUE in items else (kind, items)
    if issubclass(kind, enum.Enum):
        return (kind, value.name)
    if kind is types.FunctionType and not value.__closure__:
        return value.__code__ if is_from(value, FOREIGN) else _function(value)
    if kind is types.BuiltinFunctionType and not isinstance(value.__self__, Tensor | nn.Module):
        return value
    return _settings(value, within)


def _function(value: types.FunctionType) -> Any:
    try:
        return _told_alone(value)
    except Refused:
        return OPAQUE


def _settings(value: Any, within: tuple[Any, ...]) -> Any:
    """An object that holds constants, as settings are held."""
    if not is_plain(type(value)) or any(value is outer for outer in within):
        return OPAQUE
    found = plain(object.__getattribute__(value, "__dict__"), (*within, value))
    return OPAQUE if found is OPAQUE else (type(value), found)
