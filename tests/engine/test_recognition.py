"""An energy's own kernel is found wherever it is called from, and never where the callable computes anything else."""

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hatebm
from hatebm import energies

SHARPNESS, settings, table = 1.0, Namespace(sharpness=1.0), {"sharpness": 1.0}
D, LAW = 20, {"step_size": 0.01, "noise_std": 0.1, "seed": 0}


class Published(nn.Module):
    """A latent prior as it is written in public: settings beside layers, a latent of images' form."""

    def __init__(self, activation):
        super().__init__()
        self.args = Namespace(nz=D, nout=1)
        self.ebm = nn.Sequential(nn.Linear(D, 16), activation, nn.Linear(16, 16), activation, nn.Linear(16, 1))

    def forward(self, z):
        return self.ebm(z.squeeze()).view(-1, self.args.nout, 1, 1)


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Written(nn.Module):
    """The same network in calls."""

    def __init__(self, activation, bias=True):
        super().__init__()
        self.first, self.last, self.activation = nn.Linear(D, 16, bias=bias), nn.Linear(16, 1, bias=bias), activation

    def forward(self, x):
        h = self.activation(self.first(x.flatten(1)))
        return F.linear(h, self.last.weight, self.last.bias)[:, None].flatten(0)


class Held(nn.Module):
    """The same network with what is not learnt in buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(16, D) / 4)
        self.register_buffer("bias", torch.randn(16))
        self.last = nn.Linear(16, 1)

    def forward(self, x):
        return self.last(F.silu(F.linear(x, self.weight, self.bias)))


def sharpness():
    return SHARPNESS


def of_sharpness(sharpness):
    return lambda energies, sharpness=sharpness: energies * sharpness


def sharpened_by(factor):
    return lambda energies: energies * factor


class Settings:
    sharpness = 1.0


class Sharp(nn.Module):
    """A network times numbers that it holds itself, and that stand elsewhere."""

    sharpness = 1.0

    def __init__(self):
        super().__init__()
        self.net, self.sharpened, self.settings = perceptron(), of_sharpness(1.0), Settings()

    @property
    def all_sharpness(self):
        return self.sharpness * settings.sharpness * table["sharpness"]

    def forward(self, x):
        return self.sharpened(self.net(x) * (self.all_sharpness * sharpness() * self.settings.sharpness))


class Numbered(nn.Module):
    """A network and functions by their numbers."""

    def __init__(self):
        super().__init__()
        self.net, self.scale0 = perceptron(), sharpened_by(1.0)

    def forward(self, x):
        return getattr(self, f"scale{0}")(self.net(x))


class Critic:
    """What trains a network."""

    def __init__(self, net):
        self.net, self.scale = net, 2.0

    def energy(self, x):
        return -self.net(x)[..., 0] / self.scale


def perceptron(activation=nn.SiLU, **last):
    return nn.Sequential(nn.Linear(D, 16), activation(), nn.Linear(16, 1, **last))


def writings():
    torch.manual_seed(0)
    net, own, prior = perceptron(), energies.MLP([D, 16]), Published(nn.LeakyReLU(0.2))
    return {
        "squeezed": (lambda x: net(x).squeeze(), (D,)),
        "negated": (lambda x: -net(x), (D,)),
        "scaled": (lambda x: 3 * own(x) / 2, (D,)),
        "own": (lambda x: own(x), (D,)),
        "a method": (Critic(net).energy, (D,)),
        "a published prior": (lambda z: prior(z)[:, 0, 0, 0], (D, 1, 1)),
        "its sum": (lambda z: prior(z).sum(), (D, 1, 1)),
        "its sum over what is one": (lambda z: prior(z).sum((1, 2, 3)), (D, 1, 1)),
        "swish": (Written(Swish()), (4, 5)),
        "functions": (Written(F.gelu), (D,)),
        "leaky": (Written(lambda h: F.leaky_relu(h, 0.3)), (D,)),
        "no bias, mean of one": (lambda x: net(x).mean(1), (D,)),
        "buffers": (Held(), (D,)),
        "flattened": (lambda x: net(x.view(x.size(0), -1)), (4, 5)),
    }


@pytest.mark.parametrize("writing", writings())
def test_a_perceptron_has_its_kernel_in_any_writing(writing):
    energy, shape = writings()[writing]
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(1))
    chains = [hatebm.Chain(energy, x, compile=how, **LAW) for how in ("auto", "off")]
    (got, told), (want, plain) = (chain.run(6, return_info=True) for chain in chains)
    assert "6 of them in one kernel" in chains[0].report()
    assert "left alone" not in chains[0].report()
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert told["energy"].shape == plain["energy"].shape
    torch.testing.assert_close(told["energy"], plain["energy"], rtol=1e-4, atol=1e-5)


def others():
    torch.manual_seed(0)
    net, deep = perceptron(), nn.Sequential(nn.Linear(D, 16), nn.SiLU(), nn.Linear(16, 1), nn.SiLU(), nn.Linear(1, 1))
    hooked, drops, own = perceptron(), nn.Sequential(*perceptron(), nn.Dropout(0.5)), energies.DoubleWell()
    hooked[0].register_forward_hook(lambda module, args, result: 2 * result)
    return {
        "beside x": (lambda x: net(x).squeeze(1) + x.square().sum(1), (D,)),
        "twice": (lambda x: net(x).squeeze(1) * net(x).squeeze(1), (D,)),
        "scaled input": (lambda x: net(2 * x), (D,)),
        "turned input": (lambda x: net(x.transpose(1, 2).flatten(1)), (4, 5)),
        "an activation at the end": (lambda x: F.softplus(net(x)), (D,)),
        "a softplus of its own": (lambda x: deep[2](F.softplus(deep[0](x), 0.3)), (D,)),
        "a factor inside": (lambda x: deep[4](-deep[:4](x)), (D,)),
        "a row a part": (lambda x: net(x).sum((1, 2)), (3, D)),
        "a mean over chains": (lambda x: net(x).mean(), (D,)),
        "hooks": (lambda x: hooked(x), (D,)),
        "training": (lambda x: drops(x), (D,)),
        "a negated formula": (lambda x: -own(x), (D,)),
        "a formula of other rows": (lambda x: own(x.flatten(1)) + 0.0 * x.sum((1, 2)), (4, 5)),
        "a dict": (lambda x: {"net": net(x)}, (D,)),
    }


@pytest.mark.parametrize("other", others())
def test_what_computes_anything_else_has_none(other):
    energy, shape = others()[other]
    x = 0.1 * torch.randn(7, *shape, generator=torch.Generator().manual_seed(1))
    law = LAW | {"mode": "train" if other == "training" else "eval"}
    results = []
    for how in ("auto", "off"):
        torch.manual_seed(0)
        chain = hatebm.Chain(energy, x, compile=how, **law)
        results.append(chain.run(4))
        assert "of them in one kernel" not in chain.report()
    assert torch.equal(*results)


def test_a_formula_has_its_kernel_behind_a_function():
    own = energies.DoubleWell()
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(1))
    chain = hatebm.Chain(lambda x: own(x), x, **LAW)
    assert torch.equal(chain.run(5), hatebm.langevin(own, x, 5, **LAW))
    assert "5 of them in one kernel" in chain.report()


PAIRS = {
    "joint": {"eps": (0.1, 0.2), "temperature": (1.0, 0.5)},
    "priors, clips": {"eps": 0.1, "prior_precision": (0.0, 2.0), "clip": (("norm", 0.5), None), "clamp": (-1.0, 1.0)},
    "in turns": {"eps": 0.1, "blocks": "sequential"},
    "noise before": {"step_size": 0.01, "noise_std": (0.1, 0.2), "noise_at": "before", "reflect": (None, (-1.0, 1.0))},
}


@pytest.mark.parametrize("law", PAIRS)
def test_a_sum_over_two_blocks_has_the_kernels_of_both(law):
    well, gaussian = energies.DoubleWell(), energies.Gaussian(torch.zeros(3), torch.ones(3))
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(9, 2, generator=generator), torch.randn(9, 3, generator=generator)
    mask = (torch.tensor([True, False]), None)
    results = []
    for how in ("auto", "off"):
        chain = hatebm.Chain(lambda x, z: gaussian(z) + well(x), state, seed=0, mask=mask, compile=how, **PAIRS[law])
        first = chain.run(4)
        last, told = chain.run(5, return_info=True, every=2)
        results.append([*first, *last, told])
        assert ("in one kernel" in chain.report()) == (how == "auto")
    (*got, told), (*want, plain) = results
    assert all(map(torch.equal, got, want))
    assert told.keys() == plain.keys()
    assert all(torch.equal(told[name], plain[name]) for name in told)


def of_both_ways(energy, state, **law):
    """A chain as it goes by default, and one in the loop's own autograd."""
    return [hatebm.Chain(energy, state, **{"eps": 0.1, "seed": 0} | law, compile=how) for how in ("auto", "off")]


