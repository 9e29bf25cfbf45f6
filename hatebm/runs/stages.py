"""From a run folder to what learns in it, also where it stands on a generator from a stage before.

The generator of a run lies in its folder `generator`: a run of its own (trained there or copied from elsewhere), or one
that came as a file or by import path.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from hatebm.learning.learner import Learner
from hatebm.runs import files, generators
from hatebm.runs.folder import GENERATOR, Run
from hatebm.runs.restoring import restore
from hatebm.systems.catalogue import SYSTEMS


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
    return generators.load(folder)


def taken_over(source: str) -> tuple[nn.Module, Callable[[Path], None]]:
    """A generator from elsewhere, and what puts a copy of it into a folder.

    source: folder of a run (of one in two stages the generator of the first is meant), a file of weights, or
    `package.module:attribute`.
    Raises UsageError when it is none of these.
    """
    given = Path(source)
    if not (given / "config.json").is_file():
        return generators.taken_over(source)
    given = given / GENERATOR if (given / GENERATOR).is_dir() else given
    return generator_in(given), lambda folder: _copy(given, folder)


def _copy(given: Path, folder: Path) -> None:
    """Copy the generator that lies in a folder; a run without what it needs to go on, for it is over."""
    if not (given / "config.json").exists():
        generators.copy(given, folder)
        return
    folder.mkdir()
    run = Run.open(given)
    newest = run.last_checkpoint()
    copy = replace(run, folder=folder, config=replace(run.config, iterations=int(newest.stem)))
    copy.checkpoints.mkdir()
    files.copy(newest, copy.checkpoints / newest.name)
    copy.write_config()
