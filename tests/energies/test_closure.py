"""Which modules a callable can reach: they run in the chain's mode, and no other is touched."""

import functools
import sys
import types
import weakref
from collections import ChainMap, UserDict
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import hatebm
from hatebm.energies.closure import modules_of, tensors_of

D = 4
NET = nn.Identity()  # what the functions below name as a global
HOLDER = types.SimpleNamespace(net=None)
LIBRARY = types.ModuleType("library")
PACKAGE = types.ModuleType("package")
PACKAGE.library = sys.modules["library_of_nets"] = LIBRARY


def drops():
    return nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


class Static:
    net = None

    @staticmethod
    def energy(x):
        return Static.net(x)


class Model:
    """No module, as research code has it."""

    def __init__(self, net):
        self.parts = {"nets": [net]}

    @property
    def first(self):
        return self.parts["nets"][0]

    def energy(self, x):
        return -self.first(x)

    def __call__(self, x):
        return self.energy(x)


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)


class Private:
    __slots__ = ("__net",)

    def __init__(self, net):
        self.__net = net

    def __call__(self, x):
        return self.__net(x)


class Ensemble(list):
    net = None

    def __call__(self, x):
        return self.net(x)


class Cached:
    @functools.cached_property
    def made(self):
        return HOLDER.net

    def __call__(self, x):
        return self.made(x)


class PartOfAMethod:
    twice = functools.partialmethod(lambda self, factor, x: factor * HOLDER.net(x), 2.0)

    def __call__(self, x):
        return self.twice(x)


@dataclass
class Data:
    nets: list = field(default_factory=list)

    def __call__(self, x):
        return sum(net(x) for net in self.nets)


class Unregistered(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.nets = [net]

    def forward(self, x):
        return self.nets[0](x)


class Names(nn.Module):
    def forward(self, x):
        return HOLDER.net(x)


def named(x):
    return HOLDER.net(x)


def decorated(net):
    @functools.wraps(net.forward)
    def energy(*args):
        return net(*args)

    return functools.lru_cache(maxsize=None)(energy)


def by_global(net):
    HOLDER.net = net
    return lambda x: named(x)


def by_library(net):
    LIBRARY.net = net
    return lambda x: LIBRARY.net(x)


def by_package(net):
    LIBRARY.net = net
    return lambda x: PACKAGE.library.net(x)


def by_import(net):
    def energy(x):
        from library_of_nets import net

        return net(x)

    LIBRARY.net = net
    return energy


def attribute_of_a_list(net):
    energy = Ensemble()
    energy.net = net
    return energy


def by_class_of(make):
    def way(net):
        HOLDER.net = net
        return make()

    return way


def by_class(net):
    Static.net = net
    return Static.energy


def by_name_in_a_module(net):
    HOLDER.net = net
    return Names()


def replaced(net):
    outer = nn.Linear(D, 1)
    outer.forward = lambda x: net(x)
    return outer


def hooked(net):
    outer = nn.Linear(D, 1)
    outer.register_forward_hook(lambda module, args, result: result + net(*args))
    return outer


def attribute_of_a_function(net):
    def energy(x):
        return energy.net(x)

    energy.net = net
    return energy


WAYS = {
    "closure": lambda net: lambda x: -net(x),
    "default": lambda net: lambda x, net=net: net(x),
    "keyword default": lambda net: lambda x, *, net=net: net(x),
    "global": by_global,
    "of another file": by_library,
    "class attribute": by_class,
    "list": lambda net: lambda x, nets=[net]: nets[0](x),
    "nested containers": lambda net: lambda x, nets=({"a": (net,)},): nets[0]["a"][0](x),
    "partial": lambda net: functools.partial(lambda factor, x, net: factor * net(x), 2.0, net=net),
    "partial of a partial": lambda net: functools.partial(functools.partial(lambda net, x: net(x), net)),
    "method": lambda net: Model(net).energy,
    "callable object": Model,
    "slots": Slotted,
    "private slots": Private,
    "package": by_package,
    "import": by_import,
    "list with attributes": attribute_of_a_list,
    "proxy of a dict": lambda net: lambda x, nets=types.MappingProxyType({"a": net}): nets["a"](x),
    "chain of dicts": lambda net: lambda x, nets=ChainMap({}, {"a": net}): nets["a"](x),
    "dict of one's own": lambda net: lambda x, nets=UserDict(a=net): nets["a"](x),
    "cached property": by_class_of(Cached),
    "partial method": by_class_of(PartOfAMethod),
    "dataclass": lambda net: Data([net]),
    "function in a function": lambda net: lambda x: (lambda z: (lambda y: net(y))(z))(x),
    "wrapped": decorated,
    "attribute of a function": attribute_of_a_function,
    "unregistered": Unregistered,
    "named by a module": by_name_in_a_module,
    "replaced forward": replaced,
    "hook": hooked,
    "vmap": lambda net: torch.func.vmap(lambda x: net(x[None])[0]),
    "hat of functions": lambda net: hatebm.HatEnergy(lambda x: net(x), lambda z: z),
    "expert": lambda net: hatebm.product(lambda x: net(x)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_module_is_reached_with_all_its_parts(way):
    net = drops()
    found = modules_of(way(net))
    assert set(net.modules()) <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "wrapped"])
def test_and_runs_in_the_chains_mode_and_is_left_as_it_was(way):
    net = drops().train()
    net[2].eval()
    modes, before, seen = [m.training for m in net.modules()], {k: v.clone() for k, v in net.state_dict().items()}, []
    net.register_forward_pre_hook(lambda *_: seen.append([m.training for m in net.modules()]))
    state = torch.randn(6, D)
    state = (state, torch.randn(6, D)) if way == "hat of functions" else state
    hatebm.langevin(WAYS[way](net), state, 2, eps=0.1, seed=0)
    assert seen
    assert not any(map(any, seen))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    "given", [lambda net: {"of": net}, lambda net: lambda t: {"of": net}], ids=["dict", "function"]
)
def test_keyword_arguments_of_the_energy_are_followed(given):
    net, seen = drops(), []
    net.register_forward_pre_hook(lambda *_: seen.append(net[1].training))
    hatebm.langevin(lambda x, of: of(x), torch.randn(6, D), 1, eps=0.1, seed=0, energy_kwargs=given(net))
    assert seen == [False]
    assert net[1].training


