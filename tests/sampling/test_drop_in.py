"""One call gives the bits of each of thirteen public loops, in float32 on the CPU, with the loop's own noise."""

import pytest
import torch
from drop_in_rows import CAPPED, OTHER_ADD, ROWS, STEPS, difference, hat
from drop_in_tensors import ROWS as ROWS_OF_TENSORS

ROWS = ROWS | ROWS_OF_TENSORS


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("seed", "threads"), [(0, 1), (1, 2)], indirect=["threads"])
@pytest.mark.parametrize("name", ROWS)
def test_the_call_gives_the_bits_of_the_loop(name, seed, threads):
    loop, ours = ROWS[name](seed)
    for a, b in zip(loop, ours, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b), f"{(a != b).sum()} of {a.numel()} elements differ"


def exact_factor(grad, cap):
    """The norm summed in float64, then rounded once, and a division, where cap / norm is a reciprocal and a product."""
    norm = grad.double().flatten(1).norm(dim=1).float()
    return torch.where(norm > cap, torch.full_like(norm, cap) / norm, 1.0)


def test_a_norm_clip_that_acts_differs_by_the_rounding_of_the_norm():
    roundings = 36 / 2 + 6  # of the sum of 36 squares; and a root, a reciprocal, three products, one sum
    assert 0 < max(difference(*hat(seed, **CAPPED)) for seed in range(5)) < STEPS * 2.5 * roundings * 2**-24
    exact = {"factor": exact_factor, "clip": (None, ("norm", 2.5 / (1e-2**2 / 2))), "clip_on": "grad"}
    assert max(difference(*hat(seed, **CAPPED, **exact)) for seed in range(5)) == 0


OTHER_CHAINS = [
    ("IGEBM", {"noise_at": "after"}),
    ("IGEBM", {"clip": None}),
    ("IGEBM", {"clamp": None}),
    ("UvA tutorial 8", {"clip": None}),
    ("UvA tutorial 8", {"clamp_at": "step"}),
    ("Improved CD, annealed noise", {"noise_std": 0.001}),
    ("JEM", {"mode": "keep"}),
    ("ebm-anatomy, training", {"step_size": 0.5}),
    ("ebm-anatomy, Metropolis test", {"chain_ids": range(32, 64)}),
    ("Hat EBM, T = 2^-10", {"blocks": "joint"}),
    ("Hat EBM, E / T as the energy", {"prior_precision": 0.0}),
    ("joint latent prior, prior chain", {"mode": "eval"}),
    ("joint latent prior, prior chain", {"blocks": "sequential"}),
    ("latent-space-EBM-prior, prior chain", {"prior_precision": 0.0}),
    ("NCSN", {"energy_kwargs": lambda t: {"labels": torch.zeros(6, dtype=torch.int64)}}),
    ("Energy Matching", {"noise_std": (2 * 0.01 * 0.1) ** 0.5}),
    ("Energy Matching", {"clamp_at": "step"}),
    ("Energy Matching, proteins", {"energy_kwargs": {"weight": 0.5}}),
    ("Energy Matching, proteins", {"clamp": None}),
    ("energy-based transformer", {"noise_at": "after"}),
    ("energy-based transformer", {"clip": None}),
    ("energy-based transformer", {"grad_steps": STEPS}),
    ("energy-based transformer", {"step_size": 0.5}),
]


@pytest.mark.parametrize(("name", "change"), OTHER_CHAINS)
def test_each_field_of_the_call_counts(name, change):
    assert difference(*ROWS[name](0, **change)) > 1e-5


OTHER_ROUNDINGS = [
    ("IGEBM", "fma"),
    ("rosinality/igebm-pytorch", OTHER_ADD),
    ("JEM", "sequential"),
    ("ebm-anatomy, training", "sequential"),
    ("joint latent prior, two-stage", OTHER_ADD),
]


@pytest.mark.parametrize(("name", "add"), OTHER_ROUNDINGS)
def test_the_order_of_additions_shows_in_the_bits(name, add):
    assert 0 < difference(*ROWS[name](0, add=add)) < 1e-5
