"""A user's network made fast for its gradient in the state: the same function, to float32 rounding.

``prepare(energy, state)`` at the beginning of a run follows the network (``tracing``), finds what can be rewritten
exactly (``rewrites``, ``placement``), chooses memory layout and parts by the network's shapes alone (``rules``), and
checks the outcome once against the network itself (``probe``). What it cannot follow it leaves alone and says why. A
network is prepared once for each kind of state.
"""

import collections
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
from hatebm.engine.prepare.arguments import Arguments, arguments_of, kinds_of, like, of_chains
from hatebm.engine.prepare.callables import Called, anchor_of, as_module, code_of
from hatebm.engine.prepare.placement import BEGUN, FILTERED
from hatebm.engine.prepare.probe import COARSE, TOLERANCE, Outcome, copied, joined, outcome, probe_state, same
from hatebm.engine.prepare.rewrites import KEPT, rewrite
from hatebm.engine.prepare.rewritten import Bound, Rewritten, described, split
from hatebm.engine.prepare.signatures import Refused, signature
from hatebm.engine.prepare.tracing import NothingDrawn, is_hooked, traced
from hatebm.ops.library import is_traced

Energy = Callable[..., Tensor]
COMPUTED = "computed weights kept for the run"
KINDS_KEPT = 8  # of state and mode, for each network
_lock = threading.RLock()  # one thread at a time rewrites, and tracing is for one alone
_cache: weakref.WeakKeyDictionary[nn.Module, dict[Any, Rewritten]] = weakref.WeakKeyDictionary()
_followed_before: weakref.WeakKeyDictionary[nn.Module, collections.Counter] = weakref.WeakKeyDictionary()


class Prepared(NamedTuple):
    """An energy for one run, and what was done to it or why nothing was."""

    energy: Energy
    notes: tuple[str, ...]


def prepare(energy: Energy, state: Sequence[Tensor], kwargs: dict[str, Any] | None = None) -> Prepared:
    r"""The energy, or generator, to call in a run that begins at ``state``: the same function, faster where it can be.

    Call it when modules are in the run's mode. What comes back reads weights and the tensors and numbers among its
    keyword arguments when it is called, and gives first derivatives in the state alone.

    Args:
        energy: callable, (n, \*sample) to (n,), (n, 1) or a scalar, or to images (n, c, h, w).
        state: the blocks, (n, \*sample).
        kwargs: the energy's keyword arguments; those of a later call are of the same kinds.
    """
    try:
        with _lock:
            return _prepared(energy, state, kwargs or {})
    except Refused as reason:
        return Prepared(energy, (f"{described(energy)} left alone: {reason}",))


class Fitted:
    """An energy whose keyword arguments are others at each step: a prepared form for each of their first few kinds."""

    def __init__(self, energy: Energy, state: Sequence[Tensor], kwargs: dict[str, Any], prepared: Energy) -> None:
        self.energy, self.state = energy, [x.detach() for x in state]
        self.forms = {kinds_of(kwargs): prepared}

    def __call__(self, /, *state: Tensor, **kwargs: Any) -> Tensor:
        kinds = kinds_of(kwargs)
        if kinds not in self.forms and len(self.forms) < KINDS_KEPT:
            self.forms[kinds] = prepare(self.energy, self.state, kwargs).energy
        return self.forms.get(kinds, self.energy)(*state, **kwargs)


