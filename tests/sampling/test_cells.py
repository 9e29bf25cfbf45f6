"""States as bytes: within their cell, and no mean moves however often one is stored."""

import math

import pytest
import torch
from replays import BOXES, filled
from scipy import stats

import hatebm
from hatebm.ops.noise import Purpose
from hatebm.sampling.cells import from_cells, to_cells


@pytest.mark.parametrize("box", BOXES)
def test_a_state_comes_back_within_its_cell_and_a_cell_as_itself(box):
    low, high = box
    unit = torch.rand(400, 7, generator=torch.Generator().manual_seed(0))
    x = low + (high - low) * torch.cat([unit, torch.zeros(1, 7), torch.ones(1, 7)])
    buffer = hatebm.ReplayBuffer(len(x), (7,), box=box, seed=0)
    buffer.push(x, 0)
    cells = buffer.state_dict()["states"]
    for step in range(1, 20):
        back, _, slots = buffer.draw(2000, step, reinit=0)
        assert (back - x[slots]).abs().max() <= (high - low) / 256
        within = (back.double() - low) / (high - low) * 256 - cells[slots]
        assert within.min() > 0
        assert within.max() < 1
        buffer.push(back, step, slots=slots)
        assert torch.equal(buffer.state_dict()["states"], cells)
    assert stats.kstest(within.flatten().numpy(), "uniform").pvalue > 1e-3


def test_dither_is_exact_in_float32_and_owes_nothing_to_the_slot():
    cells = torch.arange(256, dtype=torch.uint8).repeat(400, 1)
    odd = from_cells(cells, (0, 1), seed=0, step=0, purpose=Purpose.REPLAY).double() * 2**24
    assert torch.equal(odd % 2, torch.ones_like(odd))
    assert stats.chisquare(torch.bincount((odd / 2).long().flatten() % 16, minlength=16).numpy()).pvalue > 1e-3
    x, _, slots = filled(256).draw(20_000, 1, reinit=0)
    both = torch.stack([slots.double(), *(x.double() * 256 % 1).T])
    assert (torch.corrcoef(both) - torch.eye(3)).abs().max() < 4 / math.sqrt(20_000)


def published_round_trip(x, generator):
    """What the code of Du and Mordatch (2019) stores and reads: floor(255 x), and k / 256 + U(0, 1/256)."""
    return ((255 * x.clamp(0, 1)).floor() + torch.rand(x.shape, generator=generator)) / 256


def test_no_mean_moves_however_often_a_state_is_stored():
    n, trips = 400_000, 50
    start = (torch.arange(n) + 0.5) / n
    ours, theirs, generator = start[None], start, torch.Generator().manual_seed(0)
    means = []
    for trip in range(trips):
        ours = from_cells(to_cells(ours, (0, 1)), (0, 1), seed=0, step=trip, purpose=Purpose.REPLAY)
        theirs = published_round_trip(theirs, generator)
        means.append((float(ours.double().mean()), float(theirs.double().mean())))
    dither = math.sqrt(1 / 12 / n) / 256
    assert all(abs(mean - 0.5) < 4 * dither for mean, _ in means)
    # The first k has the mean 127. Then 255 (k + u) / 256 < k where u < k / 255: one cell down, with that probability.
    assert abs(means[0][1] / 0.5 - 255 / 256) < 4 * dither / 0.5
    lost = (127 * (254 / 255) ** (trips - 1) + 0.5) / 256
    assert abs(means[-1][1] - lost) < 4 * math.sqrt(trips / 4 / n) / 256 + 4 * dither
    assert means[-1][1] / 0.5 < 0.83


def test_bytes_neither_overflow_nor_invert():
    values = [-1e37, -1.0, -1e-30, 0.0, 1 / 256, 0.5, 254.5 / 256, 1 - 2**-24, 1.0, 1.0 + 2**-23, 2.0, 300.0, 1e37]
    want = [0, 0, 0, 0, 1, 128, 254, 255, 255, 255, 255, 255, 255]
    for box in BOXES:
        low, high = box
        x = torch.tensor([low + (high - low) * value for value in values])[:, None]
        buffer = hatebm.ReplayBuffer(len(x), (1,), box=box, seed=0)
        buffer.push(x, 0)
        assert buffer.state_dict()["states"][:, 0].tolist() == want
        back, _, slots = buffer.draw(500, 1, reinit=0)
        assert torch.equal(to_cells(back, box)[:, 0].long(), torch.tensor(want)[slots])
        assert back.min() >= low
        assert back.max() <= high


def test_float32_keeps_the_bits_in_the_box_or_out_of_it():
    x = torch.linspace(-5, 5, 40).view(20, 2)
    buffer = hatebm.ReplayBuffer(20, (2,), storage=torch.float32, seed=0)
    buffer.push(x, 0)
    back, _, slots = buffer.draw(60, 1, reinit=0)
    assert torch.equal(back, x[slots])
    back.zero_()
    assert torch.equal(buffer.state_dict()["states"], x)
