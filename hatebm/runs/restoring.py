"""From a run's newest checkpoint to a learner, if it is whole and the run's own."""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from hatebm.errors import UsageError
from hatebm.learning.learner import Learner
from hatebm.runs import checkpoints
from hatebm.runs.folder import GENERATOR, RETURNED, Run


def restore(run: Run, learner: Learner) -> Learner:
    """Put the newest checkpoint into a learner of the run's configuration, and return it.

    Raises UsageError where it is damaged, of another run, or does not fit, and names the newest one that is good.
    """
    newest = run.last_checkpoint()
    try:
        restore_from(newest, run, learner)
    except UsageError as error:
        good = _newest_good(run, learner)
        way = f"; {good} is good: remove the newer ones to go on from there" if good else ""
        raise UsageError(f"{error}{way}") from error
    return learner


def _newest_good(run: Run, learner: Learner) -> Path | None:
    for path in reversed(checkpoints.paths(run.checkpoints)):
        with suppress(UsageError):
            restore_from(path, run, learner)
            return path
    return None


def restore_from(path: Path, run: Run, learner: Learner) -> None:
    """Put a checkpoint into a learner; raises UsageError where it is damaged, of another run, or does not fit."""
    tensors, about = checkpoints.load(path)
    try:
        _refuse_others(path, about, run, learner)
        returned = _returned(about, run.config.seed)
        learner.restore(tensors, int(path.stem))
    except ValueError as error:
        raise UsageError(f"the checkpoint {path} does not fit the run: {error}") from error
    learner.returns, learner.noise_seed, learner.rate = returned


def _returned(about: dict[str, str], seed: int) -> tuple[int, int, float]:
    """Count of returns, seed and rate; those of a training that never went back where nothing is said of them."""
    returns, noise_seed, rate = map(about.get, RETURNED, ("0", str(seed), "1.0"))
    found = int(returns), int(noise_seed), float(rate)
    if not (found[0] >= 0 and -(1 << 63) <= found[1] < 1 << 63 and 0 < found[2] <= 1):
        raise ValueError(f"it has returns = {returns}, noise_seed = {noise_seed} and rate = {rate}")
    return found


def _refuse_others(path: Path, about: dict[str, str], run: Run, learner: Learner) -> None:
    """Raise ValueError for what a checkpoint says of itself, where that is not of this run and this iteration."""
    if about.get("iteration") != str(int(path.stem)):
        raise ValueError(f"it is of iteration {about.get('iteration')}")
    ours, theirs = json.loads(json.dumps(asdict(run.config))), json.loads(about.get("config", "{}"))
    for key in ours.keys() & theirs.keys() - {"iterations"}:  # those may grow
        if ours[key] != theirs[key]:
            raise ValueError(f"it has {key} = {theirs[key]}, the run has {ours[key]}")
    generator = checkpoints.checksum(learner.frozen)
    if about.get(GENERATOR, generator) != generator:
        raise ValueError(f"it learned on another generator than that in {run.folder / GENERATOR}")