def _prepared(energy: Energy, state: Sequence[Tensor], kwargs: dict[str, Any]) -> Prepared:
    _check(state)
    if type(energy) is HatEnergy:
        return _hat(energy, state, kwargs)
    if type(energy) in (Product, Mixture, Negate):
        return _composition(energy, state, kwargs)
    name, energy = described(energy), as_module(energy)
    given = arguments_of(kwargs | energy.tensors if type(energy) is Called else kwargs)
    if any(isinstance(part, torch.jit.ScriptModule) for part in energy.modules()):
        raise Refused("TorchScript is compiled")
    pixels = [len(x) * math.prod(x.shape[2:]) for x in state if x.dim() == 4]
    per_pixel = rules.bound_on_work(energy)
    if not per_pixel and not pixels:
        raise Refused("it has no convolution")
    if len(pixels) == len(state) and per_pixel * sum(pixels) < rules.WORTH:
        raise Refused("its convolutions are too small to pay" if per_pixel else "it has no convolution")
    key = _key(energy, state, given)
    kinds = _cache.setdefault(anchor_of(energy), {})
    if key not in kinds:
        _check_settled(energy, key[1:])
        kinds[key] = _rewritten_or_why_not(energy, state, given)
        for old in list(kinds)[:-KINDS_KEPT]:
            del kinds[old]
    found = kinds[key]
    if not found.function:
        raise Refused("; ".join(found.notes))
    notes = ", ".join(found.notes)
    return Prepared(Bound(found, energy), (f"{name}: {notes}",))


def _check(state: Sequence[Tensor]) -> None:
    if torch.compiler.is_compiling() or any(is_traced(x) or x.device.type not in ("cpu", "cuda") for x in state):
        raise Refused("it runs under a compiler or without data")
    if not len(state[0]) or any(x.dtype != torch.float32 for x in state):
        raise Refused("the state is empty or not float32")
    if any(torch.is_autocast_enabled(x.device.type) for x in state):
        raise Refused("it runs under autocast")


def _key(energy: nn.Module, state: Sequence[Tensor], given: Arguments) -> Any:
    found = signature(energy)
    if found is None:  # then the trace itself is what tells
        graph = traced(energy, len(state), *given)
        named = energy.named_modules(remove_duplicate=False)
        leaves = [(name, type(part), repr(part), part.training, is_hooked(part)) for name, part in named]
        found = (graph.python_code("self").src, tuple(leaves))
    return found, tuple((x.shape, x.device) for x in state), given.key()


def _check_settled(energy: nn.Module, given: Any) -> None:
    """Refuse a callable that names other constants run after run: each would be followed anew."""
    if type(energy) is Called:
        seen = _followed_before.setdefault(anchor_of(energy), collections.Counter())
        seen[called := (code_of(energy.function), given)] += 1
        if seen[called] > KINDS_KEPT:
            raise Refused("the numbers that it names change from run to run; as tensors they may")


def _rewritten_or_why_not(energy: nn.Module, state: Sequence[Tensor], given: Arguments) -> Rewritten:
    try:
        return _rewritten(energy, state, given)
    except Refused as reason:
        return Rewritten(None, None, None, (), None, False, (str(reason),))


def _rewritten(energy: nn.Module, state: Sequence[Tensor], given: Arguments) -> Rewritten:
    n, probe = len(state[0]), probe_state(state)
    given = given._replace(inputs=of_chains(given.inputs, slice(len(probe[0])), n))
    on_cpu = all(x.device.type == "cpu" for x in state)
    graph, work, want = _followed(energy, probe, given)
    if n * work.total < rules.WORTH:
        raise Refused("its convolutions are too small to pay" if work.total else "it has no convolution")
    made = rewrite(energy, graph, filters=on_cpu)
    channels_last = on_cpu and (work.reduces or FILTERED in made or BEGUN in made)
    function, fixed, still, computed = split(graph, still=on_cpu)
    found = Rewritten(function, fixed, still, tuple(given.inputs), None, channels_last, ())
    if channels_last and not _agrees(energy, found, [x.float() for x in probe], given, want, COARSE):
        graph, work, want = _followed(energy, probe, given)
        made = rewrite(energy, graph, filters=False)
        function, fixed, still, computed = split(graph, still=on_cpu)
        found = found._replace(function=function, fixed=fixed, still=still, channels_last=False)
    if not _agrees(energy, found, probe, given, want, TOLERANCE):
        raise Refused("its rewritten form does not run, or gave other energies or gradients")
    size = rules.part_size(energy, work.largest, n) if on_cpu and work.result_dim < 4 else None
    made |= {COMPUTED: computed} if computed else {}
    notes = [f"{count} {name}" for name, count in made.items()]
    notes += ["channels_last"] * found.channels_last
    if size is not None and _comes_in_parts(graph):
        size = None
        notes.append("all chains together, since the energy comes in a dict")
    if size is not None:
        if _acts_on_each_chain(energy, probe, given, want):
            notes.append(f"parts of {size} chains")
        else:
            size = None
            notes.append("one part, since a chain's energy depends on the others or is their sum")
    if not set(made) - {KEPT} and not found.channels_last and size is None:
        raise Refused("nothing found that would pay")
    return found._replace(part=size, notes=tuple(notes))