def test_a_sum_of_perceptrons_agrees_in_steps_that_are_seen_and_not():
    torch.manual_seed(0)
    one, other = perceptron(), perceptron(nn.Tanh)
    state = torch.randn(7, D), torch.randn(7, D)
    chains = of_both_ways(lambda x, z: -one(x) + other(z), state)
    (got, told), (want, plain) = (chain.run(4, return_info=True) for chain in chains)
    assert "4 of them in one kernel" in chains[0].report()
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(told, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("reason", "energy", "law"),
    [
        ("a state of 2 blocks", lambda well: lambda x, z: well(x) + well(z), {"correct": "mala"}),
        ("a block may rest", lambda well: lambda x, z: well(x) + well(z), {"eps": (0.1, 0.0)}),
        ("left alone", lambda well: lambda x, z: well(x + z), {}),
        ("left alone", lambda well: lambda x, z: well(x) - well(z), {}),
        ("left alone", lambda well: lambda x, z: well(x) + well(x) + well(z), {}),
        ("left alone", lambda well: lambda x, z: well(x) + (x * z).sum(1), {}),
    ],
)
def test_a_state_of_blocks_that_goes_step_by_step_says_why(reason, energy, law):
    well, state = energies.DoubleWell(), (torch.full((5, 2), 0.3), torch.full((5, 2), 0.2))
    chains = [
        hatebm.Chain(energy(well), state, **{"eps": 0.1, "seed": 0} | law, compile=how) for how in ("auto", "off")
    ]
    assert all(map(torch.equal, *(chain.run(3) for chain in chains)))
    assert reason in chains[0].report()


