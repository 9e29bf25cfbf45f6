"""From a run folder to what learns in it, also where it stands on a generator from a stage before.

The generator of a run lies in its folder `generator`: a run of its own (trained there or copied from elsewhere), or
`generator.json` with `weights.safetensors` for one that came as a file or by import path.
"""

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from hatebm.errors import UsageError
from hatebm.learning.learner import Learner
from hatebm.nets.imported import generator_from, load_generator
from hatebm.runs import checkpoints, files
from hatebm.runs.folder import GENERATOR, Run
from hatebm.runs.restoring import restore
from hatebm.systems.catalogue import SYSTEMS

WEIGHTS = "weights.safetensors"
ABOUT = "generator.json"
KINDS = {"file": str, "output_scale": float, "module": str}


def fresh(run: Run, device: torch.device | str = "cpu") -> Learner:
    """What learns in a run, before its first iteration."""
    system = SYSTEMS[run.system]
    if system.generator is None:
        return system.learner.create(run.config, device)
    return system.learner.create(run.config, generator_in(run.folder / GENERATOR), device)


def load(run: Run, device: torch.device | str = "cpu") -> Learner:
    """What learns in a run, as its newest checkpoint has it."""
    return restore(run, fresh(run, device))


def first_stage(run: Run) -> Run | None:
    """The run that trained this run's generator; None where it has none, or one that came without a run."""
    return Run.open(run.folder / GENERATOR) if (run.folder / GENERATOR / "config.json").exists() else None


def generator_in(folder: Path) -> nn.Module:
    """The generator that lies in a folder, of whichever kind."""
    if (folder / "config.json").exists():
        return load(Run.open(folder)).generator
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


def taken_over(source: str) -> tuple[nn.Module, Callable[[Path], None]]:
    """A generator from elsewhere, and what puts a copy of it into a folder.

    source: folder of a run (of one in two stages the generator of the first is meant), a file of weights, or
    `package.module:attribute`.
    Raises UsageError when it is none of these.
    """
    given = Path(source)
    if (given / "config.json").is_file():
        given = given / GENERATOR if (given / GENERATOR).is_dir() else given
        return generator_in(given), lambda folder: _copy(given, folder)
    if given.is_file():
        generator = load_generator(given)
        about = {"file": source, "output_scale": generator.output_scale}
    elif _is_import_path(source):
        generator, about = imported(source), {"module": source}
    else:
        wanted = "the folder of a run, a file of weights or package.module:attribute"
        raise UsageError(f"--generator: wanted {wanted}, got {source!r}")
    return generator, lambda folder: _write(generator, about, folder)


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


def _is_import_path(source: str) -> bool:
    module, colon, attribute = source.partition(":")
    return bool(colon) and attribute.isidentifier() and all(map(str.isidentifier, module.split(".")))


def _copy(given: Path, folder: Path) -> None:
    """Copy the generator that lies in a folder; a run without what it needs to go on, for it is over."""
    folder.mkdir()
    if not (given / "config.json").exists():
        for name in (WEIGHTS, ABOUT):
            files.copy(given / name, folder / name)
        return
    run = Run.open(given)
    newest = run.last_checkpoint()
    copy = replace(run, folder=folder, config=replace(run.config, iterations=int(newest.stem)))
    copy.checkpoints.mkdir()
    files.copy(newest, copy.checkpoints / newest.name)
    copy.write_config()


def _write(generator: nn.Module, about: dict, folder: Path) -> None:
    folder.mkdir()
    own = {name: tensor.clone() for name, tensor in generator.state_dict().items()}  # tied weights share theirs
    checkpoints.write(folder / WEIGHTS, own, {})
    files.write_text(folder / ABOUT, json.dumps(about) + "\n")
