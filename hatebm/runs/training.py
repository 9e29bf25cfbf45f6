"""Training: iterate a system, write metrics and checkpoints, stop cleanly."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from hatebm.data import Images
from hatebm.dynamics.health import ChainDiverged
from hatebm.learning.learner import Learner
from hatebm.runs import metrics, returns
from hatebm.runs.folder import Run
from hatebm.runs.symptoms import Watched
from hatebm.systems.catalogue import SYSTEMS

SECONDS_BETWEEN_CHECKPOINTS = 8.0  # or twenty times what one takes to write, whichever is more


class TrainingDiverged(RuntimeError):  # noqa: N818 - beside ChainDiverged
    """The energy, the generator or the chains left the finite numbers; the message names when and the way back."""


class _Diverged(Exception):  # noqa: N818 - beside ChainDiverged
    """In which iteration a training left the numbers that it may have, and how that was seen."""

    def __init__(self, iteration: int, seen: str) -> None:
        super().__init__(iteration, seen)
        self.iteration, self.seen = iteration, seen


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
    time at most) and at the end; SIGINT and SIGTERM end the current iteration and write one too. A training that
    diverges goes back as often as its configuration's `max_returns` says, and says so to `on_advice`. Raises
    TrainingDiverged without touching the last good checkpoint, and CannotWrite, naming the file.
    """
    most = getattr(run.config, "max_returns", 0)
    with _stop_on_signals() as stopped:
        while True:
            try:
                return _go_on(run, learner, images, on_iteration, on_advice, stopped)
            except _Diverged as end:
                if learner.returns >= most or not returns.go_back(run, learner, end.iteration, end.seen, on_advice):
                    used = f" after {learner.returns} of {most} returns" if most else ""
                    good = returns.last_good(run, learner, end.iteration)
                    raise TrainingDiverged(
                        f"training diverged{used} in iteration {end.iteration}: {end.seen}; "
                        f"the last good checkpoint is {good}"
                    ) from end


def _go_on(
    run: Run,
    learner: Learner,
    images: Images,
    on_iteration: Callable[[dict], None],
    on_advice: Callable[[str], None],
    stopped: threading.Event,
) -> bool:
    """Train from where a learner stands up to the end, a signal, or _Diverged; returns whether it was no signal."""
    goes_back, symptoms = returns.may_return(run.config), SYSTEMS[run.system].symptoms
    ends = [symptom for symptom in symptoms if goes_back and symptom.diverged]
    before = run.metrics(learner.iteration)
    judged = Watched(ends, run.config, before)
    watched = Watched([symptom for symptom in symptoms if symptom not in ends], run.config, before)
    run.cut_metrics(learner.iteration)
    due = _save(run, learner)
    if goes_back:
        returns.begin(run, learner)
    with metrics.appended(run.metrics_file) as rows:
        while learner.iteration < run.config.iterations and not stopped.is_set():
            row = _measured_iteration(run, learner, images)
            rows.add(row)
            on_iteration(row)
            for advice in watched.see(row):
                on_advice(f"iteration {row['step']}: {advice}")
            for advice in judged.see(row):
                raise _Diverged(row["step"], advice)
            if goes_back and returns.is_due(learner):  # before a checkpoint by the clock, which counts on it
                rows.sync()
                returns.keep(run, learner)
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
        raise _Diverged(learner.iteration + 1, what) from error
    if not all(map(math.isfinite, measured.values())):
        raise _Diverged(learner.iteration, f"not finite: {measured}")
    if returns.may_return(run.config):  # in every iteration, for the clock must not decide where it goes back to
        _require_finite(learner)
    rate = 1 / (time.perf_counter() - start)
    steps = getattr(run.config, "langevin_steps", None)
    speed = {"iterations_per_s": rate} if steps is None else {"langevin_steps_per_s": steps * rate}
    returned = {"returns": learner.returns} if learner.returns else {}
    return {"step": learner.iteration, **measured, **speed, **returned}


def _save(run: Run, learner: Learner) -> float:
    """Write a checkpoint of finite weights; returns the time at which the next one is due."""
    start = time.monotonic()
    _require_finite(learner)
    run.save(learner)
    return time.monotonic() + max(SECONDS_BETWEEN_CHECKPOINTS, 20 * (time.monotonic() - start))


def _require_finite(learner: Learner) -> None:
    numbers = {name: tensor for name, tensor in learner.learned().items() if tensor.is_floating_point()}
    sums = [tensor.sum(dtype=torch.float32).to(learner.device) for tensor in numbers.values()]
    if torch.stack(sums).isfinite().all():  # a sum is finite only if all is; one pass, and one wait for the device
        return
    broken = [name for name, tensor in numbers.items() if not tensor.isfinite().all()]
    if broken:
        raise _Diverged(learner.iteration, f"not finite: {', '.join(broken[:3])}")


def _chains(ids: list[int]) -> str:
    few = ", ".join(map(str, ids[:8]))
    return f"chains {few}" + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")


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
