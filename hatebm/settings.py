"""From what a person typed to a configuration: `--set key=value` and the flags beside it."""

import ast
from collections.abc import Sequence
from dataclasses import fields

from hatebm.errors import UsageError
from hatebm.systems.hat import HatConfig

WANTED = {int: "a whole number", float: "a number", tuple: "a tuple such as (32,64,64)"}


def parse_settings(pairs: Sequence[str]) -> dict:
    """Values of `key=value` words, each of the type that its key has in HatConfig; raises UsageError."""
    return dict(_parse(pair) for pair in pairs)


def _parse(pair: str) -> tuple[str, object]:
    key, equals, text = pair.partition("=")
    if not equals:
        raise UsageError(f"--set: wanted key=value, got {pair!r}")
    defaults = {field.name: field.default for field in fields(HatConfig)}
    if key not in defaults:
        raise UsageError(f"--set: unknown key {key!r}; known are {', '.join(defaults)}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    kind = type(defaults[key])
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"--set: {key} wants {WANTED[kind]}, got {text!r}")
    return key, value
