"""A generator that came as a file of weights or by import path, and the folder where a run keeps it.

The folder holds `weights.safetensors`, and in `generator.json` what makes a network of them.
"""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from hatebm.errors import UsageError
from hatebm.nets.imported import generator_from, load_generator
from hatebm.runs import checkpoints, files

WEIGHTS = "weights.safetensors"
ABOUT = "generator.json"
KINDS = {"file": str, "output_scale": float, "module": str}


def load(folder: Path) -> nn.Module:
    """The generator that a folder keeps; raises UsageError where it is not whole."""
    about = _about(folder / ABOUT)
    weights, _ = checkpoints.load(folder / WEIGHTS)
    if "module" not in about:
        return generator_from(weights, about.get("output_scale"))
    generator = imported(about["module"])
    try:
        generator.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"{about['module']} does not fit its weights in {folder}: {error}") from error
    return generator


def taken_over(source: str) -> tuple[nn.Module, Callable[[Path], None]]:
    """A generator from a file of weights or from `package.module:attribute`, and what puts it into a folder.

    Raises UsageError when it is neither.
    """
    given = Path(source)
    if given.is_file():
        generator = load_generator(given)
        about = {"file": source, "output_scale": generator.output_scale}
    elif _is_import_path(source):
        generator, about = imported(source), {"module": source}
    else:
        wanted = "the folder of a run, a file of weights or package.module:attribute"
        raise UsageError(f"--generator: wanted {wanted}, got {source!r}")
    return generator, lambda folder: _write(generator, about, folder)


def copy(given: Path, folder: Path) -> None:
    """Make a folder that keeps what another does."""
    folder.mkdir()
    for name in (WEIGHTS, ABOUT):
        files.copy(given / name, folder / name)


def imported(path: str) -> nn.Module:
    """The module at `package.module:attribute`, or what the function or class there returns without arguments."""
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        found = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # code of the user's, which may raise anything
        raise UsageError(f"--generator: cannot import {path}: {type(error).__name__}: {error}") from error
    if not isinstance(found, nn.Module):
        raise UsageError(f"--generator: {path} must be a torch.nn.Module or return one, got {type(found).__name__}")
    return found.eval()


def _about(path: Path) -> dict:
    """What generator.json says of a generator that came as a file or by import path."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path.parent} holds no generator: {error}") from None
    if not isinstance(about, dict) or about.keys() not in ({"module"}, {"file", "output_scale"}):
        raise UsageError(f"{path} must say the module or the file and output_scale of a generator, and no more")
    for key, value in about.items():
        if not isinstance(value, KINDS[key]):
            raise UsageError(f"{path}: {key} must be a {KINDS[key].__name__}, got {value!r}")
    return about


def _is_import_path(source: str) -> bool:
    module, colon, attribute = source.partition(":")
    return bool(colon) and attribute.isidentifier() and all(map(str.isidentifier, module.split(".")))


def _write(generator: nn.Module, about: dict, folder: Path) -> None:
    folder.mkdir()
    own = {name: tensor.clone() for name, tensor in generator.state_dict().items()}  # tied weights share theirs
    checkpoints.write(folder / WEIGHTS, own, {})
    files.write_text(folder / ABOUT, json.dumps(about) + "\n")
