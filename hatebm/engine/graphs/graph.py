"""A captured step with its buffers: how it comes about, and how it takes the steps of a chain."""

import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hatebm.dynamics.gradient import Potential
from hatebm.engine.graphs.capture import recorder_of
from hatebm.engine.graphs.replay_check import agrees, unrepeatable
from hatebm.engine.graphs.static_buffers import Run, StaticBuffers
from hatebm.engine.graphs.static_step import Step

TRIED = 3  # steps that are taken one by one on the way to a graph


class Graph:
    """A captured step on buffers, and another that tells what is gathered of it, each where it was asked for.

    It holds neither the module nor its weights. Where every step or nearly every step is told of, all are.
    """

    def __init__(self, run: Run, potential: Potential, t: int) -> None:
        self.buffers, self.recorder = StaticBuffers(run, potential, t), recorder_of(run.device)
        self.steps: dict[bool, torch.cuda.CUDAGraph] = {}  # by whether they tell
        self.tried = False  # whether a capture was tried
        self.lock, self.done = threading.Lock(), torch.cuda.Event()

    def capture(
        self, run: Run, potential: Potential, function: Callable[..., Any], t: int, tells: bool
    ) -> tuple[int, str | None]:
        """Take TRIED steps one by one on the way to a graph of such steps; how many, and why there is none."""
        with self._turn(run) as mine:
            if not mine:
                return 0, None
            buffers, step = self.buffers, Step(self.buffers, run, potential, t, tells)
            buffers.load(run, potential, t, TRIED)
            buffers.arguments.load(potential.kwargs(t))
            step()  # what is made at a first call is made: kernels, the libraries' handles, a module's caches
            buffers.arguments.load(potential.kwargs(t + 1))
            taken, reason = TRIED - 1, unrepeatable(step, function, run.device)
            if reason is None:
                buffers.arguments.load(potential.kwargs(t + 2))
                self.tried = True
                try:
                    graph = self.recorder.captured(Step(buffers, run, potential, t, tells))
                except Exception as error:
                    first_line = next(iter(str(error.__context__ or error).splitlines()), "")
                    reason = f"its capture failed ({type(error).__name__}: {first_line})"
                else:
                    taken = TRIED
                    if agrees(buffers, step, lambda: self.recorder.replay(graph, 1)):
                        self.steps[tells] = graph
                    else:
                        reason = "its replay is not what the loop does"
            buffers.unload(run, t, taken, tells)
            return taken, reason

    def advance(self, run: Run, potential: Potential, t: int, n_steps: int) -> int:
        """Take at most so many steps from step t in place; returns how many, 0 where another chain is taking its own.

        They end where no graph of the next step was captured, and where the keyword arguments are of another structure.
        """
        if not self._alike(run, t, n_steps):
            return 0
        with self._turn(run) as mine:
            if not mine:
                return 0
            self.buffers.load(run, potential, t, n_steps)
            taken = self._replayed(run, potential, t, n_steps)
            self.buffers.unload(run, t, taken, tells_all(run))
            return taken

    def _replayed(self, run: Run, potential: Potential, t: int, n_steps: int) -> int:
        taken = 0
        while count := self._alike(run, t + taken, n_steps - taken):
            changes = potential.changes
            if (changes or not taken) and not self.buffers.arguments.load(potential.kwargs(t + taken)):
                break
            count = 1 if changes else count
            self.recorder.replay(self.steps[_tells(run, t + taken)], count)
            taken += count
        return taken

    def _alike(self, run: Run, t: int, n_steps: int) -> int:
        """How many of the steps from t on are replays of one graph, 0 where there is none."""
        if not n_steps or _tells(run, t) not in self.steps:
            return 0
        if tells_all(run):
            return n_steps
        return 1 if _tells(run, t) else run.gathering.untold(t, n_steps)

    @contextmanager
    def _turn(self, run: Run) -> Iterator[bool]:
        """The buffers for one chain alone, in its stream's order; False while another has them."""
        if not self.lock.acquire(blocking=False):
            yield False
            return
        try:
            stream = torch.cuda.current_stream(run.device)
            stream.wait_event(self.done)
            yield True
            self.done.record(stream)
        finally:
            self.lock.release()


def wanted(captured: Container[bool], run: Run, t: int, n_steps: int) -> bool | None:
    """Whether a step that tells, or one that does not, is to be captured from step t on; None where neither is."""
    if n_steps < TRIED:
        return None
    kept = len(run.gathering.kept(t, n_steps))
    silent = 0 if tells_all(run) else n_steps - kept
    if silent and False not in captured and not run.gathering.kept(t, TRIED):
        return False
    return True if kept and True not in captured else None


def tells_all(run: Run) -> bool:
    """Whether so many steps are told of that a graph of silent ones would find too few in a row."""
    return run.gathering.wanted and run.gathering.every <= TRIED


def _tells(run: Run, t: int) -> bool:
    return tells_all(run) or len(run.gathering.kept(t, 1)) > 0
