"""A user's network made fast for its gradient in the state: the same function, to float32 rounding.

``prepare(energy, state)`` at the beginning of a run follows the network (``tracing``), finds what can be rewritten
exactly (``rewrites``, ``placement``), chooses memory layout and parts by the network's shapes alone (``rules``), and
checks the outcome once against the network itself (``probe``). What it cannot follow it leaves alone and says why. A
network is prepared once for each kind of state.
"""

import copy
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from hatebm.energies.composition import Composition, Mixture, Negate, Product
from hatebm.energies.hat import HatEnergy
from hatebm.engine.prepare import rules
from hatebm.engine.prepare.placement import BEGUN, FILTERED
from hatebm.engine.prepare.probe import COARSE, TOLERANCE, Outcome, copied, joined, outcome, probe_state, same
from hatebm.engine.prepare.rewrites import KEPT, rewrite
from hatebm.engine.prepare.rewritten import Bound, Rewritten, compiled, described
from hatebm.engine.prepare.tracing import NothingDrawn, Refused, is_hooked, signature, traced
from hatebm.ops.library import is_traced

Energy = Callable[..., Tensor]
KINDS_KEPT = 8  # of state and mode, for each network
_lock = threading.RLock()  # one thread at a time rewrites, and tracing is for one alone
_cache: weakref.WeakKeyDictionary[nn.Module, dict[Any, Rewritten]] = weakref.WeakKeyDictionary()


class Prepared(NamedTuple):
    """An energy for one run, and what was done to it or why nothing was."""

    energy: Energy
    notes: tuple[str, ...]


def prepare(energy: Energy, state: Sequence[Tensor]) -> Prepared:
    r"""The energy, or generator, to call in a run that begins at ``state``: the same function, faster where it can be.

    Call it when modules are in the run's mode. What comes back reads the weights when it is called, and
    gives first derivatives in the state alone.

    Args:
        energy: module, (n, \*sample) to (n,), (n, 1) or a scalar, or to images (n, c, h, w); all else is left alone.
        state: the blocks, (n, \*sample).
    """
    try:
        with _lock:
            return _prepared(energy, state)
    except Refused as reason:
        return Prepared(energy, (f"{described(energy)} left alone: {reason}",))


def _prepared(energy: Energy, state: Sequence[Tensor]) -> Prepared:
    _check(energy, state)
    if type(energy) is HatEnergy:
        return _hat(energy, state)
    if type(energy) in (Product, Mixture, Negate):
        return _composition(energy, state)
    if any(isinstance(part, torch.jit.ScriptModule) for part in energy.modules()):
        raise Refused("TorchScript is compiled")
    pixels = [len(x) * math.prod(x.shape[2:]) for x in state if x.dim() == 4]
    if not pixels and not _has_convolution(energy):
        raise Refused("it has no convolution")
    if len(pixels) == len(state) and rules.bound_on_work(energy, sum(pixels)) < rules.WORTH:
        raise Refused("its convolutions are too small to pay" if _has_convolution(energy) else "it has no convolution")
    key = _key(energy, state)
    kinds = _cache.setdefault(energy, {})
    if key not in kinds:
        kinds[key] = _rewritten_or_why_not(energy, state)
        for old in list(kinds)[:-KINDS_KEPT]:
            del kinds[old]
    found = kinds[key]
    if not found.function:
        raise Refused("; ".join(found.notes))
    notes = ", ".join(found.notes)
    return Prepared(Bound(found, energy), (f"{described(energy)}: {notes}",))


def _check(energy: Energy, state: Sequence[Tensor]) -> None:
    if not isinstance(energy, nn.Module):
        raise Refused("a function; as a torch.nn.Module it could be followed")
    if torch.compiler.is_compiling() or any(is_traced(x) or x.device.type not in ("cpu", "cuda") for x in state):
        raise Refused("it runs under a compiler or without data")
    if not len(state[0]) or any(x.dtype != torch.float32 for x in state):
        raise Refused("the state is empty or not float32")
    if any(torch.is_autocast_enabled(x.device.type) for x in state):
        raise Refused("it runs under autocast")


def _key(energy: nn.Module, state: Sequence[Tensor]) -> Any:
    found = signature(energy)
    if found is None:  # then the trace itself is what tells
        graph = traced(energy, len(state))
        named = energy.named_modules(remove_duplicate=False)
        leaves = [(name, type(part), repr(part), part.training, is_hooked(part)) for name, part in named]
        found = (graph.python_code("self").src, tuple(leaves))
    return found, tuple((x.shape, x.device) for x in state)


