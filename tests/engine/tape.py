"""What stands for CUDA graphs without a GPU: the tensor operations of a step, recorded and run again at their places.

As in a graph, no Python runs in a replay, tensors are where they were, numbers are what they were, and whatever waits
for a tensor's value, or makes one of the host's numbers, ends the recording.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from hatebm.dynamics.transitions import adjusted, hamiltonian
from hatebm.engine.engine import Engine, Shortcuts
from hatebm.engine.graphs import graph, runs
from hatebm.ops import native

KERNELS = ("langevin_step_", "langevin_ratio", "metropolis", "residual_add")
WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default)
_tapes = []


class Tape(TorchDispatchMode):
    """Records while it is entered."""

    def __init__(self):
        super().__init__()
        self.calls = []

    @classmethod
    def _should_skip_dynamo(cls):  # what says so to torch._dynamo imports it, which takes a second
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in WAITS:
            raise RuntimeError(f"a step waits for the device: {function}")
        return self.record(function, args, kwargs or {}, function.is_view)

    def record(self, function, args, kwargs, is_view=False):
        made = function(*args, **kwargs)
        if not is_view:
            self.calls.append((function, *tree_map(_bare, (args, kwargs, made))))
        return made

    @torch.no_grad()
    def replay(self):
        for function, args, kwargs, made in self.calls:
            again = tree_leaves(function(*args, **kwargs))
            for old, new in zip(tree_leaves(made), again, strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _bare(value):
    return value.detach() if isinstance(value, torch.Tensor) else value


class Recorder:
    """Records steps on tapes, and plays them."""

    def __init__(self):
        self.captured_steps = self.replays = 0
        self.looked_at = []

    def look(self, step, function, device):
        self.looked_at.append(step)
        step()

    def captured(self, step):
        self.captured_steps += 1
        tape, places = Tape(), tree_leaves(vars(step.buffers))
        before = [(v, v.clone()) for v in places if isinstance(v, torch.Tensor)]
        _tapes.append(tape)
        try:
            with tape:
                step()
        finally:
            _tapes.pop()
            for v, old in before:  # a capture takes no step
                v.copy_(old)
        return tape

    def replay(self, tape, times):
        self.replays += times
        for _ in range(times):
            tape.replay()


def _taped(kernel):
    """A kernel, which torch does not see, as one operation."""

    def unseen(*args, **kwargs):
        with _disable_current_modes():
            return kernel(*args, **kwargs)

    return lambda *args, **kwargs: (_tapes[-1].record if _tapes else _call)(unseen, args, kwargs)


def _call(function, args, kwargs):
    return function(*args, **kwargs)


class Moment:
    """No stream and no event."""

    def __init__(self, *_):
        pass

    def wait_event(self, event):
        pass

    record = wait_event


@pytest.fixture
def recorder(monkeypatch):
    """Chains with compile="auto" replay tapes, in the form of a step that waits for nobody."""
    one = Recorder()
    for name in KERNELS:
        monkeypatch.setattr(native, name, _taped(getattr(native, name)))
    for module in (adjusted, hamiltonian):
        monkeypatch.setattr(module, "surely_finite", lambda x: False)
    monkeypatch.setattr(graph, "recorder_of", lambda device: one)
    monkeypatch.setattr(graph, "unrepeatable", one.look)
    monkeypatch.setattr(torch.cuda, "Event", Moment)
    monkeypatch.setattr(torch.cuda, "current_stream", Moment)
    without = Engine.shortcuts

    def shortcuts(engine, *parts, stepwise):
        found = without(engine, *parts, stepwise=stepwise)
        if found.kernel is None:
            return found
        return Shortcuts(found.kernel, runs.GraphRuns(*parts, engine.precision), found.within)

    monkeypatch.setattr(Engine, "shortcuts", shortcuts)
    return one
