"""Energies with a formula: values, gradients, and one set of bits."""

import math

import pytest
import torch
from formula_energies import KINDS, of_kind, spread

import hatebm
from hatebm.energies import DoubleWell, Funnel, Gaussian, Mixture, reference


def close(got, exact, scale, ulps):
    assert ((got.double() - exact).abs() <= ulps * 2.0**-24 * scale).all()


@pytest.mark.parametrize("d", [1, 2, 3, 7, 16, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_has_the_bits_of_the_formula(kind, d, instruction_set):
    energy = of_kind(kind, d)
    for scale in (1e-3, 2.0, 30.0):
        x = scale * torch.randn(37, d)
        for got, want in zip(energy.look(x), energy.exact(x), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_long_samples_sum_in_the_order_of_the_ops(kind, instruction_set):
    energy, x = of_kind(kind, 1030), torch.randn(3, 1030)
    if kind == "full":
        assert torch.equal(energy.look(x)[0], energy.look(x[:1].expand(3, -1).clone() * 0 + x)[0])
        return
    for got, want in zip(energy.look(x), energy.exact(x), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("special", [math.inf, -math.inf, math.nan, 3e38, -1e20, 1e-42, -0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_special_values_go_the_way_of_the_formula(kind, special, instruction_set):
    energy, x = of_kind(kind, 5), torch.randn(11, 5)
    x[0, 0] = x[4, 3] = special
    for got, want in zip(energy.look(x), energy.exact(x), strict=True):
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got.nan_to_num(7), want.nan_to_num(7))


@pytest.mark.parametrize("d", [1, 2, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_energies_and_gradients_are_those_of_float64(kind, d):
    """Rounding of float32: d + 8 operations of half an ulp each, on terms as large as the sum of their absolutes."""
    energy, x = of_kind(kind, d), 1.5 * torch.randn(200, d)
    exact = x.double().requires_grad_()
    values = energy(exact)
    (gradient,) = torch.autograd.grad(values.sum(), exact)
    at = x.clone().requires_grad_()
    got = energy(at)
    (got_gradient,) = torch.autograd.grad(got.sum(), at)
    assert got.dtype == torch.float32
    size = 1 + values.detach().abs() + x.double().square().sum(1) * 20
    close(got.detach(), values.detach(), size, d + 8)
    close(got_gradient, gradient, size[:, None] * 8, d + 8)


def test_gaussians_are_torchs():
    precision, x = spread(4), torch.randn(50, 4)
    mean = torch.tensor([1.0, -2.0, 0.5, 0.0])
    law = torch.distributions.MultivariateNormal(mean.double(), precision_matrix=precision.double())
    gap = Gaussian(mean, precision)(x.double()) + law.log_prob(x.double())
    assert gap.std() < 1e-12
    line = torch.distributions.Normal(mean.double(), precision.diag().double() ** -0.5)
    gap = Gaussian(mean, precision.diag())(x.double()) + line.log_prob(x.double()).sum(1)
    assert gap.std() < 1e-12


def test_mixtures_are_torchs():
    means, std, weights = (
        3 * torch.randn(4, 2, 3),
        torch.tensor([0.3, 1.0, 2.0, 0.7]),
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
    )
    x = 3 * torch.randn(100, 2, 3)
    part = torch.distributions.Normal(means.double(), std.double()[:, None, None].expand(4, 2, 3))
    part = torch.distributions.Independent(part, 2)
    law = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights.double()), part)
    energy = Mixture(means, std, weights)
    assert torch.allclose(energy(x.double()), -law.log_prob(x.double()), rtol=1e-6)
    assert torch.allclose(energy(x).double(), -law.log_prob(x.double()), rtol=2e-6)
    assert torch.allclose(Mixture(means, 0.5)(x), Mixture(means, [0.5] * 4, [2.0] * 4)(x))


def nudged(matrix, ulps, seed=0):
    """The matrix as other processors round it: each element off by up to so many ulps of the largest."""
    off = torch.rand(matrix.shape, generator=torch.Generator().manual_seed(seed)).to(matrix) * 2 - 1
    return matrix + off * ulps * torch.finfo(matrix.dtype).eps * matrix.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_a_precision_is_symmetric_but_for_rounding(size, dtype):
    matrix = (size * spread(20).double()).to(dtype)
    got = Gaussian(torch.zeros(20), nudged(matrix, 0.5 if dtype is torch.bfloat16 else 64)).precision
    assert torch.equal(got, got.T)
    assert ((got - matrix).abs() <= 64 * torch.finfo(dtype).eps * matrix.abs().max()).all()
    for factor in (torch.linalg.cholesky(matrix.double()), matrix.double().triu()):
        with pytest.raises(ValueError, match="Gaussian: precision must be a symmetric matrix, to 1% of its largest"):
            Gaussian(torch.zeros(20), factor.to(dtype))


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_the_inverse_of_a_covariance_is_a_precision(condition):
    torch.manual_seed(0)
    axes = torch.linalg.qr(torch.randn(30, 30, dtype=torch.float64))[0]
    values = torch.logspace(0, -math.log10(condition), 30, dtype=torch.float64)
    covariance = (axes * values @ axes.T).float()
    precision = nudged(torch.linalg.inv(covariance), 0.01 * condition)  # how far off an inverse may come out
    away, back = (Gaussian(torch.zeros(30), p) for p in (precision, precision.T))
    x = torch.randn(5, 30)
    for one, other in zip(away.look(x), back.look(x), strict=True):
        assert torch.equal(one, other)


def test_wells_lie_where_they_are_said_to():
    energy = DoubleWell(height=3.0, separation=2.0)
    x = torch.tensor([[0.0, 2.0], [2.0, -2.0], [0.0, 0.0], [4.0, 2.0]])
    assert energy(x).tolist() == [3.0, 0.0, 6.0, 27.0]


def test_the_funnel_is_neals():
    v, rest = 3 * torch.randn(100, 1).double(), torch.randn(100, 9).double()
    x = torch.cat([v, rest * (v / 2).exp()], 1)
    law = torch.distributions.Normal(0.0, 3.0).log_prob(v[:, 0])
    law = law + torch.distributions.Normal(torch.zeros(()).double(), (v / 2).exp()).log_prob(x[:, 1:]).sum(1)
    assert (Funnel()(x) + law).std() < 1e-12


def test_exponentials_are_within_one_ulp():
    x = torch.cat([torch.linspace(-103.9, 88.7, 500_001), torch.randn(100_000) * 1e-3])
    got, exact = reference.exponential(x), x.double().exp()
    ulp = torch.where(exact < 2.0**-126, 2.0**-149, 2.0 ** (exact.log2().floor() - 23))
    assert ((got.double() - exact).abs() <= ulp).all()
    special = reference.exponential(torch.tensor([0.0, -0.0, -math.inf, math.inf, 88.73, -104.5, math.nan]))
    assert special[:6].tolist() == [1.0, 1.0, 0.0, math.inf, math.inf, 0.0]
    assert special[6].isnan()


def test_logarithms_are_close():
    x = torch.cat([torch.linspace(1.0, 64.0, 200_001), torch.rand(10_000) + 1e-3])
    got, exact = reference.logarithm(x).double(), x.double().log()
    assert ((got - exact).abs() <= 2.0**-22 * (1 + exact.abs())).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_does_not_feel_its_neighbours(kind):
    energy, x = of_kind(kind, 6), torch.randn(40, 6)
    whole, parts = energy(x), [energy(x[i : i + 1]) for i in range(40)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_any_shape_and_strides(kind):
    energy, x = of_kind(kind, 12), torch.randn(5, 3, 2, 2)
    assert torch.equal(energy(x.to(memory_format=torch.channels_last)), energy(x.reshape(5, 12)))
    assert energy(torch.randn(0, 3, 4)).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_plain_torch(kind):
    energy, x, v = of_kind(kind, 4), torch.randn(6, 4), torch.randn(6, 4)
    products = []
    for at, along in ((x, v), (x.double(), v.double())):
        at = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(at).sum(), at, create_graph=True)
        products.append(torch.autograd.grad((gradient * along).sum(), at)[0])
    assert torch.allclose(products[0].double(), products[1], rtol=1e-4, atol=1e-4)
    exact = x.double().requires_grad_()
    assert torch.autograd.gradgradcheck(energy, exact)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_func_and_compile_take_the_plain_formula(kind):
    energy, x = of_kind(kind, 4), torch.randn(6, 4)
    at = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(energy(at).sum(), at)
    got = torch.func.vmap(torch.func.grad(lambda row: energy(row[None]).sum()))(x)
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-4)
    compiled = torch.compile(energy, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), energy(x), rtol=1e-5)


def test_a_buffer_that_learns_keeps_its_graph():
    energy = Gaussian(torch.zeros(3), torch.ones(3))
    energy.mean.requires_grad_()
    x = torch.randn(5, 3)
    assert torch.allclose(torch.autograd.grad(energy(x).sum(), energy.mean)[0], -x.sum(0))


@pytest.mark.parametrize("kind", KINDS)
def test_they_travel_as_modules(kind):
    energy, other = of_kind(kind, 4), of_kind(kind, 4)
    for value in other.buffers():
        value.mul_(0.5)
    other.load_state_dict(energy.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(other(x), energy(x))
    assert torch.allclose(energy.double()(x.double()), other(x).double(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_energies_of_energies(kind):
    """They compose, and a Metropolis test may ask for them."""
    energy, x = of_kind(kind, 4), torch.randn(5, 4)
    both = hatebm.product(energy, Gaussian(torch.zeros(4), torch.ones(4)))
    assert torch.allclose(both(x), energy(x) + x.square().sum(1) / 2)
    assert hatebm.langevin(both, x, 3, step_size=0.01, seed=0, correct="mala").isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian([0.0, 0.0], [1.0]), "Gaussian: precision must be shaped like mean"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [0.0, 1.0]]), "Gaussian: precision must be a symmetric matrix"),
        (lambda: Gaussian([math.nan], [1.0]), "Gaussian: mean must be finite"),
        (lambda: Mixture([[0.0]], 0.0), "Mixture: std must be > 0"),
        (lambda: Mixture([[0.0]], [1.0, 1.0]), "Mixture: std must be a number or shape"),
        (lambda: Mixture([[0.0], [1.0]], 1.0, [1.0]), "Mixture: weights must be shape"),
        (lambda: DoubleWell(height=0.0), "DoubleWell: height must be a number"),
        (lambda: Funnel(scale=-1.0), "Funnel: scale must be a number"),
        (lambda: Gaussian([0.0, 0.0], [1.0, 1.0])(torch.zeros(3, 4)), "Gaussian: x must be samples of 2 elements"),
        (lambda: DoubleWell()(torch.zeros(())), "DoubleWell: x must be"),
        (lambda: Funnel()(torch.zeros(2, 0)), "Funnel: x must be at least one element"),
    ],
)
def test_refusals_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_integers_are_refused():
    with pytest.raises(TypeError, match="DoubleWell: x must be floating-point"):
        DoubleWell()(torch.zeros(2, 2, dtype=torch.int64))
