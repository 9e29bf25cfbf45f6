"""The hat energy: what it costs, that it never shows an old image, and its own laws."""

import copy
import math
import pickle

import pytest
import torch
from targets import LinearHat
from torch import nn

import hatebm


class Counter:
    """Counts forward and backward passes of a module."""

    def __init__(self, module):
        self.forward = self.back = self.graphs = 0
        module.register_forward_hook(self.see)

    def see(self, module, args, out):
        self.forward += 1
        if out.requires_grad:
            self.graphs += 1
            out.register_hook(self.see_back)

    def see_back(self, grad):
        self.back += 1


def parts(dtype=torch.float32):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh()).to(dtype)
    hat = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 1)).to(dtype)
    return hat, generator


def state(n=5, dtype=torch.float32):
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=drawn, dtype=dtype), torch.randn(n, 8, generator=drawn, dtype=dtype)


def naive(hat, generator):
    """The same energy without a memory, as a module."""
    return hatebm.product(Plain(hat, generator))


class Plain(nn.Module):
    def __init__(self, hat, generator):
        super().__init__()
        self.hat, self.generator = hat, generator

    def forward(self, z, y):
        return self.hat(self.generator(z) + y)


LAWS = {
    "z frozen": ({"eps": (0.0, 0.1)}, (1, 0, 10, 10)),
    "turns": ({"eps": (0.2, 0.1), "blocks": "sequential"}, (11, 10, 20, 20)),
    "jointly": ({"eps": (0.2, 0.1)}, (10, 10, 10, 10)),
    "y frozen": ({"eps": (0.2, 0.0)}, (10, 10, 10, 10)),
    "z frozen, corrected": ({"eps": (0.0, 0.1), "correct": "mala"}, (1, 0, 11, 11)),
    "jointly, underdamped": ({"eps": 0.1, "friction": 1.0}, (11, 11, 11, 11)),
}


@pytest.mark.parametrize(("law", "passes"), LAWS.values(), ids=LAWS)
def test_a_chain_costs_the_passes_that_its_moves_need(law, passes):
    hat, generator = parts()
    h, g = Counter(hat), Counter(generator)
    hatebm.langevin(hatebm.HatEnergy(hat, generator), state(), 10, seed=0, **law)
    assert (g.forward, g.back, h.forward, h.back) == passes
    assert (g.graphs > 0) == (g.back > 0)


@pytest.mark.parametrize("law", [law for law, _ in LAWS.values()], ids=LAWS)
@pytest.mark.parametrize("more", [{}, {"temperature": 0.5, "prior_precision": (0.0, 0.4)}], ids=["plain", "tempered"])
def test_the_chain_is_the_one_without_a_memory(law, more):
    if law.get("correct") or not isinstance(law["eps"], tuple):
        more = more and {"temperature": 0.5}
    hat, generator = parts(torch.float64)
    x = state(dtype=torch.float64)
    got = hatebm.langevin(hatebm.HatEnergy(hat, generator), x, 10, seed=0, **law, **more)
    want = hatebm.langevin(naive(hat, generator), x, 10, seed=0, **law, **more)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_the_frozen_chain_is_a_chain_of_images():
    hat, generator = parts(torch.float64)
    z, y = state(dtype=torch.float64)
    _, moved = hatebm.langevin(hatebm.HatEnergy(hat, generator), (z, y), 10, eps=(0.0, 0.1), seed=0)
    with torch.no_grad():
        start = generator.eval()(z)
    noise = [hatebm.normal(y.shape, seed=0, step=t, block=1).double() for t in range(10)]
    image = hatebm.langevin(hat, start + y, 10, eps=0.1, noise=noise.__getitem__)
    torch.testing.assert_close(start + moved, image, rtol=1e-12, atol=1e-12)


