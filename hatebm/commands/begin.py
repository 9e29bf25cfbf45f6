"""How a run of `hatebm train` begins: a new folder from what was asked for, or an old one that goes on."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

from torch import nn

from hatebm import data, stages
from hatebm.catalogue import SYSTEMS
from hatebm.commands.options import set_threads
from hatebm.config import Config
from hatebm.data import Images
from hatebm.errors import UsageError
from hatebm.runs import Run
from hatebm.settings import parse_settings

DEFAULT = "hat-synthesis"
FIRST = "generator."  # begins the keys of --set that are meant for the stage before


def started(options: argparse.Namespace) -> tuple[Run, Images]:
    """A new run and its data; the folder is made last, so a refused run leaves none behind."""
    name = options.system or DEFAULT
    system, data_root = SYSTEMS[name], options.data_root or "."
    settings = _settings(options, name)
    published = _published(options.preset, system.published)
    source = _source(options, data_root)
    folder = options.out or _free_folder(f"{name}-{Path(source).resolve().name}")
    if folder.exists():
        raise UsageError(f"--out: {folder} exists already; add --resume to go on with it, or choose another folder")
    size = settings.get("size", published.size if published else None)
    crop = settings.get("crop", published.crop if published else "center")
    images = data.load(source, size, data_root, crop)
    config = replace(published or system.preset(images.size, images.channels), **settings)
    if config.channels != images.channels:
        raise UsageError(f"--set: channels must be {images.channels} like the data, got {config.channels}")
    place, root = _place(source, data_root), str(Path(data_root).resolve())
    run = Run(folder, name, place, root, len(images.train), config)
    set_threads(options.threads, run)
    if system.generator is None:
        if options.generator is not None:
            raise UsageError(f"--generator: {name} trains its own generator, got {options.generator!r}")
        _first_settings(options, None)
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
        _first_settings(options, None)
        return stages.taken_over(options.generator)
    name = SYSTEMS[run.system].generator
    system, shared = SYSTEMS[name], ("size", "channels", "crop")
    config = system.published.get(options.preset) or system.preset(run.config.size, run.config.channels)
    asked = _first_settings(options, name)
    iterations = min(config.iterations, options.steps or config.iterations)
    settings = {"iterations": iterations, "seed": run.config.seed}
    settings |= asked | {key: getattr(run.config, key) for key in shared}
    for key in shared:
        if asked.get(key, settings[key]) != settings[key]:
            raise UsageError(f"--set: generator.{key} must be {settings[key]} like that of the run, got {asked[key]}")
    run = replace(run, folder=run.folder / stages.FOLDER, system=name, config=replace(config, **settings))
    return system.learner.create(run.config).generator, lambda folder: run.create()


def resumed(options: argparse.Namespace) -> tuple[Run, Images]:
    """The run in --out and its data; its configuration stays, but --steps may move the end."""
    if options.out is None:
        raise UsageError("--resume: say with --out which run to go on with")
    run = Run.open(options.out)
    if options.system not in (None, run.system):
        raise UsageError(f"--resume: the run in {run.folder} is one of {run.system}, got {options.system}")
    if options.generator is not None:
        raise UsageError(f"--generator: the run in {run.folder} has its generator, got {options.generator!r}")
    settings = _settings(options, run.system)
    published = _published(options.preset, SYSTEMS[run.system].published)
    asked = (vars(published) if published else {}) | settings
    if options.data is not None:
        asked["data"] = _place(options.data, options.data_root or ".")
    if options.data_root is not None:
        asked["data_root"] = str(Path(options.data_root).resolve())
    begun = {**vars(run.config), "data": run.data, "data_root": run.data_root}
    _refuse_change(run, {key: value for key, value in asked.items() if key != "iterations"}, begun)
    before = stages.first_stage(run)
    first = _first_settings(options, before.system if before else None)
    if before is not None:
        _refuse_change(run, first, vars(before.config), "generator.")
    images = run.images()
    run = replace(run, config=replace(run.config, **settings))
    finished = int(run.last_checkpoint().stem) if run.has_checkpoint() else 0
    if run.config.iterations < finished:
        raise UsageError(f"--steps: the run has {finished} iterations already, got {run.config.iterations}")
    run.write_config()
    return run, images


def _refuse_change(run: Run, asked: dict, begun: dict, prefix: str = "") -> None:
    for key, value in asked.items():
        if value != begun[key]:
            had = f"{prefix}{key} = {begun[key]}"
            raise UsageError(f"--resume: the run in {run.folder} has {had} and keeps it, got {value}")


def _published(name: str | None, published: Mapping[str, Config]) -> Config | None:
    if name is not None and name not in published:
        known = f"one of {', '.join(published)}" if published else "none, this system has no published configuration"
        raise UsageError(f"--preset: wanted {known}, got {name!r}")
    return published.get(name)


def _source(options: argparse.Namespace, root: str) -> str:
    """The name or the folder of the data; a preset brings the data set that it is called after, where there is one."""
    source = options.data or options.preset or "digits"
    if options.data is None and source not in data.NAMES and not Path(root, source).is_dir():
        raise UsageError(f"--preset: {source} brings no data; name a folder of images with --data")
    return source


def _settings(options: argparse.Namespace, system: str) -> dict:
    """The numbers asked for of the run itself."""
    flags = {"iterations": options.steps, "batch": options.batch, "size": options.size, "seed": options.seed}
    own = [pair for pair in options.set if not pair.startswith(FIRST)]
    settings = parse_settings(own, SYSTEMS[system].config)
    return settings | {key: value for key, value in flags.items() if value is not None}


def _first_settings(options: argparse.Namespace, system: str | None) -> dict:
    """The numbers asked for of the stage before the run, as `generator.KEY=VALUE`; refused where it trains none."""
    pairs = [pair for pair in options.set if pair.startswith(FIRST)]
    if system is None:
        if pairs:
            raise UsageError(f"--set: no stage is trained before this one, got {pairs[0]!r}")
        return {}
    return parse_settings([pair.removeprefix(FIRST) for pair in pairs], SYSTEMS[system].config)


def _place(name: str, root: str) -> str:
    return name if name in data.NAMES else str(Path(root, name).resolve())


def _free_folder(name: str) -> Path:
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(folder for folder in map(Path("runs").joinpath, names) if not folder.exists())