def _followed(energy: nn.Module, probe: Sequence[Tensor], given: Arguments) -> tuple[fx.Graph, rules.Work, Outcome]:
    """The graph with the shapes of its nodes on the probe, what it costs, and what comes out."""
    graph = traced(energy, len(probe), *given)
    try:
        want = outcome(energy, nn.Module.__call__, probe, given.inputs | given.constants)
        work = rules.Work(copied(energy, torch.float64), graph, len(probe[0]))
        with NothingDrawn(), torch.no_grad():
            work.run(*probe, *like(given.inputs, torch.float64).values())
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"it could not be checked in float64 ({type(error).__name__})") from error
    return graph, work, want


def _agrees(
    energy: nn.Module, found: Rewritten, probe: Sequence[Tensor], given: Arguments, want: Outcome, tolerance: float
) -> bool:
    def function(module: nn.Module, /, *blocks: Tensor, **inputs: Any) -> Tensor:
        return Bound(found, module)(*blocks, **inputs)

    try:
        return same(outcome(energy, function, probe, given.inputs), want, tolerance)
    except Exception:  # a network may need its own layout, or write in place what a rewrite reads later
        return False


def _comes_in_parts(graph: fx.Graph) -> bool:
    return isinstance(next(reversed(graph.nodes)).args[0], dict)


def _acts_on_each_chain(energy: nn.Module, probe: Sequence[Tensor], given: Arguments, want: Outcome) -> bool:
    n, kwargs = len(probe[0]), given.inputs | given.constants
    if want[0].dim() == 0 or n < 3:
        return False
    try:
        parts = [
            outcome(energy, nn.Module.__call__, [x[here] for x in probe], of_chains(kwargs, here, n))
            for here in (slice(2), slice(2, n))
        ]
    except Exception:  # a network may be unable to take fewer chains
        return False
    whole = joined(parts, (2, n - 2))
    return whole is not None and same(whole, want)


def _hat(energy: HatEnergy, state: Sequence[Tensor], kwargs: dict[str, Any]) -> Prepared:
    if is_hooked(energy):
        raise Refused("it has hooks")
    if len(state) != 2:
        raise Refused("it wants two blocks")
    hat, generator = prepare(energy.hat, [state[1]], kwargs), prepare(energy.generator, [state[0]])
    notes = (*hat.notes, *generator.notes)
    if hat.energy is energy.hat and generator.energy is energy.generator:
        return Prepared(energy, notes)
    return Prepared(lambda z, y, **own: hat.energy(energy.generated(z, generator.energy) + y, **own), notes)


def _composition(energy: Composition, state: Sequence[Tensor], kwargs: dict[str, Any]) -> Prepared:
    if is_hooked(energy) or is_hooked(energy.experts):
        raise Refused("it has hooks")
    own = zip(energy.experts, energy.arguments(kwargs), strict=True)
    experts = [prepare(expert, state, given) for expert, given in own]
    notes = tuple(note for expert in experts for note in expert.notes)
    if all(expert.energy is own for expert, own in zip(experts, energy.experts, strict=True)):
        return Prepared(energy, notes)
    twin = copy.copy(energy)
    twin.__dict__["experts"] = [expert.energy for expert in experts]
    return Prepared(twin, notes)
