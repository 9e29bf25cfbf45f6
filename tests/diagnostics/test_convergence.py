"""R-hat and effective sample sizes against arviz-stats and against what is known of autoregressions."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from series import ar1, heavy, normals, shifted

from hatebm.diagnostics import autocorrelation, convergence, ess, plot_chain, split_rhat, summary

KINDS = ("bulk", "tail", "mean")


def scaled(steps, n, *sample):
    """Chains that agree on their mean and not on their spread: what only the folded R-hat sees."""
    return normals(steps, n, *sample) * (1 + torch.arange(n)).view(n, *[1] * len(sample))


def theirs(what, draws, **options):
    """arviz-stats' answer, which wants chains and draws last."""
    draws = np.moveaxis(draws.double().numpy(), (0, 1), (-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return torch.tensor(getattr(array_stats, what)(draws, **options))


def check_against_arviz(draws):
    torch.testing.assert_close(split_rhat(draws), theirs("rhat", draws), rtol=1e-10, atol=0, equal_nan=True)
    for kind in KINDS:
        prob = {"prob": (0.05, 0.95)} if kind == "tail" else {}
        want = theirs("ess", draws, method=kind, **prob)
        torch.testing.assert_close(ess(draws, kind), want, rtol=1e-8, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "law",
    [
        *(lambda *shape, rho=rho: ar1(rho, *shape) for rho in (-0.7, 0.0, 0.5, 0.95, 0.999)),
        *(shifted, heavy, scaled),
        lambda *shape: normals(*shape).cumsum(0),
        lambda *shape: normals(*shape).mul(2).round(),
        lambda *shape: normals(*shape).sign(),
        lambda *shape: normals(*shape) + 1e6,
    ],
    ids=["-0.7", "0", "0.5", "0.95", "0.999", "shifted", "heavy", "scaled", "walk", "ties", "two values", "far"],
)
@pytest.mark.parametrize("shape", [(200, 4, 5), (201, 3, 2, 2), (50, 2), (21, 1, 8), (7, 3, 8)], ids=str)
def test_the_numbers_are_those_of_arviz(law, shape):
    check_against_arviz(law(*shape))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    steps=st.integers(4, 40),
    n=st.integers(1, 5),
    sample=st.lists(st.integers(0, 3), max_size=2),
    rho=st.floats(-0.9, 0.99),
    seed=st.integers(0, 2**32),
)
def test_any_shape_has_the_numbers_of_arviz(steps, n, sample, rho, seed):
    draws = ar1(rho, steps, n, *sample, seed=seed)
    assert autocorrelation(draws).shape == (steps, *sample)
    assert split_rhat(draws).shape == tuple(sample)
    check_against_arviz(draws)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_are_worked_on_in_float64(dtype):
    draws = ar1(0.8, 101, 4, 6).to(dtype)
    assert split_rhat(draws).dtype == ess(draws).dtype == autocorrelation(draws).dtype == torch.float64
    check_against_arviz(draws)


def test_strides_gradients_and_chunks_change_nothing(monkeypatch):
    draws = ar1(0.8, 60, 4, 3, 5)
    want = torch.stack([split_rhat(draws), *(ess(draws, kind) for kind in KINDS), *autocorrelation(draws)])
    monkeypatch.setattr(convergence, "CHUNK", 60 * 4 * 2)  # two elements at once, one in the last chunk
    turned = draws.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0).requires_grad_()
    got = torch.stack([split_rhat(turned), *(ess(turned, kind) for kind in KINDS), *autocorrelation(turned)])
    assert not turned.is_contiguous()
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    together = torch.stack([split_rhat(draws), ess(draws), ess(draws, "tail")])
    torch.testing.assert_close(convergence.rhat_and_ess(draws), together, rtol=1e-12, atol=0)


