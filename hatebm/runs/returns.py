"""How a training that diverges goes on: from a good point, with other noise and at lower rates.

Points are checkpoints at fixed iterations, in the folder `good` of a run whose configuration has `max_returns`. Those
that are written by the clock would not do: a training that was killed would go back to another one than without it.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hatebm.errors import UsageError
from hatebm.learning.config import Config
from hatebm.learning.learner import Learner
from hatebm.ops.noise import Purpose, words
from hatebm.runs import checkpoints, symptoms
from hatebm.runs.folder import Run, contents
from hatebm.runs.restoring import restore_from

KEPT = 5  # points: the three among which the last good one is, and two for divergences soon after a return
SLOWER = 0.5  # factor of the learning rates, each return


def may_return(config: Config) -> bool:
    """Whether a training under this configuration goes back when it diverges."""
    return getattr(config, "max_returns", 0) > 0


def noise_seed(seed: int, returns: int) -> int:
    """The seed of a training after so many returns, in [0, 2^62): w0 + 2^32 floor(w1 / 4).

    w0 and w1 are the first words of the noise at that seed, step `returns`, for Purpose.RETURN.
    """
    low, high = words((1, 2), seed=seed, step=returns, purpose=Purpose.RETURN, device="cpu").flatten().tolist()
    return low | high >> 2 << 32


def begin(run: Run, learner: Learner) -> None:
    """Drop the points ahead of a training, which it will write again; where none is left, it stands at one."""
    checkpoints.drop_after(run.good, learner.iteration)
    if not checkpoints.paths(run.good):
        keep(run, learner)


def is_due(learner: Learner) -> bool:
    """Whether a training stands at a point, as it does in every so many iterations as a symptom must last."""
    return learner.iteration % symptoms.WINDOW == 0


def keep(run: Run, learner: Learner) -> None:
    """Write a point, then drop all but the newest few."""
    checkpoints.save(run.good, *contents(learner), kept=KEPT)


def go_back(run: Run, learner: Learner, iteration: int, seen: str, say: Callable[[str], None]) -> bool:
    """Put a learner that diverged in an iteration back to a good point, and its run with it; says so aloud.

    Returns False where no point is whole; each that is damaged is named. The noise has another seed and all learning
    rates are halved from there on. It may be killed at any moment: while a checkpoint ahead of the point is left, a
    resumed training comes to the same divergence and here again, and afterwards it begins at the point.
    """
    returns, rate = learner.returns + 1, SLOWER * learner.rate
    for point in _points(run, learner, iteration):
        try:
            restore_from(point, run, learner)
        except UsageError as error:
            say(f"{error}; it is passed over")
            continue
        learner.returns, learner.noise_seed, learner.rate = returns, noise_seed(run.config.seed, returns), rate
        say(
            f"iteration {iteration}: {seen}; goes on from iteration {learner.iteration}, with noise of seed "
            f"{learner.noise_seed} and learning rates times {rate:g} (return {returns} of {run.config.max_returns})"
        )
        checkpoints.save_as_newest(run.checkpoints, *contents(learner))
        return True
    return False


def last_good(run: Run, learner: Learner, iteration: int) -> Path:
    """The checkpoint to go on from by hand after a divergence: a point where there are any, else the newest one."""
    for point in _points(run, learner, iteration):
        with suppress(UsageError):
            checkpoints.load(point)
            return point
    return run.last_checkpoint()


def _points(run: Run, learner: Learner, iteration: int) -> list[Path]:
    """The points to go back to after a divergence in an iteration, the best one first, at last the oldest.

    They lie so far before it that none of the rows in which a symptom shows led there. The one that the last return
    went back to is left out, so that a divergence soon after goes back further, while there is another.
    """
    points = checkpoints.paths(run.good)
    if not points:
        return []
    rows = run.metrics(max(0, iteration - 1))
    tried = sum(row.get("returns", 0) < learner.returns for row in rows)  # so many iterations led to the last return
    before = iteration - 2 * symptoms.WINDOW
    good = [point for point in points if int(point.stem) <= before and int(point.stem) != tried]
    return list(dict.fromkeys([*reversed(good), points[0]]))
