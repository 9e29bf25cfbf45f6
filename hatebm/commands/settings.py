"""From what a person typed to a configuration: `--set key=value` and the flags beside it."""

import ast
from collections.abc import Sequence
from dataclasses import fields

from hatebm.errors import UsageError
from hatebm.learning.config import Config

MOST = 1 << 40  # as many steps and chains as the noise can tell apart
WANTED = {bool: "True or False", int: "a whole number", float: "a number", tuple: "a tuple such as (32,64,64)"}


def parse_settings(pairs: Sequence[str], kind: type[Config]) -> dict:
    """Values of `key=value` words, each of the type that its key has in a configuration; raises UsageError."""
    return dict(_parse(pair, kind) for pair in pairs)


def _parse(pair: str, kind: type[Config]) -> tuple[str, object]:
    key, equals, text = pair.partition("=")
    if not equals:
        raise UsageError(f"--set: wanted key=value, got {pair!r}")
    defaults = {field.name: field.default for field in fields(kind)}
    if key not in defaults:
        raise UsageError(f"--set: unknown key {key!r}; known are {', '.join(defaults)}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval may raise
        value = text
    wanted = type(defaults[key])
    if wanted is tuple and isinstance(value, list):
        value = tuple(value)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise UsageError(f"--set: {key} wants {WANTED[wanted]}, got {text!r}")
    if key != "seed" and _largest(value) > MOST:
        raise UsageError(f"--set: {key} wants whole numbers of at most 2^40, got {text!r}")
    return key, value


def _largest(value: object) -> int:
    """The largest whole number in a value."""
    if isinstance(value, tuple):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int) else 0