CHANGES = {
    "in place": lambda g: g[0].weight.data.mul_(3.0),
    "an optimizer's step": lambda g: torch.optim.SGD(g.parameters(), 1.0).step(),
    "other storage": lambda g: setattr(g[0].weight, "data", 3.0 * g[0].weight),
    "a buffer": lambda g: g[3].running_mean.add_(1.0),
    "loaded": lambda g: g.load_state_dict({k: v + 1 for k, v in g.state_dict().items()}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    "law", [{"eps": (0.0, 0.1)}, {"eps": (0.2, 0.1), "blocks": "sequential"}], ids=["z frozen", "turns"]
)
def test_new_weights_are_seen_between_runs(change, law):
    hat, generator = parts()
    for p in generator.parameters():
        p.grad = torch.ones_like(p)
    energy, plain = hatebm.HatEnergy(hat, generator), naive(hat, generator)
    ours, theirs = (hatebm.Chain(e, state(), seed=0, **law) for e in (energy, plain))
    ours.run(3), theirs.run(3)
    change(generator)
    torch.testing.assert_close(ours.run(3), theirs.run(3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "law", [{"eps": (0.0, 0.1)}, {"eps": (0.2, 0.1), "blocks": "sequential"}], ids=["z frozen", "turns"]
)
def test_weights_that_change_within_a_run_are_seen(law):
    outs = []
    for make in (hatebm.HatEnergy, naive):
        hat, generator = parts()

        def change(t, x, generator=generator):
            with torch.no_grad():
                generator[2].weight.mul_(1.5)

        outs.append(hatebm.langevin(make(hat, generator), state(), 6, seed=0, callback=change, **law))
    torch.testing.assert_close(*outs, rtol=1e-6, atol=1e-6)


def test_nothing_is_kept_after_a_run_or_outside_of_one():
    hat, generator = parts()
    energy, count = hatebm.HatEnergy(hat, generator), Counter(generator)
    z, y = state()
    hatebm.langevin(energy, (z, y), 3, eps=(0.0, 0.1), seed=0)
    with pytest.raises(hatebm.ChainDiverged):
        hatebm.langevin(energy, (z, y * math.nan), 3, eps=(0.0, 0.1), seed=0)
    count.forward = 0
    for _ in range(3):
        energy(z, y)
    assert count.forward == 3
    trained = []
    callback = lambda t, x: trained.append(torch.autograd.grad(energy(*x).sum(), generator.parameters())[0])  # noqa: E731
    hatebm.langevin(energy, (z, y), 2, eps=(0.0, 0.1), seed=0, callback=callback)
    assert all(g.any() for g in trained)
    loss = energy(z, y).sum()
    assert all(g is not None for g in torch.autograd.grad(loss, list(generator.parameters())[:2]))
    twins = []
    callback = lambda t, x: twins.extend((copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))))  # noqa: E731
    hatebm.langevin(energy, (z, y), 2, eps=(0.2, 0.1), blocks="sequential", seed=0, callback=callback)
    assert all(torch.equal(twin.eval()(z, y), energy.eval()(z, y)) for twin in twins)
    chain, twins = hatebm.Chain(energy, (z, y), eps=(0.2, 0.1), seed=0), []
    after = chain.run(2, callback=lambda t, x: twins.append(copy.deepcopy(chain)))
    assert all(torch.equal(*pair) for twin in twins for pair in zip(twin.run(2), after, strict=True))


def test_training_through_the_last_steps_reaches_the_generator():
    hat, generator = parts(torch.float64)
    x = state(dtype=torch.float64)
    law = {"eps": (0.2, 0.1), "blocks": "sequential", "seed": 0, "grad_steps": 2}
    for frozen in (False, True):
        generator.requires_grad_(not frozen)
        wanted = list(hat.parameters())[:2] + ([] if frozen else list(generator.parameters())[:2])
        grads = []
        for make in (hatebm.HatEnergy, naive):
            z, y = hatebm.langevin(make(hat, generator), x, 4, **law)
            grads.append(torch.autograd.grad(z.square().sum() + y.square().sum(), wanted))
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.Dropout(0.5)], ids=["batch norm", "dropout"])
@pytest.mark.parametrize(("mode", "passes"), [("eval", 1), ("train", 4)])
def test_a_generator_in_train_mode_is_another_one_each_time(layer, mode, passes):
    hat, generator = parts()
    generator[3] = copy.deepcopy(layer)
    count = Counter(generator)
    hatebm.langevin(hatebm.HatEnergy(hat, generator), state(), 4, eps=(0.0, 0.1), seed=0, mode=mode)
    assert count.forward == passes


@pytest.mark.parametrize("blocks", ["joint", "sequential"])
def test_the_linear_hat_follows_its_lyapunov_equation(blocks):
    linear, s, n = LinearHat(), (0.2, 0.15), 100_000
    generator = nn.Linear(1, 1, bias=False)
    generator.weight.data.fill_(linear.w)
    hat = hatebm.HatEnergy(lambda x: x.square().sum(1) / (2 * linear.v), generator)
    law = {"step_size": s, "prior_precision": (linear.k, 2 * linear.tau), "blocks": blocks, "seed": 3}
    z, y = hatebm.langevin(hat, (torch.zeros(n, 1), torch.zeros(n, 1)), 60, **law)
    want, got = linear.stationary(*s, blocks), torch.cov(torch.cat([z, y], 1).T.double())
    spread = torch.sqrt((want**2 + want.diag()[:, None] * want.diag()) / n)
    assert ((got - want).abs() < 4 * spread).all()


def test_parts_that_cannot_be_called_are_named():
    with pytest.raises(TypeError, match="HatEnergy: generator must be callable"):
        hatebm.HatEnergy(nn.Linear(1, 1), 3)


def test_a_hat_inside_a_product_and_a_compiled_caller():
    hat, generator = parts()
    count = Counter(generator)
    energy = hatebm.product(hatebm.HatEnergy(hat, generator), lambda z, y: y.square().sum(1))
    law = {"eps": (0.0, 0.1), "seed": 0}
    want = hatebm.langevin(energy, state(), 4, **law)
    assert count.forward == 1
    compiled = torch.compile(lambda *x: hatebm.langevin(energy, x, 4, **law), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*state()), want, rtol=1e-5, atol=1e-6)