def _rewritten_or_why_not(energy: nn.Module, state: Sequence[Tensor]) -> Rewritten:
    try:
        return _rewritten(energy, state)
    except Refused as reason:
        return Rewritten(None, None, False, (str(reason),))


def _rewritten(energy: nn.Module, state: Sequence[Tensor]) -> Rewritten:
    n, probe = len(state[0]), probe_state(state)
    on_cpu = all(x.device.type == "cpu" for x in state)
    graph, work, want = _followed(energy, probe)
    if n * work.total < rules.WORTH:
        raise Refused("its convolutions are too small to pay" if work.total else "it has no convolution")
    made = rewrite(energy, graph, filters=on_cpu)
    channels_last = on_cpu and (work.reduces or FILTERED in made or BEGUN in made)
    found = Rewritten(compiled(graph), None, channels_last, ())
    if channels_last and not _agrees(energy, found, [x.float() for x in probe], want, COARSE):
        graph, work, want = _followed(energy, probe)
        made = rewrite(energy, graph, filters=False)
        found = Rewritten(compiled(graph), None, False, ())
    if not _agrees(energy, found, probe, want, TOLERANCE):
        raise Refused("its rewritten form does not run, or gave other energies or gradients")
    size = rules.part_size(energy, work.largest, n) if on_cpu and work.result_dim < 4 else None
    notes = [f"{count} {name}" for name, count in made.items()]
    notes += ["channels_last"] * found.channels_last
    if size is not None and _comes_in_parts(graph):
        size = None
        notes.append("all chains together, since the energy comes in a dict")
    if size is not None:
        if _acts_on_each_chain(energy, probe, want):
            notes.append(f"parts of {size} chains")
        else:
            size = None
            notes.append("one part, since a chain's energy depends on the others or is their sum")
    if not set(made) - {KEPT} and not found.channels_last and size is None:
        raise Refused("nothing found that would pay")
    return found._replace(part=size, notes=tuple(notes))


def _followed(energy: nn.Module, probe: Sequence[Tensor]) -> tuple[fx.Graph, rules.Work, Outcome]:
    """The graph with the shapes of its nodes on the probe, what it costs, and what comes out."""
    graph = traced(energy, len(probe))
    try:
        want, double = outcome(energy, nn.Module.__call__, probe), copied(energy, torch.float64)
        work = rules.Work(double, graph, len(probe[0]))
        with NothingDrawn(), torch.no_grad():
            work.run(*probe)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"it could not be checked in float64 ({type(error).__name__})") from error
    return graph, work, want


def _agrees(energy: nn.Module, found: Rewritten, probe: Sequence[Tensor], want: Outcome, tolerance: float) -> bool:
    try:
        return same(outcome(energy, lambda module, *blocks: Bound(found, module)(*blocks), probe), want, tolerance)
    except Exception:  # a network may need its own layout, or write in place what a rewrite reads later
        return False


def _comes_in_parts(graph: fx.Graph) -> bool:
    return isinstance(next(reversed(graph.nodes)).args[0], dict)


def _acts_on_each_chain(energy: nn.Module, probe: Sequence[Tensor], want: Outcome) -> bool:
    n = len(probe[0])
    if want[0].dim() == 0 or n < 3:
        return False
    try:
        parts = [outcome(energy, nn.Module.__call__, [x[here] for x in probe]) for here in (slice(2), slice(2, n))]
    except Exception:  # a network may be unable to take fewer chains
        return False
    whole = joined(parts, (2, n - 2))
    return whole is not None and same(whole, want)


def _hat(energy: HatEnergy, state: Sequence[Tensor]) -> Prepared:
    if is_hooked(energy):
        raise Refused("it has hooks")
    if len(state) != 2:
        raise Refused("it wants two blocks")
    hat, generator = prepare(energy.hat, [state[1]]), prepare(energy.generator, [state[0]])
    notes = (*hat.notes, *generator.notes)
    if hat.energy is energy.hat and generator.energy is energy.generator:
        return Prepared(energy, notes)
    return Prepared(lambda z, y: hat.energy(energy.generated(z, generator.energy) + y), notes)


def _composition(energy: Composition, state: Sequence[Tensor]) -> Prepared:
    if is_hooked(energy) or is_hooked(energy.experts):
        raise Refused("it has hooks")
    experts = [prepare(expert, state) for expert in energy.experts]
    notes = tuple(note for expert in experts for note in expert.notes)
    if all(expert.energy is own for expert, own in zip(experts, energy.experts, strict=True)):
        return Prepared(energy, notes)
    twin = copy.copy(energy)
    twin.__dict__["experts"] = [expert.energy for expert in experts]
    return Prepared(twin, notes)


def _has_convolution(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in module.modules())
