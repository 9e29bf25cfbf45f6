"""What a config.json holds, as this version writes it and as every version before it did."""

import json
from dataclasses import fields
from pathlib import Path

from hatebm.data.fingerprint import Fingerprint
from hatebm.errors import UsageError
from hatebm.learning.config import Config
from hatebm.systems.catalogue import SYSTEMS

FORMAT = 2  # version 0.1.0 wrote no format, which is 0
SINCE = {
    "fingerprint": (1, None),
    "precision": (2, None),
}  # key ("config.KEY" for a number) -> format it came with, how it was done before
KINDS = {
    "system": (str, "a word"),
    "data": (str, "a word"),
    "data_root": (str, "a word"),
    "train_images": (int, "a whole number"),
    "config": (dict, "an object"),
    "versions": (dict, "an object"),
    "fingerprint": (dict | None, "an object"),
    "precision": (str | None, "a word"),
}


def read(path: Path) -> dict:
    """The values of a config.json, its configuration a Config, filled up where it is older than a key.

    Raises UsageError, naming the key, where something is missing, unknown or of another kind, and for the format of a
    later version; FileNotFoundError where there is no such file.
    """
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not the configuration of a run: {error}") from error


def config_from_json(kind: type[Config], values: dict, format: int = FORMAT) -> Config:
    """The configuration in a config.json of a format, lists turned back into tuples.

    Raises ValueError for unknown keys, and for missing ones that are not younger than the format.
    """
    known = [field.name for field in fields(kind)]
    values = _filled(values, known, format, "config.")
    return kind(**{key: _tuples(value) for key, value in values.items()})


def _checked(values: object) -> dict:
    if not isinstance(values, dict):
        raise ValueError("it holds no object")
    format = values.get("format", 0)
    if type(format) is not int or format < 0:
        raise ValueError(f"format must be a whole number, got {format!r}")
    if format > FORMAT:
        raise ValueError(f"it has format {format} of a later version of hatebm, this one reads up to {FORMAT}")
    values = _filled({key: value for key, value in values.items() if key != "format"}, KINDS, format)
    for key, (kind, words) in KINDS.items():
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise ValueError(f"{key} must be {words}, got {values[key]!r}")
    if values["system"] not in SYSTEMS:
        raise ValueError(f"system must be one of {', '.join(SYSTEMS)}, got {values['system']}")
    config = config_from_json(SYSTEMS[values["system"]].config, values["config"], format)
    fingerprint = values["fingerprint"] and Fingerprint.from_json(values["fingerprint"])
    return {**values, "config": config, "fingerprint": fingerprint}


def _filled(values: dict, known, format: int, prefix: str = "") -> dict:
    """The values with what their format did where a key is younger; ValueError for other missing or unknown keys."""
    unknown = values.keys() - set(known)
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    younger = {key: SINCE[prefix + key][1] for key in known if SINCE.get(prefix + key, (0,))[0] > format}
    missing = [key for key in known if key not in values and key not in younger]
    if missing:
        raise ValueError(f"it has no {prefix + missing[0]!r}")
    return younger | values


def _tuples(value):
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
