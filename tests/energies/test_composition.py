"""Compositions: Gaussians in closed form, mixtures on a grid, and every expert's parameters where they belong."""

import copy
import functools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import gaussian_energy, ula_variance
from torch import nn

import hatebm


class Gaussian(nn.Module):
    """E(x) = (x - m)' P (x - m) / 2, with m and P = L L' as parameters; ``label`` moves the mean."""

    def __init__(self, d, seed=0, labels=3, dtype=torch.float64):
        super().__init__()
        draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.mean = nn.Parameter(draw(d).to(dtype))
        self.root = nn.Parameter((draw(d, d) / math.sqrt(d) + torch.eye(d)).to(dtype))
        self.shift = nn.Embedding.from_pretrained(draw(labels, d).to(dtype), freeze=False)

    @property
    def precision(self):
        return self.root @ self.root.T

    def forward(self, x, label=None):
        away = x - self.mean - (0 if label is None else self.shift(label))
        return (away @ self.root).square().sum(1) / 2

    def energy(self, x, label=None):
        return self(x, label)


class Spy(nn.Module):
    """Notes in which mode it is called, and whether its parameters are as they were made."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.held = nn.Parameter(torch.ones(()), requires_grad=False)
        self.norm = nn.BatchNorm1d(2)
        self.seen = []

    def forward(self, x, shift=0):
        self.seen.append((self.training, self.norm.training, self.scale.requires_grad, self.held.requires_grad))
        return ((self.norm(x) - shift).square() * self.scale * self.held).sum(1)

    def energy(self, x):
        return self(x)


def points(n=7, d=3, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_gaussian(energy, precision, linear, x):
    """Up to a constant, E(x) = x' P x / 2 - b' x, whose mean is P^-1 b."""
    away = energy(x) - ((x @ precision * x).sum(1) / 2 - x @ linear)
    torch.testing.assert_close(
        away, away[:1].expand(len(x)), rtol=1e-9, atol=1e-9 * float(energy(x).detach().abs().max())
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(count=st.integers(1, 6), d=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_precisions_of_a_product_add(count, d, seed):
    experts = [Gaussian(d, seed + k) for k in range(count)]
    precision = sum(e.precision for e in experts)
    linear = sum(e.precision @ e.mean for e in experts)
    assert_gaussian(hatebm.product(*experts), precision, linear, points(9, d, seed))


def test_negation_subtracts_the_weighted_precision():
    a, b, w = Gaussian(3, 0), Gaussian(3, 1), 0.25
    precision, linear = a.precision - w * b.precision, a.precision @ a.mean - w * b.precision @ b.mean
    assert_gaussian(hatebm.negate(a, b, w), precision, linear, points())


@pytest.mark.parametrize("kind", ["product", "negate"])
def test_chains_sample_the_composed_gaussian(kind):
    d, s, n, steps, w = 2, 0.2, 100_000, 60, 0.3
    a, b = Gaussian(d, 1), Gaussian(d, 5)
    with torch.no_grad():
        b.root *= 0.5
        sign = 1 if kind == "product" else -w
        precision = (a.precision + sign * b.precision).detach()
        mean = torch.linalg.solve(precision, a.precision @ a.mean + sign * b.precision @ b.mean).detach()
    energy = (hatebm.product(a, b) if kind == "product" else hatebm.negate(a, b, w)).float()
    x = hatebm.langevin(energy, torch.zeros(n, d), steps, step_size=s, seed=1).double()
    values, axes = torch.linalg.eigh(precision)
    assert 0 < float(values[0]) < float(values[-1]) < 1.5 / s
    # From zero, each axis of the precision keeps (1 - s a)^k of its mean and (1 - s a)^2k of its variance.
    left = (1 - s * values) ** steps
    variance = torch.tensor([ula_variance(float(v), s, math.sqrt(2 * s)) for v in values]) * (1 - left**2)
    along = (x - mean) @ axes
    assert (along.mean(0) + left * (mean @ axes)).abs().le(4 * (variance / n).sqrt()).all()
    assert (along.var(0) - variance).abs().le(4 * variance * math.sqrt(2 / n)).all()
    correlation = (along - along.mean(0)).prod(1).mean() / variance.prod().sqrt()
    assert abs(float(correlation)) < 4 / math.sqrt(n)


MIXED = ((-1.5, 4.0), (0.8, 1.0), (2.0, 9.0))  # means and precisions


def mixed_energy(x):
    """-log of the sum of unnormalised Gaussians, and its derivative, by hand."""
    parts = torch.stack([torch.exp(-p * (x - m) ** 2 / 2) for m, p in MIXED])
    slopes = torch.stack([p * (x - m) for m, p in MIXED])
    return -parts.sum(0).log(), (parts * slopes).sum(0) / parts.sum(0)


def one_mode(mean, precision):
    return lambda x: (precision * (x - mean) ** 2 / 2).flatten(1).sum(1)


def test_a_mixture_normalised_on_a_grid_is_the_mixture():
    mixture = hatebm.mixture(*(one_mode(m, p) for m, p in MIXED))
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = torch.exp(-mixture(grid[:, None]))
    got = density / torch.trapezoid(density, grid)
    mass = torch.tensor([math.sqrt(2 * math.pi / p) for _, p in MIXED], dtype=torch.float64)
    normals = [torch.distributions.Normal(*torch.tensor([m, p**-0.5]).double()) for m, p in MIXED]
    want = sum(w * normal.log_prob(grid).exp() for w, normal in zip(mass / mass.sum(), normals, strict=True))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_a_mixture_in_the_plane_is_weighted_by_integrals_and_by_constants_added():
    a, b, log_odds = Gaussian(2, 0), Gaussian(2, 1), 1.3
    log_z = [math.log(2 * math.pi) - float(torch.logdet(e.precision.detach())) / 2 for e in (a, b)]
    mixture = hatebm.mixture(lambda x: a(x) + log_z[0] - log_odds, lambda x: b(x) + log_z[1])
    normals = [torch.distributions.MultivariateNormal(e.mean, precision_matrix=e.precision) for e in (a, b)]
    x = points(50, 2)
    want = math.exp(log_odds) * normals[0].log_prob(x).exp() + normals[1].log_prob(x).exp()
    torch.testing.assert_close(mixture(x), -want.log())


def test_chains_of_a_mixture_follow_the_law_of_the_discrete_chain():
    """The law after k steps, by the transition kernel on a grid: no step bias, no burn-in to allow for."""
    s, steps, n = 0.05, 40, 50_000
    grid = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    width = float(grid[1] - grid[0])
    drifted = grid - s * mixed_energy(grid)[1]
    kernel = torch.exp(-((grid - drifted[:, None]) ** 2) / (4 * s)) * width / math.sqrt(4 * math.pi * s)
    law = torch.zeros_like(grid)
    law[700] = 1.0
    for _ in range(steps):
        law = law @ kernel
    assert abs(float(law.sum()) - 1) < 1e-9
    mixture = hatebm.mixture(*(one_mode(m, p) for m, p in MIXED))
    x = hatebm.langevin(mixture, torch.zeros(n, 1), steps, step_size=s, seed=2).flatten().double().sort().values
    below = torch.searchsorted(x, grid + width / 2) / n
    assert float((below - law.cumsum(0)).abs().max()) < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 1 in 1000


def test_a_mixture_far_from_every_expert_does_not_underflow():
    mixture = hatebm.mixture(gaussian_energy(1.0), gaussian_energy(3.0))
    x = torch.full((2, 1), 1e4, requires_grad=True)
    (grad,) = torch.autograd.grad(mixture(x).sum(), x)
    torch.testing.assert_close(mixture(x), gaussian_energy(1.0)(x))
    torch.testing.assert_close(grad, x.detach())


def test_compositions_compose():
    a, b, c, x = Gaussian(3, 0), Gaussian(3, 1), Gaussian(3, 2), points()
    both = hatebm.product(hatebm.mixture(a, b), hatebm.negate(c, hatebm.product(a, a), 0.125))
    torch.testing.assert_close(both(x), -torch.log(torch.exp(-a(x)) + torch.exp(-b(x))) + c(x) - a(x) / 4)


def test_experts_see_every_block():
    energy = hatebm.product(lambda z, y: (z * y).sum(1), lambda z, y: z.square().sum(1))
    z, y = points(5, 3), points(5, 3, 2)
    torch.testing.assert_close(energy(z, y), (z * y + z * z).sum(1))
    got = hatebm.langevin(energy, (z, y), 3, step_size=0.1, seed=1)
    want = hatebm.langevin(lambda z, y: (z * y + z * z).sum(1), (z, y), 3, step_size=0.1, seed=1)
    torch.testing.assert_close(got, want)


def test_a_keyword_goes_to_every_expert_and_a_tuple_gives_one_each():
    a, b, x = Gaussian(3, 0), Gaussian(3, 1), points()
    c, k = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.tensor([2, 2, 1, 1, 0, 0, 0])
    energy = hatebm.product(a, b)
    torch.testing.assert_close(energy(x, label=c), a(x, c) + b(x, c))
    torch.testing.assert_close(energy(x, label=(c, k)), a(x, c) + b(x, k))
    torch.testing.assert_close(energy(x, label=(c, None)), a(x, c) + b(x))
    torch.testing.assert_close(hatebm.negate(a, b, 0.5)(x, label=(c, k)), a(x, c) - b(x, k) / 2)
    plain = hatebm.product(a, gaussian_energy(1.0))
    torch.testing.assert_close(plain(x, label=(c, None)), a(x, c) + gaussian_energy(1.0)(x))
    nested = hatebm.product(hatebm.mixture(a, b), a)
    torch.testing.assert_close(nested(x, label=((c, k), k)), hatebm.mixture(a, b)(x, label=(c, k)) + a(x, k))
    with pytest.raises(ValueError, match=r"product: label must be a tuple of 2, one per expert, got 'a tuple of 3'"):
        energy(x, label=(c, k, c))


def test_a_chain_takes_conditions_by_partial_or_by_energy_kwargs():
    a, b, x = Gaussian(3, 0), Gaussian(3, 1), points()
    c, k = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.tensor(1)
    law = {"step_size": 0.05, "seed": 3}
    want = hatebm.langevin(lambda x: a(x, c) + b(x, k), x, 5, **law)
    held = hatebm.product(functools.partial(a, label=c), functools.partial(b.energy, label=k))
    torch.testing.assert_close(hatebm.langevin(held, x, 5, **law), want)
    given_later = hatebm.langevin(hatebm.product(a, b), x, 5, energy_kwargs={"label": (c, k)}, **law)
    torch.testing.assert_close(given_later, want)


def test_columns_and_sums_over_chains_are_added_as_what_they_are():
    a, b, x = Gaussian(3, 0), Gaussian(3, 1), points()
    column, total = lambda x: a(x)[:, None], lambda x: b(x).sum()
    torch.testing.assert_close(hatebm.product(column, b)(x), a(x) + b(x))
    torch.testing.assert_close(hatebm.mixture(column, b)(x), hatebm.mixture(a, b)(x))
    torch.testing.assert_close(hatebm.product(column, total)(x), (a(x) + b(x)).sum())
    torch.testing.assert_close(hatebm.negate(total, column, 0.5)(x), (b(x) - a(x) / 2).sum())
    law = {"step_size": 0.05, "seed": 3}
    each, summed = hatebm.product(a, b), hatebm.product(a, total)
    torch.testing.assert_close(hatebm.langevin(summed, x, 5, **law), hatebm.langevin(each, x, 5, **law))
    one = x[:1]
    for make in (hatebm.product, hatebm.mixture):
        torch.testing.assert_close(make(a, total)(one), make(a, b)(one))
        assert make(a, total)(one).shape == (1,)


def test_every_parameter_learns_with_the_share_of_its_expert():
    a, b, x, w = Gaussian(3, 0), Gaussian(3, 1), points(), 0.4
    own = [torch.autograd.grad(e(x).sum(), (e.mean, e.root)) for e in (a, b)]
    for energy, shares in ((hatebm.product(a, b), (1, 1)), (hatebm.negate(a, b, w), (1, -w))):
        energy.zero_grad()
        energy(x).sum().backward()
        for e, grads, share in zip((a, b), own, shares, strict=True):
            torch.testing.assert_close((e.mean.grad, e.root.grad), tuple(share * g for g in grads))
    shares = torch.softmax(torch.stack([-a(x), -b(x)]), 0).detach()
    got = torch.autograd.grad(hatebm.mixture(a, b)(x).sum(), (a.mean, b.mean, a.root, b.root))
    for k, e in enumerate((a, b)):
        want = torch.autograd.grad((shares[k] * e(x)).sum(), (e.mean, e.root))
        torch.testing.assert_close((got[k], got[2 + k]), want)


def test_parameters_are_found_once_behind_modules_methods_and_partials():
    a, b, c = Gaussian(2, 0), Gaussian(2, 1), Gaussian(2, 2)
    label = torch.tensor(1)
    energy = hatebm.product(a, b.energy, functools.partial(c, label=label), functools.partial(a.energy, label=label))
    assert {id(p) for p in energy.parameters()} == {id(p) for e in (a, b, c) for p in e.parameters()}
    assert len(list(energy.parameters())) == 9
    assert [m for m in energy.modules() if isinstance(m, Gaussian)] == [a, b, c]
    keys = [*hatebm.product(a, b.energy).state_dict()]
    names = ("mean", "root", "shift.weight")
    assert keys == [f"experts.0.{name}" for name in names] + [f"experts.1.owner.{name}" for name in names]
    other = hatebm.product(Gaussian(2, 8), Gaussian(2, 9).energy)
    other.load_state_dict(hatebm.product(a, b.energy).state_dict())
    torch.testing.assert_close(other(points(4, 2)), a(points(4, 2)) + b(points(4, 2)))


def test_the_representation_names_the_experts():
    a = Gaussian(2)
    inside = hatebm.product(a.energy, functools.partial(a, label=torch.tensor(1)), one_mode)
    text = repr(hatebm.negate(a, inside, 0.5))
    assert all(word in text for word in ("weight=0.5", "Gaussian.energy", "Gaussian(label=...)", "one_mode", "Product"))


def test_a_chain_runs_every_expert_in_its_mode_and_puts_all_back():
    spies = [Spy() for _ in range(4)]
    spies[1].eval()
    energy = hatebm.product(
        spies[0], spies[1].energy, functools.partial(spies[2], shift=0.5), lambda x: spies[3].energy(x)
    )
    before = [m.training for m in energy.modules()]
    hatebm.langevin(energy, torch.randn(4, 2), 3, step_size=0.1, seed=0)
    for spy in spies:
        assert set(spy.seen) == {(False, False, True, False)}
        assert len(spy.seen) == 3
        assert spy.scale.grad is None
        assert spy.norm.num_batches_tracked == 0
    assert [m.training for m in energy.modules()] == before


@pytest.mark.parametrize("again", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"])
def test_a_copy_owns_the_experts_it_calls(again):
    a, b, x = Gaussian(3, 0), Gaussian(3, 1), points()
    label = torch.tensor(2)
    energy = hatebm.negate(hatebm.mixture(a, b.energy), functools.partial(a, label=label), 0.5)
    want = energy(x)
    twin = again(energy)
    torch.testing.assert_close(twin(x), want)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert not torch.equal(twin(x), want)
    torch.testing.assert_close(energy(x), want)
    assert len(list(twin.parameters())) == len(list(energy.parameters())) == 6


def test_a_composition_moves_to_another_dtype_with_its_experts():
    a, b = Gaussian(3, 0), Gaussian(3, 1)
    energy = hatebm.product(a, b.energy).float()
    assert energy(points().float()).dtype == torch.float32
