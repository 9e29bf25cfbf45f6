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
from hatebm.energies.precision import as_set, ieee_switches, is_ieee, reduced, without_autocast
from hatebm.engine.graphs.runs import GraphRuns
from hatebm.engine.prepare import Fitted, prepare
from hatebm.engine.prepare.callables import as_module, standing
from hatebm.engine.prepare.precision import REDUCED, check_precision, gradient_error, in_words
from hatebm.engine.prepare.recognition import kernel_of
from hatebm.engine.prepare.rewritten import described
from hatebm.engine.prepare.twin import twin
from hatebm.engine.whole import WholeRuns
from hatebm.ops.library import is_traced

STEPWISE = ", not in one kernel: steps keep their graph"


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
    """Prepares the energy when a run begins; ``compile`` and ``precision`` as in :class:`hatebm.Chain`.

    ``corrected`` chains compare energies in IEEE float32 between gradients that are not.
    """

    def __init__(self, compile: str | bool, precision: str | None, device: torch.device, corrected: bool) -> None:
        check_precision(precision, device)
        self.compile, self.precision, self.device, self.corrected = compile, precision, device, corrected
        self._notes: tuple[str, ...] = ("no run yet",)
        self._ieee, self._precise, self._error = False, "", None
        self._plain: Callable[[], AbstractContextManager[None]] = nullcontext  # "float32" under autocast
        self._began, self._speed = 0.0, ""
        self._graphed = ""
        self._kernel: Any | None = None
        self._followed: nn.Module | None = None  # the energy as a module, where it was followed
        self._standing: Any = None  # of it at the last look

    def begin(
        self, potential: Potential, modules: Sequence[nn.Module], t: int, state: list[Tensor], called_back: bool
    ) -> None:
        """Give the potential its prepared form, in the mode and with the weights of the run.

        ``called_back`` says that somebody may change what the energy names while the run goes on.
        """
        if torch.compiler.is_compiling():
            return
        potential.within, potential.reduced = self._within()
        self._plain = potential.within if self.precision == "float32" else nullcontext
        self._kernel = self._followed = None
        with self._plain():
            potential.prepared, self._notes = self._prepared(potential, t, state)
        self._standing = standing(self._followed) if called_back and self._followed is not None else None
        self._precise = in_words(self.precision, self.device, self._ieee)
        if self.precision in REDUCED:
            settled = not any(getattr(part, "training", False) for part in modules)
            if settled and self._error is None and potential.grad_fn is None and not potential.kwargs(t):
                self._error = gradient_error(potential, self.precision, t, state)
        self._began = time.perf_counter()

    def go_on(self, potential: Potential, t: int, state: list[Tensor], shortcuts: "Shortcuts") -> None:
        """Prepare the energy again before step t where a callback has changed what it names."""
        if self._standing is None or self._standing == (now := standing(as_module(potential.energy))):
            return
        with self._plain():
            potential.prepared, self._notes = self._prepared(potential, t, state)
            if shortcuts.kernel is not None:
                shortcuts.kernel.renew(self._kernel)
        self._standing = now

    def switches(self) -> AbstractContextManager[None]:
        """What a run keeps other threads from switching, unless every gradient does."""
        if torch.compiler.is_compiling():
            return nullcontext()
        self._ieee = is_ieee(self.device)
        if self._ieee and self.device.type != "cuda":
            return nullcontext()
        if self.precision == "float32":
            return ieee_switches(self.device)
        by_turns = self.precision in REDUCED or (self.corrected and not self._ieee)
        return nullcontext() if by_turns else as_set(self.device)

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
            return Shortcuts(None, None)
        parts = (form, blocks, potential, state, watch, transition, gathering)
        with self._plain():
            kernel = WholeRuns(*parts, self._kernel, self.precision)
            own_bits = any(hasattr(type(term), "in_kernel") for term in kernel.terms)  # of which a graph knows nothing
            on_cuda = self.device.type == "cuda" and not own_bits
            return Shortcuts(kernel, GraphRuns(*parts, self.precision) if on_cuda else None, self._plain)

    def end(self, n_steps: int, shortcuts: "Shortcuts") -> None:
        """Note the speed of a run, how many of its steps went in the energy's own kernel or why none, and graphs."""
        if not torch.compiler.is_compiling():
            seconds = max(time.perf_counter() - self._began, 1e-9)
            kernel = shortcuts.kernel.note() if shortcuts.kernel else STEPWISE if self._kernel is not None else ""
            if shortcuts.kernel and not shortcuts.kernel.refused:
                self._precise = in_words("float32", self.device)
            left = n_steps - (shortcuts.kernel.taken if shortcuts.kernel else 0)
            self._graphed = shortcuts.graphs.note() if shortcuts.graphs and left else ""
            self._speed = f"{n_steps} steps{kernel}, {n_steps / seconds:.4g} steps/s"

    def report(self) -> str:
        """A few lines: what was prepared, what was left alone and why, precision, speed of the last run."""
        measured = self._error is not None and self._precise in REDUCED
        error = f", relative gradient error {self._error:.2g} at the start" if measured else ""
        precise = self._precise or in_words(self.precision, self.device)
        lines = [*self._notes, *filter(None, [self._graphed]), f"precision: {precise}{error}"]
        return "\n".join(lines + ([f"last run: {self._speed}"] if self._speed else []))

    def _within(self) -> tuple[Callable[[], AbstractContextManager[None]], bool]:
        """The context of each gradient, and whether it is none of IEEE float32."""
        if self.precision in REDUCED:
            return functools.partial(reduced, self.precision, self.device), True
        if self.precision == "float32":
            plain = functools.partial(without_autocast, self.device)
            return nullcontext if self._ieee else plain, False
        if self._ieee:
            return nullcontext, False
        return functools.partial(as_set, self.device) if self.corrected else nullcontext, True

    def _prepared(
        self, potential: Potential, t: int, state: list[Tensor]
    ) -> tuple[Callable[..., Tensor] | None, tuple[str, ...]]:
        module = getattr(potential.energy, "_orig_mod", None) if self.compile in ("max", True) else None
        if module is not None and not isinstance(module, torch.jit.ScriptModule):
            alone = twin(module, Tensor.detach)  # compiled code computes the gradient of every weight that asks
            return torch.compile(alone), (f"{type(module).__name__} through torch.compile",)
        if self.compile != "auto":
            return None, (f"the energy as it is: compile={self.compile!r}",)
        energy = None if potential.energy is None else as_module(potential.energy)
        self._kernel = None if energy is None else kernel_of(energy, state)
        if potential.grad_fn is not None:
            return None, ("the gradient as it is: grad_fn was given",)
        self._followed, kwargs = energy, potential.kwargs(t)
        if self._kernel is not None:
            return None, (f"{described(energy)} has a kernel of its own",)
        found = prepare(energy, state, kwargs)
        if potential.changes:
            return Fitted(energy, state, kwargs, found.energy), found.notes
        return (None if found.energy is energy else found.energy), found.notes


class Shortcuts:
    """What takes stretches of steps of one run at once: the energy's own kernel, CUDA graphs."""

    def __init__(
        self,
        kernel: WholeRuns | None,
        graphs: GraphRuns | None,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.kernel, self.graphs, self.within = kernel, graphs, within
        self._takers = [taker for taker in (kernel, graphs) if taker is not None and not taker.refused]

    def __call__(self, t: int, n_steps: int) -> int:
        """Advance the state by at most ``n_steps`` from step t; returns by how many, 0 where a step is a step."""
        with self.within():
            for take in self._takers:
                if taken := take(t, n_steps):
                    return taken
        return 0
