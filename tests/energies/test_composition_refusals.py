"""Compositions that cannot be, and those that run away."""

import math

import pytest
import torch
from targets import gaussian_energy
from torch import nn

import hatebm


class Parallel(nn.parallel.DistributedDataParallel):
    def __init__(self):
        nn.Module.__init__(self)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (hatebm.product, ValueError, r"product: energies must be one expert at least, got \(\)"),
        (hatebm.mixture, ValueError, "mixture: energies must be one expert at least"),
        (lambda: hatebm.product(quad, 3), TypeError, "product: expert 1 must be callable, got 3"),
        (lambda: hatebm.mixture(None, quad), TypeError, "mixture: expert 0 must be callable, got None"),
        (lambda: hatebm.product(Parallel()), TypeError, "product: expert 0 must be a module to compose before"),
        (lambda: hatebm.negate(quad, quad, "a"), TypeError, "negate: weight must be a number, got 'a'"),
        (lambda: hatebm.negate(quad, quad, True), TypeError, "negate: weight must be a number, got True"),
        (lambda: hatebm.negate(quad, quad, -0.1), ValueError, "negate: weight must be finite and >= 0, got -0.1"),
        (lambda: hatebm.negate(quad, quad, math.inf), ValueError, "negate: weight must be finite and >= 0, got inf"),
    ],
)
def test_what_cannot_be_composed_is_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


quad = gaussian_energy(1.0)


@pytest.mark.parametrize(
    ("energy", "text"),
    [
        (
            hatebm.product(quad, lambda x: x),
            r"product: expert 1's result must be a scalar or of shape \(4,\), got a float",
        ),
        (hatebm.mixture(lambda x: x[:2, 0], quad), "mixture: expert 0's result must be a scalar or of shape"),
        (hatebm.negate(quad, lambda x: quad(x)[None], 0.5), "negate: expert 1's result .* shape \\(1, 4\\)"),
        (hatebm.product(lambda x: 1.0), r"product: expert 0's result .* got 1\.0"),
        (
            hatebm.mixture(quad, lambda x: quad(x).sum()),
            "mixture: expert 1's result .*a sum over chains has no mixture",
        ),
    ],
)
def test_results_of_another_shape_are_refused_by_expert(energy, text):
    with pytest.raises(ValueError, match=text):
        energy(torch.ones(4, 2))


BOXES = [{"clamp": (-1, 1)}, {"reflect": (-1, 1)}, {"prior_precision": 0.3}, {"nan": "ignore"}]


@pytest.mark.parametrize("held", BOXES, ids=str)
def test_a_chain_looks_before_it_runs_a_negation(held):
    one = lambda x: x.square().sum(1) / 2  # noqa: E731
    energy, x, law = hatebm.negate(one, one, 1.2), torch.zeros(8, 5), {"eps": 0.1, "seed": 0}
    with pytest.raises(ValueError, match=r"^negate: weight must be small enough"):
        hatebm.langevin(energy, x, 3, **law)
    for open_side in ({"clamp": (0, None)}, {"reflect": (None, 0)}, {"clamp": (-1, 1), "clamp_at": "final"}):
        with pytest.raises(ValueError, match=r"^negate: weight must be small enough"):
            hatebm.langevin(energy, x, 3, **law, **open_side)
    assert torch.equal(x, torch.zeros(8, 5))
    hatebm.langevin(energy, x, 3, **law, **held)
    hatebm.langevin(hatebm.negate(one, one, 0.9), x, 3, **law)
