"""Runs of steps as replays of one captured CUDA graph, which is used again where it can be."""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.transitions.form import Form
from hatebm.engine.graphs.cache_key import forward_key, settings_of_torch, storage_key
from hatebm.engine.graphs.capture import Recorder, recorder_of
from hatebm.engine.graphs.refusals import alike, unfit
from hatebm.engine.graphs.replay_check import agrees, unrepeatable
from hatebm.engine.graphs.static_buffers import StaticBuffers, Step, longest, table_shapes

TRIED = 3  # steps that are taken one by one on the way to a graph
LEAST = 16  # steps from which a graph pays at once; one that can be kept pays from the second such run on
KINDS_KEPT = 4  # of state, law and weights, for each module
_kept: weakref.WeakKeyDictionary[nn.Module, dict[Any, "Graph | str | None"]] = weakref.WeakKeyDictionary()
_refused: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()  # after a capture; no second is tried


class Graph:
    """A captured step with its buffers; it holds neither the module nor its weights."""

    def __init__(self, buffers: StaticBuffers, recorder: Recorder, graph: torch.cuda.CUDAGraph) -> None:
        self.buffers, self.recorder, self.graph = buffers, recorder, graph
        self.lock, self.done = threading.Lock(), torch.cuda.Event()

    def advance(self, blocks: Blocks, state: list[Tensor], watch: Watch, t: int, n_steps: int) -> bool:
        """Take so many steps from step t in place; False where another chain is taking its own."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            stream = torch.cuda.current_stream(state[0].device)
            stream.wait_event(self.done)
            self.buffers.load(blocks, state, t, n_steps)
            self.recorder.replay(self.graph, n_steps)
            self.buffers.unload(state, watch)
            self.done.record(stream)
        finally:
            self.lock.release()
        return True


class GraphRuns:
    """Takes runs of steps of a chain as replays of a graph, where there can be one.

    What a graph reads is where it was: weights updated in place are seen, and the numbers of the law are read from a
    table, so that other numbers need no other graph. Everything else that the steps depend on is its key; a module
    whose every dependence can be told keeps its graphs, other callables get one for each run of steps.
    """

    def __init__(
        self,
        form: Form,
        blocks: Blocks,
        potential: Potential,
        state: list[Tensor],
        watch: Watch,
        precision: str | None,
    ) -> None:
        self.blocks, self.potential, self.state, self.watch, self.precision = blocks, potential, state, watch, precision
        self.function = potential.energy if potential.grad_fn is None else potential.grad_fn
        self.replayed, self.short = 0, False
        self.refused = unfit(form, blocks, potential, state) or _refused.get(_anchor(self.function))

    def __call__(self, t: int, n_steps: int) -> int:
        """Advance the state by at most ``n_steps`` from step t; returns by how many, 0 where a step is a step."""
        if self.refused or n_steps < 2:
            return 0
        n_steps = alike(self.blocks.laws, t, min(n_steps, longest(self.blocks.laws)))
        key = self._key(t) if n_steps > 1 else None
        graphs = {} if key is None else _kept.setdefault(self.function, {})
        graph = graphs.get(key)
        if graph is None and n_steps < (LEAST if key not in graphs else TRIED + 1):
            self.short = True
            self._keep(graphs, key, None)
            return 0
        taken = 0
        if graph is None:
            taken, graph = self._captured(t, n_steps)
            self._keep(graphs, key, graph)
        if isinstance(graph, str):
            self.refused = graph
            return taken
        if not graph.advance(self.blocks, self.state, self.watch, t + taken, n_steps - taken):
            return taken
        self.replayed += n_steps - taken
        return n_steps

    def note(self) -> str:
        """What to report."""
        if self.replayed:
            rest = f"; refused later: {self.refused}" if self.refused else ""
            return f"CUDA graph: {self.replayed} steps replayed{rest}"
        if self.refused:
            return f"CUDA graph refused: {self.refused}"
        return "CUDA graph: none, too few steps in a row" if self.short else "CUDA graph: none, steps differ"

    def _captured(self, t: int, n_steps: int) -> tuple[int, "Graph | str"]:
        """How many steps were taken on the way, and the graph, or why there is none."""
        blocks, state, watch = self.blocks, self.state, self.watch
        buffers = StaticBuffers(blocks, state, watch.wanted)
        buffers.load(blocks, state, t, n_steps)
        step = Step(buffers, blocks, self.potential, t)
        step()  # what is made at a first call is made: kernels, the libraries' handles, a module's caches
        reason = unrepeatable(step, self.function, state[0].device)
        buffers.unload(state, watch)
        if reason is None:
            recorder = recorder_of(state[0].device)
            try:
                graph = recorder.captured(Step(buffers, blocks, self.potential, t))
            except Exception as error:
                first_line = next(iter(str(error.__context__ or error).splitlines()), "")
                reason = f"its capture failed ({type(error).__name__}: {first_line})"
            else:
                if not agrees(buffers, step, lambda: recorder.replay(graph, 1)):
                    reason = "its replay is not what the loop does"
            if reason is not None:
                _refused[_anchor(self.function)] = reason
        if reason is not None:
            return TRIED - 1, reason
        buffers.unload(state, watch)
        return TRIED, Graph(buffers, recorder, graph)

    def _key(self, t: int) -> Any:
        blocks = self.blocks
        if not isinstance(self.function, nn.Module) or self.potential.kwargs(t):
            return None
        found = forward_key(self.function)
        if found is None:
            return None
        laws = [
            (law.noise_at, law.clamp_at, tuple(law.reflect or ()), *settings.items())
            for law, settings in zip(blocks.laws.each, blocks.laws.settings, strict=True)
        ]
        given = (blocks.noise.chain_ids is None, *(mask is None for mask in blocks.region.masks), self.watch.wanted)
        here = tuple((x.shape, x.stride(), x.device) for x in self.state)
        numbers = (table_shapes(blocks.laws), blocks.laws.flags, blocks.laws.may_rest)
        moving = tuple(map(tuple, blocks.laws.groups_at(t)))
        law = (blocks.laws.joint, blocks.backend, moving, *map(tuple, numbers), tuple(laws))
        return found, storage_key(self.function), here, law, given, self.precision, settings_of_torch()

    def _keep(self, graphs: dict[Any, "Graph | str | None"], key: Any, graph: "Graph | str | None") -> None:
        if key is None:
            return
        graphs[key] = graph
        for old in list(graphs)[:-KINDS_KEPT]:
            del graphs[old]


def _anchor(function: Callable[..., Any]) -> Any:
    """What outlives a callable that is made anew for each run: its code, or its class."""
    if isinstance(function, nn.Module):
        return function
    function = getattr(function, "func", function)  # of a partial
    return getattr(function, "__code__", None) or type(function)
