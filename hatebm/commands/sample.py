"""`hatebm sample`: draw images from the newest checkpoint of a run."""

import argparse
from collections.abc import Callable
from pathlib import Path

from hatebm import data
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
    trained = getattr(learner.config, "langevin_steps", steps)
    if steps > 3 * trained:
        print(
            f"{steps} steps are more than three times those of the training, K = {trained}: samples oversaturate, "
            f"they are best at {2 * trained} to {3 * trained}"
        )
    if options.path:
        chains = options.n or 8
        path = results.langevin_path(learner, steps, chains=chains, frames=11, seed=options.seed)
        out = options.out or run.folder / f"path-{steps}-steps.png"
        _write(out, lambda: pictures.save_strip(out, path))
        print(f"{out}: {chains} chains at steps {', '.join(map(str, path))}")
        return 0
    n = options.n or 64
    data.require_room(n, learner.config.channels, max(pictures.CELL, learner.config.size), "--n")
    (images,) = learner.sample(n, (steps,), seed=options.seed)
    name = f"{learner.METHOD}-{steps}-steps.png" if options.method else f"samples-{steps}-steps.png"
    out = options.out or run.folder / name
    _write(out, lambda: pictures.save_grid(out, data.to_bytes(images), columns=max(1, round(n**0.5))))
    print(f"{out}: {n} images after {steps} steps, iteration {learner.iteration} of the training")
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


def _write(out: Path, picture: Callable[[], None]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        picture()
    except CannotWrite:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(f"--out: cannot write the picture {out}: {error}") from None