def test_what_is_not_reached_is_left_alone():
    other, net = drops(), drops()
    weak, seen = weakref.ref(other), []
    net.register_forward_pre_hook(lambda *_: seen.append(weak().training))
    energy = lambda x: net(x)  # noqa: E731
    assert not set(other.modules()) & set(modules_of(energy, None))
    hatebm.langevin(energy, torch.randn(6, D), 1, eps=0.1, seed=0)
    assert seen == [True]


def test_a_name_that_comes_to_mean_another_module_is_followed_at_the_next_run():
    nets = {"one": drops()}
    chain = hatebm.Chain(lambda x: nets["one"](x), torch.randn(6, D), eps=0.1, seed=0)
    chain.run(1)
    nets["one"] = other = drops()
    other.register_forward_pre_hook(lambda *_: seen.append(other[1].training))
    seen = []
    chain.run(1)
    assert seen == [False]


def test_circles_and_crowds_end():
    ring = []
    ring.append(ring)
    crowd = [object() for _ in range(100_000)]
    net = drops()
    assert set(modules_of(lambda x: (ring, crowd, net(x)))) == set(net.modules())


class Raises:
    """Whatever it is asked for."""

    def __getattribute__(self, name):
        raise RuntimeError(name)

    __len__ = __bool__ = __iter__ = __eq__ = __hash__ = lambda self, *_: self.asked


class Unset:
    __slots__ = ("value",)

    def __getattr__(self, name):
        raise KeyError(name)


class List(list):
    __len__ = __iter__ = __eq__ = lambda self, *_: Raises().asked
    __hash__ = None


class Dict(dict):
    items = values = keys = __len__ = __iter__ = lambda self: Raises().asked


class Module(types.ModuleType):
    __getattr__ = Raises.__getattribute__


class Gone:
    pass


def dead():
    gone = Gone()
    return weakref.proxy(gone)


@pytest.mark.parametrize("make", [Raises, Unset, lambda: List([1]), lambda: Dict(a=1), lambda: Module("m"), dead])
def test_what_is_reached_is_asked_for_nothing(make):
    thing, net = make(), drops()
    seen = []
    net.register_forward_pre_hook(lambda *_: seen.append(net[1].training))
    hatebm.langevin(lambda x, of=(thing, {"a": thing}): net(x), torch.randn(6, D), 1, eps=0.1, seed=0)
    assert seen == [False]


def test_the_parts_of_a_module_are_no_crowd():
    crowd, net = nn.Sequential(*(nn.Identity() for _ in range(5000))), drops()
    assert set(net.modules()) <= set(modules_of(lambda x, nets=(crowd, [{"a": [net]}]): nets))


def test_the_tensors_that_a_function_can_reach():
    table, net, hidden = torch.ones(4), nn.Linear(3, 4), {"rows": [torch.zeros(5)]}
    found = tensors_of(lambda x: table[x] + net(x) + hidden["rows"][0], None)
    assert {id(v) for v in found} == {id(table), id(hidden["rows"][0])}
