"""Runs of steps as replays of one captured CUDA graph, which is used again where it can be."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.facts import Gathering
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.transitions.form import Form, Transition
from hatebm.engine.graphs.arguments import is_known, structure_of, unreadable
from hatebm.engine.graphs.cache_key import forward_key, settings_of_torch, storage_key
from hatebm.engine.graphs.graph import TRIED, Graph, wanted
from hatebm.engine.graphs.refusals import alike, unfit
from hatebm.engine.graphs.static_buffers import Run, longest, table_shapes
from hatebm.engine.prepare.callables import code_of

LEAST = 16  # steps from which a graph pays at once; one that can be kept pays from the second such run on
TOO_FEW = "too few steps in a row"
KINDS_KEPT = 4  # of state, law and weights, for each module
_kept: weakref.WeakKeyDictionary[nn.Module, dict[Any, "Graph | str | None"]] = weakref.WeakKeyDictionary()
_refused: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()  # after a capture; no second is tried


class GraphRuns:
    """Takes runs of steps of a chain as replays of a graph, where there can be one.

    What a graph reads is where it was: weights updated in place are seen, the numbers of the law are read from a
    table, and the tensors among the energy's arguments from copies, so that others need no other graph. Everything
    else that the steps depend on is its key; a module whose every dependence can be told keeps its graphs, other
    callables get one for each run of steps.
    """

    def __init__(
        self,
        form: Form,
        blocks: Blocks,
        potential: Potential,
        state: list[Tensor],
        watch: Watch,
        transition: Transition,
        gathering: Gathering,
        precision: str | None,
    ) -> None:
        self.run = Run(form, blocks, state, transition, watch, gathering)
        self.potential, self.precision = potential, precision
        self.function = potential.energy if potential.grad_fn is None else potential.grad_fn
        self.replayed, self.idle = 0, ""
        self.differ = 0  # the step at which keyword arguments are known to be of another kind
        self.refused = unfit(blocks, potential, state) or _refused.get(_anchor(self.function))

    def __call__(self, t: int, n_steps: int) -> int:
        """Advance the state by at most ``n_steps`` from step t; returns by how many, 0 where a step is a step."""
        if self.refused or t < self.differ:
            return 0
        laws, asked = self.run.blocks.laws, n_steps
        n_steps = alike(laws, t, min(n_steps, longest(self.run)))
        if n_steps < 2:
            return self._waits(TOO_FEW if asked < 2 else "blocks that move change from step to step")
        kwargs = self.potential.kwargs(t)
        self.refused = unreadable(kwargs, self.run.device, self.potential.changes)
        if self.refused:
            return 0
        key = self._key(t, kwargs)
        graphs = {} if key is None else _kept.setdefault(self.function, {})
        graph = graphs.get(key)
        if isinstance(graph, str):
            self.refused = graph
            return 0
        if graph is None and n_steps < (LEAST if key not in graphs else TRIED + 1):
            self._keep(graphs, key, None)
            return self._waits(TOO_FEW)
        tells = wanted(graph.steps if graph else (), self.run, t, n_steps)
        if tells is not None and not self._lasts(t, kwargs, min(n_steps, TRIED if graph else LEAST)):
            return self._waits("the energy's arguments change in kind from step to step")
        if not self.potential.changes:  # else each step looks anew
            self.run.transition.arrive(t, self.run.state, self.run.moving_at(t))
        graph = graph or Graph(self.run, self.potential, t)
        taken = 0 if tells is None else self._captured(graph, t, tells)
        self._keep(graphs, key, self.refused or graph)
        if self.refused:
            return taken
        replayed = graph.advance(self.run, self.potential, t + taken, n_steps - taken)
        self.replayed += replayed
        return taken + replayed

    def note(self) -> str:
        """What to report; nothing where no step was asked for."""
        if self.replayed:
            rest = f"; refused later: {self.refused}" if self.refused else ""
            return f"CUDA graph: {self.replayed} steps replayed{rest}"
        if self.refused:
            return f"CUDA graph refused: {self.refused}"
        return f"CUDA graph: none, {self.idle}" if self.idle else ""

    def _waits(self, reason: str) -> int:
        """No step is taken, for the reason that is told where it was the first."""
        self.idle = self.idle or reason
        return 0

    def _captured(self, graph: Graph, t: int, tells: bool) -> int:
        """How many steps were taken on the way to a graph of such steps, or to the reason why there is none."""
        taken, self.refused = graph.capture(self.run, self.potential, self.function, t, tells)
        if self.refused and graph.tried:
            _refused[_anchor(self.function)] = self.refused
        return taken

    def _lasts(self, t: int, kwargs: dict[str, Any], n_steps: int) -> bool:
        """Whether the arguments of so many steps are of one kind, by a look at each."""
        structure = structure_of(kwargs, self.run.device)
        for i in range(1, n_steps if self.potential.changes else 1):
            if structure_of(self.potential.kwargs(t + i), self.run.device) != structure:
                self.differ = t + i
                return False
        return True

    def _key(self, t: int, kwargs: dict[str, Any]) -> Any:
        run, laws = self.run, self.run.blocks.laws
        structure = structure_of(kwargs, run.device)
        if not isinstance(self.function, nn.Module) or not is_known(structure):
            return None
        found = forward_key(self.function)
        if found is None:
            return None
        each = [
            (law.noise_at, law.clamp_at, tuple(law.reflect or ()), law.friction, *settings.items())
            for law, settings in zip(laws.each, laws.settings, strict=True)
        ]
        masks, ids = run.blocks.region.masks, run.blocks.noise.chain_ids
        given = (ids is None, *(mask is None for mask in masks), run.watch.wanted, structure, self.potential.changes)
        here = tuple((x.shape, x.stride(), x.device) for x in run.state)
        numbers = (table_shapes(laws), laws.flags, laws.may_rest)
        moving = tuple(map(tuple, laws.groups_at(t)))
        law = (laws.joint, run.form, run.blocks.backend, moving, *map(tuple, numbers), tuple(each))
        return found, storage_key(self.function), here, law, given, self.precision, settings_of_torch()

    def _keep(self, graphs: dict[Any, "Graph | str | None"], key: Any, graph: "Graph | str | None") -> None:
        if key is None:
            return
        graphs[key] = graph
        for old in list(graphs)[:-KINDS_KEPT]:
            del graphs[old]


def _anchor(function: Callable[..., Any]) -> Any:
    """What outlives a callable that is made anew for each run."""
    return function if isinstance(function, nn.Module) else code_of(function)