def test_an_empty_network_is_no_kernel():
    empty, x = nn.Sequential(), torch.randn(4, 1)
    chain = hatebm.Chain(empty, x, **LAW)
    assert torch.equal(chain.run(2), hatebm.langevin(empty, x, 2, compile="off", **LAW))
    assert "kernel of its own" not in chain.report()


def test_what_is_found_follows_the_weights_the_sign_and_the_network():
    critic = Critic(perceptron())
    x = torch.randn(7, D, generator=torch.Generator().manual_seed(1))

    def change(t, state):
        if t == 1:
            critic.scale = -1.0
        elif t == 2:
            critic.net = perceptron(nn.Tanh)
        elif t == 3:
            nn.init.constant_(critic.net[2].weight, 0.5)

    results = []
    for how in ("auto", "off"):
        torch.manual_seed(0)
        critic.net, critic.scale = perceptron(), 2.0
        chain = hatebm.Chain(critic.energy, x, compile=how, **LAW)
        results.append(chain.run(6, callback=change))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def sharpenings():
    return {
        "an attribute of its class": lambda patch, net: patch.setattr(Sharp, "sharpness", 9.0),
        "a global of a function": lambda patch, net: patch.setitem(globals(), "SHARPNESS", 9.0),
        "an attribute of a global": lambda patch, net: patch.setattr(settings, "sharpness", 9.0),
        "a table": lambda patch, net: patch.setitem(table, "sharpness", 9.0),
        "a default": lambda patch, net: patch.setattr(net, "sharpened", of_sharpness(9.0)),
        "settings of a class": lambda patch, net: patch.setattr(Settings, "sharpness", 9.0),
        "a property": lambda patch, net: patch.setattr(Sharp, "all_sharpness", 9.0),
    }


@pytest.mark.parametrize("sharpened", sharpenings())
def test_numbers_outside_a_network_are_read_at_every_run(sharpened, monkeypatch):
    torch.manual_seed(0)
    net, x = Sharp(), torch.randn(7, D, generator=torch.Generator().manual_seed(1))
    before = hatebm.langevin(net, x, 3, **LAW)
    sharpenings()[sharpened](monkeypatch, net)
    got, want = (hatebm.langevin(net, x, 3, compile=how, **LAW) for how in ("auto", "off"))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert not torch.allclose(before, want, rtol=0, atol=1e-3)


def test_attributes_whose_names_are_made_up_are_read_at_every_run():
    critic, begin = Critic(perceptron()), "sca"
    energy = lambda x: critic.net(x) * getattr(critic, f"{begin}le")  # noqa: E731
    x = torch.randn(7, D, generator=torch.Generator().manual_seed(1))
    for critic.scale in (1.0, -9.0):
        got, want = (hatebm.langevin(energy, x, 3, compile=how, **LAW) for how in ("auto", "off"))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_functions_by_number_are_called_as_they_are():
    net, x = Numbered(), torch.randn(7, D, generator=torch.Generator().manual_seed(1))
    for factor in (1.0, -9.0):
        net.scale0 = sharpened_by(factor)
        got, want = (hatebm.langevin(net, x, 3, compile=how, **LAW) for how in ("auto", "off"))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def times(factor):
    return lambda *given: factor * given[-1]


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("place", ["all", "a part", "a forward"])
@pytest.mark.parametrize("between", [True, False])
def test_hooks_and_forwards_that_come_are_called(between, place, bare):
    def listen(net):
        if place == "a forward":
            net[1].forward = times(-9.0)
        else:
            (net if place == "all" else net[1]).register_forward_hook(times(-9.0))

    x, results = torch.randn(7, D, generator=torch.Generator().manual_seed(1)), []
    for how in ("auto", "off"):
        torch.manual_seed(0)
        net = perceptron()
        chain = hatebm.Chain(net if bare else lambda x, net=net: net(x), x, compile=how, **LAW)
        chain.run(2, callback=None if between else lambda t, state, net=net: listen(net) if t == 0 else None)
        if between:
            listen(net)
        results.append(chain.run(2))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shaped", ["a part more", "a sum of one element", "a row"])
def test_energies_that_chains_do_not_take_have_no_kernel(shaped):
    net, x = perceptron(), torch.zeros(7, D)
    turned = {
        "a part more": lambda e: e[:, None],
        "a sum of one element": lambda e: e.sum(0),
        "a row": lambda e: e[None],
    }
    with pytest.raises(ValueError, match="energy's result must be"):
        hatebm.langevin(lambda x: turned[shaped](net(x)), x, 2, **LAW)
