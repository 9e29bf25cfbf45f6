"""`hatebm train`: start or resume a run, stage by stage, then evaluate it and draw its pictures."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from torch import nn

from hatebm import data, results, stages
from hatebm.catalogue import SYSTEMS
from hatebm.commands.options import device_of, need, set_threads
from hatebm.config import Config
from hatebm.errors import UsageError
from hatebm.learner import Learner
from hatebm.progress import progress
from hatebm.runs import Run
from hatebm.settings import parse_settings
from hatebm.tables import print_scores
from hatebm.training import train as train_run


def train(options: argparse.Namespace) -> int:
    """Train every stage of a run that is not finished yet; returns the exit code, 130 after Ctrl-C."""
    need("sklearn", "PIL", "safetensors", "rich", "matplotlib", "pooch")
    device = device_of(options)
    run, images = _resumed(options) if options.resume else _started(options)
    set_threads(options.threads, run)
    before = stages.first_stage(run)
    for stage in (before, run) if before is not None else (run,):
        learner = _begun(stage, device)
        if not _finish(stage, learner, images):
            print(f"stopped after iteration {learner.iteration} of {stage.config.iterations}, and saved; go on with")
            print(f"  hatebm train {run.system} --out {run.folder} --resume")
            return 130
    report(run, learner, images)
    return 0


def report(run: Run, learner: Learner, images: data.Images) -> None:
    """Evaluate what a run has learned and draw its pictures; prints the table and names the files."""
    scores = results.evaluate(run, learner, images)
    results.write_results(run, scores)
    held_out = len(images.held_out)
    print_scores(scores, f"{held_out} held-out images" if held_out else f"the {len(images.train)} training images")
    for name, shows in results.write_pictures(run, learner, images).items():
        print(f"{run.folder / name}: {shows}")


def _begun(run: Run, device: torch.device) -> Learner:
    learner = stages.fresh(run, device)
    return run.restore(learner) if run.has_checkpoint() else learner


def _finish(run: Run, learner: Learner, images: data.Images) -> bool:
    """Train a stage to its end; False when it was stopped before."""
    if learner.iteration >= run.config.iterations and run.has_checkpoint():
        return True
    print(
        f"{run.system} on {run.data}: {len(images.train)} images, {run.config.iterations} iterations, in {run.folder}"
    )
    with progress(run.config.iterations, learner.iteration) as (show, say):
        return train_run(run, learner, images, show, say)


def _started(options: argparse.Namespace) -> tuple[Run, data.Images]:
    """A new run and its data; the folder is made last, so a refused run leaves none behind."""
    system = SYSTEMS[options.system]
    settings = _settings(options, options.system)
    published = _published(options.preset, system.published)
    name = options.data or options.preset or "digits"
    folder = options.out or _free_folder(f"{options.system}-{Path(name).resolve().name}")
    if folder.exists():
        raise UsageError(f"--out: {folder} exists already; add --resume to go on with it, or choose another folder")
    size = settings.get("size", published.size if published else None)
    crop = settings.get("crop", published.crop if published else "center")
    images = data.load(name, size, options.data_root, crop)
    config = replace(published or system.preset(images.size, images.channels), **settings)
    if config.channels != images.channels:
        raise UsageError(f"--set: channels must be {images.channels} like the data, got {config.channels}")
    root = str(Path(options.data_root).resolve())
    run = Run(folder, options.system, _place(name, options.data_root), root, len(images.train), config)
    set_threads(options.threads, run)
    if system.generator is None:
        if options.generator is not None:
            raise UsageError(f"--generator: {run.system} trains its own generator, got {options.generator!r}")
        system.learner.create(config)
        run.create()
    else:
        generator, put = _generator(options, run)
        system.learner.create(config, generator)
        run.create()
        put(folder / stages.FOLDER)
    return run, images


def _generator(options: argparse.Namespace, run: Run) -> tuple[nn.Module, Callable[[Path], None]]:
    """A generator for a new run, and what puts it into the run's folder: a copy of it, or a run that will train it."""
    if options.generator is not None:
        return stages.taken_over(options.generator)
    name = SYSTEMS[run.system].generator
    system, shared = SYSTEMS[name], ("size", "channels", "crop", "seed")
    config = system.published.get(options.preset) or system.preset(run.config.size, run.config.channels)
    settings = {"iterations": min(config.iterations, options.steps or config.iterations)}
    settings |= {key: getattr(run.config, key) for key in shared} | _settings(options, name, "generator.")
    run = replace(run, folder=run.folder / stages.FOLDER, system=name, config=replace(config, **settings))
    return system.learner.create(run.config).generator, lambda folder: run.create()


def _resumed(options: argparse.Namespace) -> tuple[Run, data.Images]:
    """The run in --out and its data; its configuration stays, but --steps may move the end."""
    if options.out is None:
        raise UsageError("--resume: say with --out which run to go on with")
    run = Run.open(options.out)
    settings = _settings(options, run.system)
    begun = {**vars(run.config), "data": run.data}
    asked = settings if options.data is None else {**settings, "data": _place(options.data, options.data_root)}
    for key, value in asked.items():
        if key != "iterations" and value != begun[key]:
            raise UsageError(f"--resume: the run in {run.folder} has {key} = {begun[key]} and keeps it, got {value}")
    images = run.images()
    run = replace(run, config=replace(run.config, **settings))
    finished = int(run.last_checkpoint().stem) if run.has_checkpoint() else 0
    if run.config.iterations < finished:
        raise UsageError(f"--steps: the run has {finished} iterations already, got {run.config.iterations}")
    run.write_config()
    return run, images


def _published(name: str | None, published: Mapping[str, Config]) -> Config | None:
    if name is not None and name not in published:
        raise UsageError(f"--preset: wanted one of {', '.join(published)}, got {name!r}")
    return published.get(name)


def _settings(options: argparse.Namespace, system: str, prefix: str = "") -> dict:
    """The numbers asked for: of the run itself, or, as `generator.KEY=VALUE`, of the stage before it."""
    pairs = [pair for pair in options.set if pair.startswith("generator.") == bool(prefix)]
    settings = parse_settings([pair.removeprefix(prefix) for pair in pairs], SYSTEMS[system].config)
    if prefix:
        return settings
    flags = {"iterations": options.steps, "batch": options.batch, "size": options.size, "seed": options.seed}
    return settings | {key: value for key, value in flags.items() if value is not None}


def _place(name: str, root: str) -> str:
    return name if name in data.NAMES else str(Path(root, name).resolve())


def _free_folder(name: str) -> Path:
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(folder for folder in map(Path("runs").joinpath, names) if not folder.exists())
