"""`hatebm sample`: draw images from the newest checkpoint of a run."""

import argparse
from collections.abc import Callable
from pathlib import Path

from hatebm import data
from hatebm.commands.classes import chains_of, drawn_of, labels_asked
from hatebm.commands.options import device_of, need, set_threads
from hatebm.errors import CannotWrite, UsageError
from hatebm.learning.learner import Learner
from hatebm.runs import pictures, results, stages
from hatebm.runs.folder import Run


def sample(options: argparse.Namespace) -> int:
    """Write one picture: a grid of images, or with --path chains on their way, a row for each."""
    need("PIL", "safetensors")
    run = Run.open(options.run)
    set_threads(options.threads, run)
    learner = _learner(run, options)
    steps = max(learner.stages().values()) if options.steps is None else options.steps
    asked = labels_asked(options, learner)
    _advise(learner, steps)
    n, labels = chains_of(asked, options.n, 8 if options.path else 64)
    if options.path:
        path = results.langevin_path(learner, steps, chains=n, frames=11, seed=options.seed, labels=labels)
        out = options.out or run.folder / f"path-{steps}-steps.png"
        _write(out, lambda: pictures.save_strip(out, path))
        print(f"{out}: {n} chains{drawn_of(learner, n, asked)} at steps {', '.join(map(str, path))}")
        return 0
    data.require_room(n, learner.config.channels, max(pictures.CELL, learner.config.size), "--n")
    (images,) = learner.sample(n, (steps,), seed=options.seed, labels=labels)
    name = f"{learner.METHOD}-{steps}-steps.png" if options.method else f"samples-{steps}-steps.png"
    out, columns = options.out or run.folder / name, pictures.columns_of(n, learner.classes, asked)
    _write(out, lambda: pictures.save_grid(out, data.to_bytes(images), columns))
    of = drawn_of(learner, n, asked, columns)
    print(f"{out}: {n} images{of} after {steps} steps, iteration {learner.iteration} of the training")
    return 0


def _learner(run: Run, options: argparse.Namespace) -> Learner:
    """What samples by the method asked for: the run itself, or the stage before it."""
    learner, before = stages.load(run, device_of(options)), stages.first_stage(run)
    known = [learner] if before is None else [learner, stages.load(before, device_of(options))]
    for one in known:
        if options.method in (None, one.METHOD):
            return one
    methods = ", ".join(one.METHOD for one in known)
    raise UsageError(f"--method: {run.folder} can be sampled by {methods}, got {options.method}")


def _advise(learner: Learner, steps: int) -> None:
    """Say so where samples are best at fewer steps."""
    if learner.BEST is None or steps <= learner.BEST[1] * learner.trained_steps:
        return
    least, most = (times * learner.trained_steps for times in learner.BEST)
    print(
        f"{steps} steps are more than {learner.BEST[1]} times those of the training, K = {learner.trained_steps}: "
        f"samples oversaturate, they are best at {least} to {most}"
    )


def _write(out: Path, picture: Callable[[], None]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        picture()
    except CannotWrite:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(f"--out: cannot write the picture {out}: {error}") from None
