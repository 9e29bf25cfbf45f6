"""What a chain's runs are prepared with, and what there is to tell of it."""

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.facts import Gathering
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.transitions.form import Form, Transition
from hatebm.engine.graphs.runs import GraphRuns
from hatebm.engine.prepare import prepare
from hatebm.engine.prepare.precision import as_set, check_precision, gradient_error, reduced
from hatebm.engine.prepare.twin import twin
from hatebm.engine.whole import WholeRuns
from hatebm.ops.library import is_traced


def through_compile(energy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The energy run through torch.compile, in a form that can be copied and pickled as the energy can."""
    return torch.compile(energy) if isinstance(energy, nn.Module) else Compiled(energy)


class Compiled:
    """A function run through torch.compile, and once more so where a copy or a pickle of it is taken up."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.compiled = function, torch.compile(function)

    def __call__(self, *state: Tensor, **kwargs: Any) -> Tensor:
        return self.compiled(*state, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Compiled, (self.function,)


class Engine:
    """Prepares the energy when a run begins; ``compile`` and ``precision`` as in :class:`hatebm.Chain`."""

    def __init__(self, compile: str | bool, precision: str, device: torch.device) -> None:
        check_precision(precision, device)
        self.compile, self.precision, self.device = compile, precision, device
        self._notes: tuple[str, ...] = ("no run yet",)
        self._error: float | None = None
        self._began, self._speed = 0.0, ""
        self._graphed: tuple[str, ...] = ()

    def begin(self, potential: Potential, modules: Sequence[nn.Module], t: int, state: list[Tensor]) -> None:
        """Give the potential its prepared form, in the mode and with the weights of the run."""
        if torch.compiler.is_compiling():
            return
        potential.prepared, self._notes = self._prepared(potential, t, state)
        if self.precision != "float32":
            potential.within = functools.partial(reduced, self.precision, self.device)
            potential.deciding = functools.partial(as_set, self.device)
            settled = not any(getattr(part, "training", False) for part in modules)
            if settled and self._error is None and potential.grad_fn is None and not potential.kwargs(t):
                self._error = gradient_error(potential, self.precision, t, state)
        self._began = time.perf_counter()

    def switches(self) -> AbstractContextManager[None]:
        """What a run keeps other threads from switching, whose gradients come in the precision as it is."""
        as_is = self.device.type != "cuda" or self.precision == "tf32" or torch.compiler.is_compiling()
        return nullcontext() if as_is else as_set(self.device)

    def shortcuts(
        self,
        form: Form,
        blocks: Blocks,
        potential: Potential,
        state: list[Tensor],
        watch: Watch,
        transition: Transition,
        gathering: Gathering,
        stepwise: bool,
    ) -> "Shortcuts":
        """What takes stretches of steps of this run at once; nothing where it is to go step by step."""
        if stepwise or self.compile != "auto" or is_traced(state[0]):
            return Shortcuts(None, None, gathering)
        kernel = WholeRuns(form, blocks, potential, state, watch, transition, gathering)
        on_cuda = self.device.type == "cuda"
        graphs = GraphRuns(form, blocks, potential, state, watch, self.precision) if on_cuda else None
        return Shortcuts(kernel, graphs, gathering)

    def end(self, n_steps: int, shortcuts: "Shortcuts") -> None:
        """Note the speed of a run, how many of its steps went in the energy's own kernel or why none, and graphs."""
        if not torch.compiler.is_compiling():
            seconds = max(time.perf_counter() - self._began, 1e-9)
            kernel = shortcuts.kernel.note() if shortcuts.kernel else ""
            self._graphed = (shortcuts.graphs.note(),) if shortcuts.graphs else ()
            self._speed = f"{n_steps} steps{kernel}, {n_steps / seconds:.4g} steps/s"

    def report(self) -> str:
        """A few lines: what was prepared, what was left alone and why, precision, speed of the last run."""
        error = "" if self._error is None else f", relative gradient error {self._error:.2g} at the start"
        lines = [*self._notes, *self._graphed, f"precision: {self.precision}{error}"]
        return "\n".join(lines + ([f"last run: {self._speed}"] if self._speed else []))

    def _prepared(
        self, potential: Potential, t: int, state: list[Tensor]
    ) -> tuple[Callable[..., Tensor] | None, tuple[str, ...]]:
        module = getattr(potential.energy, "_orig_mod", None) if self.compile in ("max", True) else None
        if module is not None and not isinstance(module, torch.jit.ScriptModule):
            alone = twin(module, Tensor.detach)  # compiled code computes the gradient of every weight that asks
            return torch.compile(alone), (f"{type(module).__name__} through torch.compile",)
        if self.compile != "auto":
            return None, (f"the energy as it is: compile={self.compile!r}",)
        if potential.grad_fn is not None:
            return None, ("the gradient as it is: grad_fn was given",)
        if potential.changes or potential.kwargs(t):
            return None, ("the energy as it is: it takes keyword arguments",)
        if hasattr(potential.energy, "advance_"):
            return None, (f"{type(potential.energy).__name__} has a kernel of its own",)
        found = prepare(potential.energy, state)
        return (None if found.energy is potential.energy else found.energy), found.notes


class Shortcuts:
    """What takes stretches of steps of one run at once: the energy's own kernel, CUDA graphs."""

    def __init__(self, kernel: WholeRuns | None, graphs: GraphRuns | None, gathering: Gathering) -> None:
        self.kernel, self.graphs, self.gathering = kernel, graphs, gathering
        self._takers = [taker for taker in (kernel, graphs) if taker is not None and not taker.refused]

    def __call__(self, t: int, n_steps: int) -> int:
        """Advance the state by at most ``n_steps`` from step t; returns by how many, 0 where a step is a step."""
        for take in self._takers:
            if taken := take(t, n_steps if take is self.kernel else self.gathering.untold(t, n_steps)):
                return taken
        return 0