def test_large_draws_need_little_memory_beside_themselves():
    code = """
import resource, torch
from hatebm.diagnostics import convergence
from hatebm.diagnostics import autocorrelation, summary
convergence.CHUNK = 1 << 15
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
draws = torch.randn(200, 32, 512)
summary(draws[:, :, :40]), autocorrelation(draws[:, :, :40])
before = peak()
summary(draws), autocorrelation(draws)
print((peak() - before) / (draws.numel() * 4))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(out) < 1


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.6, 0.9])
def test_ess_of_an_autoregression_is_the_closed_form(rho):
    steps, n, repeats = 2000, 8, 64
    got = ess(ar1(rho, steps, n, repeats), "mean")
    want = steps * n * (1 - rho) / (1 + rho)
    # One estimate scatters by its own standard deviation. Their mean is biased too, by the noise of the last lags
    # that Geyer's rule still sums: at most about one such deviation.
    spread = float(got.std())
    assert spread < 0.2 * want
    assert ((got - want).abs() < 4.5 * spread).double().mean() == 1
    assert abs(float(got.mean()) - want) < spread


@pytest.mark.parametrize("rho", [-0.5, 0.6, 0.9])
def test_ess_says_how_the_mean_of_all_draws_scatters(rho):
    draws = ar1(rho, 1000, 4, 400)
    ratio = float(draws.mean((0, 1)).var() * (ess(draws, "mean") / draws.var((0, 1))).mean())
    # A variance of k means has relative error sqrt(2 / k); the mean ESS of as many estimates much less.
    assert abs(ratio - 1) < 4 * math.sqrt(2 / 400)


def test_autocorrelation_of_an_autoregression_is_rho_to_the_t():
    steps, n, repeats = 2000, 16, 50
    got = autocorrelation(ar1(0.8, steps, n, repeats))
    assert (got[0] == 1).all()
    lags = torch.arange(1, 20)
    error = got[1:20].std(1) / math.sqrt(repeats)
    bias = (1 + 0.8) / (1 - 0.8) / steps  # of the mean of each chain, taken off
    assert ((got[1:20].mean(1) - 0.8**lags).abs() < 4 * error + bias).all()
    apart = autocorrelation(ar1(0.8, steps, n, 1) + 3 * torch.arange(n)[:, None])
    assert apart[100:1000].min() > 0.9  # chains apart never forget where they are


def test_rhat_sees_what_differs_and_rests_where_nothing_does():
    assert (split_rhat(normals(1000, 8, 50)) < 1.01).all()
    assert (split_rhat(shifted(500, 4, 20)) > 1.3).all()
    assert (split_rhat(scaled(500, 4, 20)) > 1.05).all()
    trend = normals(500, 4, 20) + torch.linspace(0, 2, 500)[:, None, None]
    assert (split_rhat(trend) > 1.05).all()


def test_ranks_make_the_numbers_blind_to_a_monotone_change():
    draws = ar1(0.7, 300, 4, 5)
    for number in (ess, lambda d: ess(d, "tail")):
        torch.testing.assert_close(number(draws.exp()), number(draws), rtol=1e-9, atol=0)
    torch.testing.assert_close(split_rhat(3 - 2 * draws), split_rhat(draws), rtol=1e-9, atol=0)


def test_constant_elements():
    draws = normals(50, 4, 3)
    draws[:, :, 1] = 0.1
    assert split_rhat(draws).isnan().tolist() == [False, True, False]
    for kind in KINDS:
        assert float(ess(draws, kind)[1]) == 200
    assert autocorrelation(draws)[:, 1].isnan().all()
    assert not autocorrelation(draws)[:, [0, 2]].isnan().any()
    check_against_arviz(draws)
    frozen = torch.arange(4.0).expand(50, 4).contiguous()
    assert float(split_rhat(frozen)) > 1e6
    assert float(ess(frozen)) < 10


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_spoils_its_own_element_alone(value):
    draws = normals(50, 4, 3)
    draws[7, 2, 1] = value
    bad = [False, math.isnan(value), False]
    assert split_rhat(draws).isnan().tolist() == bad
    assert ess(draws).isnan().tolist() == bad
    assert ess(draws, "tail").isnan().tolist() == bad
    assert ess(draws, "mean").isnan().tolist() == [False, True, False]
    assert autocorrelation(draws).isnan().any(0).tolist() == [False, True, False]
    if math.isnan(value):
        check_against_arviz(draws)


@pytest.mark.parametrize("shape", [(3, 4, 2), (0, 4, 2), (10, 0, 2), (1, 1)], ids=str)
def test_too_few_draws_have_no_numbers(shape):
    draws = torch.zeros(shape)
    for number in (split_rhat, ess, lambda d: ess(d, "tail"), autocorrelation):
        assert number(draws).isnan().all()
    assert split_rhat(draws).shape == shape[2:]
    assert autocorrelation(draws).shape == (shape[0], *shape[2:])
    assert math.isnan(summary(draws).worst_rhat)


def test_one_chain_has_an_ess_and_no_rhat():
    draws = ar1(0.5, 400, 1, 3)
    assert split_rhat(draws).isnan().all()
    assert convergence.rhat_and_ess(draws)[0].isnan().all()
    assert (ess(draws) > 50).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_rhat([1.0]), "split_rhat: draws must be a tensor"),
        (lambda: ess(torch.zeros(9)), r"ess: draws must be \(steps, n, \*sample\)"),
        (lambda: autocorrelation(torch.zeros(9, 2, dtype=torch.complex64)), "draws must be real"),
        (lambda: ess(torch.zeros(9, 2), "median"), "ess: kind must be one of"),
        (lambda: summary(torch.zeros(9)), r"summary: draws must be \(steps, n, \*sample\)"),
        (lambda: summary(torch.zeros(9, 2), [1]), "summary: info must be the dict"),
        (lambda: plot_chain(torch.zeros(0, 2)), "plot_chain: draws must be"),
        (lambda: plot_chain(torch.zeros(9, 2, 3), {"energy": torch.zeros(9, 2)}), "info must be .* with 'step'"),
        (lambda: plot_chain(torch.zeros(9, 2, 3), quantities=[3]), "quantities must be indices"),
        (lambda: plot_chain(torch.zeros(9, 2, 3), quantities=[(0, 0)]), "quantities must be indices"),
        (lambda: plot_chain(torch.zeros(9, 2, 3), quantities=[]), "quantities must be one index"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
