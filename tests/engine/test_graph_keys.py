"""What a graph depends on beside values: named by its key, or noticed when a call writes to it."""

import pytest
import torch
from torch import nn

import hatebm
from hatebm.energies.closure import first_difference, snapshot
from hatebm.engine.graphs.cache_key import forward_key, storage_key

N, D = 6, 5
FACTOR = 2.0


class Scaled(nn.Module):
    offset = 1.0

    def __init__(self):
        super().__init__()
        self.inner, self.scale = nn.Linear(D, 3), 1.5
        self.register_buffer("shift", torch.zeros(3))

    def forward(self, x):
        return times_factor(torch.tanh(self.inner(x) + self.shift)).sum(1) * self.scale + self.offset


def times_factor(x):
    return FACTOR * x


CHANGES = {
    "an attribute": lambda module, patch: setattr(module, "scale", 2.5),
    "a global": lambda module, patch: patch.setitem(globals(), "FACTOR", 3.0),
    "the class": lambda module, patch: patch.setattr(Scaled, "offset", 4.0),
    "the mode": lambda module, patch: module.train(),
    "a part's attribute": lambda module, patch: setattr(module.inner, "extra", 1),
    "a part": lambda module, patch: setattr(module, "inner", nn.Sequential(module.inner)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_module_reads_is_part_of_its_key(change, monkeypatch):
    module = Scaled().eval()
    before = forward_key(module)
    assert before is not None
    assert before == forward_key(module)
    change(module, monkeypatch)
    assert forward_key(module) != before


def test_a_module_that_may_read_anything_has_no_key():
    class Asks(nn.Module):
        def forward(self, x):
            return x if WHO_KNOWS else -x

    class AsksAClass(nn.Module):
        def forward(self, x):
            return x * Counts.factor

    class Odd(Scaled):
        def __call__(self, x):
            return x.sum(1)

    class Looks(Scaled):
        def __getattr__(self, name):
            return super().__getattr__(name)

    module = Scaled()
    module.scale = torch.ones(())
    assert forward_key(Asks()) is None
    assert forward_key(Odd()) is None
    assert forward_key(Looks()) is None
    assert forward_key(AsksAClass()) is None
    assert forward_key(module) is None
    module.scale, module.unnamed = 1.5, torch.zeros(3)
    assert forward_key(module) is not None


def test_functions_that_a_module_holds_are_read_too(monkeypatch):
    module = hatebm.product(times_factor, nn.Linear(D, 1))
    parametrized = nn.utils.parametrizations.spectral_norm(Doubled(D, 1)).eval()
    before, parametrized_before = forward_key(module), forward_key(parametrized)
    assert before is not None
    assert parametrized_before is not None
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert forward_key(module) != before
    assert forward_key(parametrized) != parametrized_before


class Doubled(nn.Linear):
    def forward(self, x):
        return times_factor(super().forward(x))


WHO_KNOWS = torch.Generator()


def test_new_storage_is_noticed_and_new_values_are_not():
    module = Scaled()
    before = storage_key(module)
    with torch.no_grad():
        module.inner.weight.mul_(2)
        module.shift.add_(1)
    assert storage_key(module) == before
    module.inner.weight.data = module.inner.weight.data.clone()
    assert storage_key(module) != before
    before = storage_key(module)
    module.shift = torch.ones(3)
    assert storage_key(module) != before


class Counts(nn.Module):
    factor = 1.0

    def __init__(self):
        super().__init__()
        self.calls, self.register, self.last = 0, [], torch.zeros(())
        self.norm = nn.BatchNorm1d(D)

    def forward(self, x, how=None):
        if how == "number":
            self.calls += 1
        elif how == "list":
            self.register.append(1)
        elif how == "in place":
            self.last += 1
        elif how == "norm":
            x = self.norm(x)
        return x.sum(1)


@pytest.mark.parametrize("how", ["number", "list", "in place", "norm", None], ids=str)
@pytest.mark.parametrize("wrap", [False, True], ids=["module", "function"])
def test_a_call_that_writes_is_noticed(how, wrap):
    module = Counts()
    function = (lambda x: module(x, how)) if wrap else module
    before = snapshot(function)
    module(torch.randn(N, D), how)
    assert (first_difference(before, snapshot(function)) is None) == (how is None)


def test_a_rebound_name_is_noticed():
    calls = 0

    def energy(x):
        nonlocal calls
        calls += 1
        return x.sum(1)

    before = snapshot(energy)
    energy(torch.zeros(1, 1))
    assert first_difference(before, snapshot(energy)) == "calls"
