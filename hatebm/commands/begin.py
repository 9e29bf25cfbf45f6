"""How a run of `hatebm train` begins: a new folder from what was asked for, or an old one that goes on."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from torch import nn

from hatebm import data
from hatebm.commands.classes import refuse_conditional, refuse_other_kind, with_classes
from hatebm.commands.options import set_threads
from hatebm.commands.relocate import first_stage_beside, known, place, relocated
from hatebm.commands.settings import parse_settings
from hatebm.data import Images
from hatebm.data.fingerprint import Fingerprint
from hatebm.engine.prepare.precision import in_words
from hatebm.errors import UsageError
from hatebm.learning.config import Config
from hatebm.learning.learner import Learner
from hatebm.runs import stages
from hatebm.runs.files import refuse_held
from hatebm.runs.folder import GENERATOR, Run
from hatebm.runs.starts import create, created, left_behind, refuse_taken
from hatebm.systems.catalogue import SYSTEMS

DEFAULT = "hat-synthesis"
FIRST = "generator."  # begins the keys of --set that are meant for the stage before

Begun = tuple[Run, Images, dict[Path, Learner]]  # a run, its data, and those of its stages that have begun, by folder


@contextmanager
def begun(options: argparse.Namespace, device: torch.device) -> Iterator[Begun]:
    """The run to train, no other training at work in its folder while the block runs.

    A start that was killed before its config.json came is a start again, with --resume or without it.
    """
    resumes = options.resume and not (options.out is not None and left_behind(options.out))
    with resumed(options, device) if resumes else started(options, device) as found:
        yield found


@contextmanager
def started(options: argparse.Namespace, device: torch.device) -> Iterator[Begun]:
    """A new run; the folder is made last, so a refused run leaves none behind."""
    name = options.system or DEFAULT
    system, data_root = SYSTEMS[name], options.data_root or "."
    if options.conditional:
        refuse_conditional(name)
    settings = _settings(options, name)
    published = _published(options.preset, system.published)
    source = _source(options, data_root)
    folder = options.out or _free_folder(f"{name}-{Path(source).resolve().name}")
    refuse_taken(folder)
    size = settings.get("size", published.size if published else None)
    crop = settings.get("crop", published.crop if published else "center")
    images = data.load(source, size, data_root, crop)
    config = replace(published or system.preset(images.size, images.channels), **settings)
    if config.channels != images.channels:
        raise UsageError(f"--set: channels must be {images.channels} like the data, got {config.channels}")
    config = with_classes(config, images, options.conditional, settings.get("classes"))
    where, root = place(source, data_root), str(Path(data_root).resolve())
    about = Fingerprint.of(images), in_words(None, device)
    run = Run(folder, name, where, root, len(images.train), config, *about)
    set_threads(options.threads, run)
    if system.generator is None:
        if options.generator is not None:
            raise UsageError(f"--generator: {name} learns on no generator from elsewhere, got {options.generator!r}")
        _first_settings(options, None)
        system.learner.create(config)
        put = None
    else:
        generator, put = _generator(options, run)
        system.learner.create(config, generator)
    with created(run, put), _held(stages.first_stage(run)):
        yield run, images, {}


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
    run = replace(run, folder=run.folder / GENERATOR, system=name, config=replace(config, **settings))
    return system.learner.create(run.config).generator, lambda folder: create(run)


@contextmanager
def resumed(options: argparse.Namespace, device: torch.device) -> Iterator[Begun]:
    """The run in --out; its configuration stays, but --steps may move the end, and its data may lie elsewhere.

    Nothing in the folder is changed before all of it has been found whole.
    """
    if options.out is None:
        raise UsageError("--resume: say with --out which run to go on with")
    begun = Run.open(options.out)
    refuse_held(begun.folder)
    if options.system not in (None, begun.system):
        raise UsageError(f"--resume: the run in {begun.folder} is one of {begun.system}, got {options.system}")
    if options.conditional:
        refuse_other_kind(begun)
    if options.generator is not None:
        raise UsageError(f"--generator: the run in {begun.folder} has its generator, got {options.generator!r}")
    settings = _settings(options, begun.system)
    published = _published(options.preset, SYSTEMS[begun.system].published)
    asked = vars(published).copy() if published else {}
    if options.conditional:
        asked.pop("classes", None)  # a start took the data's own
    asked = {key: value for key, value in (asked | settings).items() if key != "iterations"}
    _refuse_change(begun, asked, vars(begun.config))
    run = relocated(begun, options.data, options.data_root)
    before = first_stage_beside(run, begun)
    first = _first_settings(options, before.system if before else None)
    if before is not None:
        _refuse_change(begun, first, vars(before.config), "generator.")
    images = run.images()
    run = known(replace(run, config=replace(run.config, **settings), precision=in_words(None, device)), images)
    finished = int(run.last_checkpoint().stem) if run.has_checkpoint() else 0
    if run.config.iterations < finished:
        raise UsageError(f"--steps: the run has {finished} iterations already, got {run.config.iterations}")
    set_threads(options.threads, run)
    ready = _ready(before, run, device)
    with run.held(), _held(before):
        _refuse_overtaken(before, run, ready)
        run.write_config()
        if before not in (None, stages.first_stage(run)):
            before.write_config()
        yield run, images, ready


def _held(run: Run | None) -> AbstractContextManager:
    return nullcontext() if run is None else run.held()


def _ready(before: Run | None, run: Run, device: torch.device) -> dict[Path, Learner]:
    """The stages that have begun, as their newest checkpoints have them, up to the first that is not finished.

    Raises UsageError where a checkpoint or the metrics up to it are not whole.
    """
    ready = {}
    for stage in (run,) if before is None else (before, run):
        if not stage.has_checkpoint():
            if stage.metrics_file.exists() and stage.metrics_file.stat().st_size:
                raise UsageError(
                    f"{stage.metrics_file} has rows, but {stage.checkpoints} holds no checkpoint; put them back as "
                    "they were, or begin anew in another folder"
                )
            break
        learner = ready[stage.folder] = stages.load(stage, device)
        goes_on = learner.iteration < stage.config.iterations
        if goes_on or stage.metrics_file.exists():  # a generator that was taken over has none
            stage.metrics(learner.iteration)
        if goes_on:
            break
    return ready


def _refuse_overtaken(before: Run | None, run: Run, ready: dict[Path, Learner]) -> None:
    """Refuse where another training went on between our look at the folder and our hold on it."""
    for stage in (run,) if before is None else (before, run):
        newest = int(stage.last_checkpoint().stem) if stage.has_checkpoint() else None
        if stage.folder in ready and ready[stage.folder].iteration != newest:
            raise UsageError(f"--resume: another training has just gone on in {stage.folder}; try again")


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
    """The name or the folder of the data; a preset brings the data set that its name begins with, if there is one."""
    source = options.data or options.preset or "digits"
    if options.data is None and source not in data.NAMES and not Path(root, source).is_dir():
        source = source.partition("-")[0]  # of cifar10-conditional
        if source not in data.NAMES:
            raise UsageError(f"--preset: {options.preset} brings no data; name a folder of images with --data")
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


def _free_folder(name: str) -> Path:
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(folder for folder in map(Path("runs").joinpath, names) if not folder.exists())
