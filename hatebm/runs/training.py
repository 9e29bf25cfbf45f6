"""Training: iterate a system, write metrics and checkpoints, stop cleanly."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hatebm.data import Images
from hatebm.dynamics.health import ChainDiverged
from hatebm.learning.learner import Learner
from hatebm.runs import metrics
from hatebm.runs.folder import Run
from hatebm.runs.symptoms import Watched
from hatebm.systems.catalogue import SYSTEMS

SECONDS_BETWEEN_CHECKPOINTS = 8.0  # or twenty times what one takes to write, whichever is more


class TrainingDiverged(RuntimeError):  # noqa: N818 - beside ChainDiverged
    """The energy, the generator or the chains left the finite numbers; the message names when and the way back."""


def train(
    run: Run,
    learner: Learner,
    images: Images,
    on_iteration: Callable[[dict], None],
    on_advice: Callable[[str], None] = print,
) -> bool:
    """Iterate up to `config.iterations`; returns False when a signal stopped it, be it in the last iteration.

    Every iteration adds a row to metrics.jsonl and hands it to `on_iteration`; a symptom that the rows show goes to
    `on_advice`, once. A checkpoint is written at the start, every few seconds (seldom enough to cost a twentieth of the
    time at most) and at the end; SIGINT and SIGTERM end the current iteration and write one too. Raises
    TrainingDiverged without touching the last good checkpoint, and CannotWrite, naming the file.
    """
    watched = Watched(SYSTEMS[run.system].symptoms, run.config, run.metrics(learner.iteration))
    run.cut_metrics(learner.iteration)
    due = _save(run, learner)
    with metrics.appended(run.metrics_file) as rows, _stop_on_signals() as stopped:
        while learner.iteration < run.config.iterations and not stopped.is_set():
            row = _measured_iteration(run, learner, images)
            rows.add(row)
            on_iteration(row)
            for advice in watched.see(row):
                on_advice(f"iteration {row['step']}: {advice}")
            if time.monotonic() >= due:
                rows.sync()
                due = _save(run, learner)
        rows.sync()
        _save(run, learner)
    return not stopped.is_set()


def _measured_iteration(run: Run, learner: Learner, images: Images) -> dict:
    start = time.perf_counter()
    try:
        measured = learner.advance(images)
    except ChainDiverged as error:
        step = error.step % run.config.langevin_steps + 1
        what = f"NaN or Inf at Langevin step {step} of {run.config.langevin_steps}, in {_chains(error.chains)}"
        raise _diverged(run, learner.iteration + 1, what) from error
    if not all(map(math.isfinite, measured.values())):
        raise _diverged(run, learner.iteration, f"not finite: {measured}")
    rate = 1 / (time.perf_counter() - start)
    steps = getattr(run.config, "langevin_steps", None)
    speed = {"iterations_per_s": rate} if steps is None else {"langevin_steps_per_s": steps * rate}
    return {"step": learner.iteration, **measured, **speed}


def _save(run: Run, learner: Learner) -> float:
    """Write a checkpoint of finite weights; returns the time at which the next one is due."""
    start = time.monotonic()
    broken = [name for name, tensor in learner.tensors().items() if not tensor.isfinite().all()]
    if broken:
        raise _diverged(run, learner.iteration, f"not finite: {', '.join(broken[:3])}")
    run.save(learner)
    return time.monotonic() + max(SECONDS_BETWEEN_CHECKPOINTS, 20 * (time.monotonic() - start))


def _chains(ids: list[int]) -> str:
    few = ", ".join(map(str, ids[:8]))
    return f"chains {few}" + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")


def _diverged(run: Run, iteration: int, what: str) -> TrainingDiverged:
    return TrainingDiverged(
        f"training diverged in iteration {iteration}: {what}; the last good checkpoint is {run.last_checkpoint()}"
    )


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one interrupts at once, as ever."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread alone
        yield stopped
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:
        stopped.set()
        put_back()

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        put_back()
