"""The command line: `hatebm train`, `hatebm sample`, `hatebm info`."""

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NoReturn

import torch

from hatebm import data, pictures, presets, results
from hatebm.errors import UsageError
from hatebm.health import ChainDiverged
from hatebm.progress import print_scores, progress
from hatebm.runs import Run
from hatebm.settings import parse_settings
from hatebm.systems.hat import HatState
from hatebm.training import TrainingDiverged
from hatebm.training import train as train_run

SYSTEMS = ("hat-synthesis",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 when a training diverged, 2 for bad input, 130 when interrupted."""
    try:
        options = parser().parse_args(arguments)
        with warnings.catch_warnings():
            _show_skipped_files()
            return options.command(options)
    except UsageError as error:
        return _complain(error, 2)
    except OSError as error:
        return _complain(error, 2)
    except (ChainDiverged, TrainingDiverged) as error:
        return _complain(error, 1)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("hatebm"):
            raise
        return _complain(f'{error.name} is not installed; pip install "hatebm[train]" brings it', 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


def train(options: argparse.Namespace) -> int:
    """`hatebm train`: start or resume a run, then evaluate it and draw its pictures."""
    _need("sklearn", "PIL", "safetensors", "rich", "matplotlib")
    run, state, images = _resumed(options) if options.resume else _started(options)
    print(
        f"{run.system} on {run.data}: {len(images.train)} images, {run.config.iterations} iterations, in {run.folder}"
    )
    with progress(run.config.iterations, state.iteration) as show:
        finished = train_run(run, state, images, show)
    if not finished:
        print(f"stopped after iteration {state.iteration} of {run.config.iterations}, and saved; go on with")
        print(f"  hatebm train {run.system} --out {run.folder} --resume")
        return 130
    scores = results.evaluate(state, images)
    results.write_results(run, scores)
    held_out = len(images.held_out)
    print_scores(scores, f"{held_out} held-out images" if held_out else f"the {len(images.train)} training images")
    for name, shows in results.write_pictures(run, state, images).items():
        print(f"{run.folder / name}: {shows}")
    return 0


def sample(options: argparse.Namespace) -> int:
    """`hatebm sample`: draw a grid of images from the newest checkpoint of a run."""
    _need("PIL", "safetensors")
    run = Run.open(options.run)
    _set_threads(options.threads, run)
    state = run.load()
    steps = 2 * run.config.langevin_steps if options.steps is None else options.steps
    (images,) = results.sample(state, options.n, (steps,), seed=options.seed)
    out = options.out or run.folder / f"samples-{steps}-steps.png"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pictures.save_grid(out, data.to_bytes(images), columns=max(1, round(options.n**0.5)))
    except (OSError, ValueError) as error:
        raise UsageError(f"--out: cannot write the picture {out}: {error}") from None
    print(f"{out}: {options.n} images after {steps} Langevin steps, iteration {state.iteration} of the training")
    return 0


def info(options: argparse.Namespace) -> int:
    """`hatebm info`: what this machine and this installation offer."""
    from hatebm.info import report

    print(report())
    return 0


def _started(options: argparse.Namespace) -> tuple[Run, HatState, data.Images]:
    """A new run with its fresh state and its data; the folder is made last, so a refused run leaves none behind."""
    settings = _settings(options)
    name = options.data or "digits"
    folder = options.out or _free_folder(f"{options.system}-{Path(name).resolve().name}")
    if folder.exists():
        raise UsageError(f"--out: {folder} exists already; add --resume to go on with it, or choose another folder")
    images = data.load(name, settings.get("size"), options.data_root)
    config = replace(presets.hat_synthesis(images.size, images.channels), **settings)
    if config.channels != images.channels:
        raise UsageError(f"--set: channels must be {images.channels} like the data, got {config.channels}")
    run = Run(folder, options.system, _place(name, options.data_root), len(images.train), config)
    _set_threads(options.threads, run)
    state = HatState.create(config)
    run.create()
    return run, state, images


def _resumed(options: argparse.Namespace) -> tuple[Run, HatState, data.Images]:
    """The run in --out with its state and data; its configuration stays, but --steps may move the end."""
    if options.out is None:
        raise UsageError("--resume: say with --out which run to go on with")
    run = Run.open(options.out)
    settings = _settings(options)
    begun = {**vars(run.config), "data": run.data}
    asked = settings if options.data is None else {**settings, "data": _place(options.data, options.data_root)}
    for key, value in asked.items():
        if key != "iterations" and value != begun[key]:
            raise UsageError(f"--resume: the run in {run.folder} has {key} = {begun[key]} and keeps it, got {value}")
    images = data.load(run.data, run.config.size)
    if len(images.train) != run.train_images:
        raise UsageError(
            f"--resume: the run began with {run.train_images} training images, {run.data} now gives {len(images.train)}"
        )
    run = replace(run, config=replace(run.config, **settings))
    _set_threads(options.threads, run)
    state = run.load()
    if run.config.iterations < state.iteration:
        raise UsageError(f"--steps: the run has {state.iteration} iterations already, got {run.config.iterations}")
    run.write_config()
    return run, state, images


def _place(name: str, root: str) -> str:
    return name if name in data.NAMES else str(Path(root, name).resolve())


def _settings(options: argparse.Namespace) -> dict:
    flags = {"iterations": options.steps, "batch": options.batch, "size": options.size, "seed": options.seed}
    return parse_settings(options.set) | {key: value for key, value in flags.items() if value is not None}


def _free_folder(name: str) -> Path:
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(folder for folder in map(Path("runs").joinpath, names) if not folder.exists())


def _set_threads(threads: int | None, run: Run) -> None:
    """As asked; else one for the smallest images, whose layers are over before a second thread has joined in."""
    if threads is not None or run.config.size <= 8:
        torch.set_num_threads(threads or 1)


def _need(*packages: str) -> None:
    """Fail before the work begins, not after it, where a package of the `train` extra is missing."""
    for package in packages:
        importlib.import_module(package)


def _show_skipped_files() -> None:
    show = warnings.showwarning

    def show_in_one_line(message, category, *place, **more):
        if issubclass(category, data.SkippedFile):
            print(f"hatebm: warning: {message}", file=sys.stderr)
        else:
            show(message, category, *place, **more)

    warnings.simplefilter("always", data.SkippedFile)
    warnings.showwarning = show_in_one_line


def _complain(message: object, code: int) -> int:
    print(f"hatebm: error: {message}" if code != 130 else f"hatebm: {message}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The arguments of every command; the chosen one's function stands in `command`."""
    root = _Parser(prog="hatebm", description="Train and sample energy-based models.")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "train",
        help="train a system; with nothing else, a Hat EBM on scikit-learn's digits in about two minutes",
        description="Train a system, evaluate it and draw its pictures. With no arguments: a Hat EBM on the digits "
        "that scikit-learn ships, in about two minutes on two CPU cores. Ctrl-C saves and says how to go on.",
    )
    command.set_defaults(command=train)
    command.add_argument("system", nargs="?", default=SYSTEMS[0], choices=SYSTEMS, metavar="SYSTEM",
                         help=f"one of: {', '.join(SYSTEMS)} (default: %(default)s)")  # fmt: skip
    command.add_argument("--data", metavar="NAME", help="digits, or a folder of images of any kind (default: digits)")
    command.add_argument("--data-root", default=".", metavar="DIR",
                         help="where a relative folder given to --data begins (default: here)")  # fmt: skip
    command.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: a new one below runs/)")
    command.add_argument("--resume", action="store_true", help="go on with the run in --out, bit for bit")
    command.add_argument("--steps", type=_positive, metavar="N", help="training iterations")
    command.add_argument("--size", type=_positive, metavar="PIXELS",
                         help="side of the square images (default: 8 for digits, 32 for a folder)")  # fmt: skip
    command.add_argument("--batch", type=_positive, metavar="N", help="images and chains in one iteration")
    command.add_argument("--seed", type=_seed, metavar="N", help="decides every random number (default: 0)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                         help="set any value of the configuration; may be given again")  # fmt: skip
    command.add_argument(
        "--threads", type=_positive, metavar="N", help="CPU threads (default: 1 for 8 pixels, else as torch chooses)"
    )

    command = commands.add_parser(
        "sample",
        help="draw images from a trained run",
        description="Draw a grid of images from the newest checkpoint of a run.",
    )
    command.set_defaults(command=sample)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    command.add_argument("--n", type=_positive, default=64, metavar="N", help="number of images (default: 64)")
    command.add_argument("--steps", type=_natural, metavar="K",
                         help="Langevin steps; 0 is G(z) alone (default: twice those of the training)")  # fmt: skip
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="which images (default: 0)")
    command.add_argument("--out", type=Path, metavar="FILE", help="picture to write (default: in RUN)")
    command.add_argument(
        "--threads", type=_positive, metavar="N", help="CPU threads (default: 1 for 8 pixels, else as torch chooses)"
    )

    command = commands.add_parser("info", help="versions, CPU features, devices and backends")
    command.set_defaults(command=info)
    return root


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = 1 << 64
    if not -(1 << 63) <= seed < (1 << 63) - 1:  # a run draws its samples with the next seed
        raise argparse.ArgumentTypeError(f"wanted a whole number of 64 bits, got {text!r}")
    return seed


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"wanted a whole number, not negative, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    number = _natural(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, got {text!r}")
    return number
