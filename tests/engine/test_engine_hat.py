"""The engine on a Hat EBM: both of its networks are prepared, and its chains stay the chains they were."""

import pytest
import torch
from engine_nets import ROUNDING, seeded, small_networks_are_worth_it  # noqa: F401
from torch import nn

import hatebm
from hatebm.engine.prepare import prepare
from hatebm.nets import ResidualGenerator
from hatebm.nets.energy import ResidualEnergy

LAWS = {
    "in turns": {"step_size": (1.0, 1.0), "noise_std": (0.0, 0.0), "blocks": "sequential"},
    "at once": {"step_size": (1.0, 1.0), "noise_std": (0.0, 0.0), "blocks": "joint"},
    "z frozen": {"step_size": (0.0, 1.0), "noise_std": (0.0, 0.0)},
}


class Smooth(nn.Module):
    """An energy without kinks of images with 3 channels."""

    def __init__(self):
        super().__init__()
        first, second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 4, 2, 1)
        self.body = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), nn.Flatten(), nn.Linear(32 * 64, 1))

    def forward(self, x):
        return self.body(x).squeeze(1)


class SmoothGenerator(nn.Module):
    """A generator of 16x16 images without kinks."""

    def __init__(self):
        super().__init__()
        self.dense, self.first, self.last = nn.Linear(5, 32 * 64), nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 3, 1)

    def forward(self, z):
        h = nn.functional.interpolate(self.dense(z).unflatten(1, (32, 8, 8)), scale_factor=2, mode="bilinear")
        return torch.tanh(self.last(nn.functional.silu(self.first(h))))


def state(n=6):
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, generator=drawn), 0.1 * torch.randn(n, 3, 16, 16, generator=drawn)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_chains_are_those_of_the_networks_as_they_are(law):
    energy = hatebm.HatEnergy(seeded(Smooth), seeded(SmoothGenerator))
    chain = hatebm.Chain(energy, state(), seed=0, **law)
    got, want = chain.run(4), hatebm.langevin(energy, state(), 4, seed=0, compile="off", **law)
    assert "Smooth: 1 conv" in chain.report()
    assert "SmoothGenerator: 1 conv" in chain.report()
    for a, b, before in zip(got, want, state(), strict=True):
        assert float((a - b).norm()) <= ROUNDING * float((b - before).norm())


def test_a_generator_alone_is_prepared_to_the_same_images_and_gradients():
    generator = seeded(lambda: ResidualGenerator(16, 3, 5, (32, 32, 32), norm="batch"))
    generator.requires_grad_(False)
    z = state()[0]
    found = prepare(generator, [z])
    assert "minimal filtering" in found.notes[0]
    assert "parts" not in found.notes[0]
    assert float((found.energy(z) - generator(z)).norm() / generator(z).norm()) < ROUNDING


def test_g_still_runs_once_where_z_is_frozen(monkeypatch):
    energy = hatebm.HatEnergy(seeded(lambda: ResidualEnergy(16, 3, (32, 32), 1)), seeded(SmoothGenerator))
    law = LAWS["z frozen"]
    hatebm.langevin(energy, state(), 1, seed=0, **law)
    calls = []
    convolve = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *given: calls.append(given) or convolve(*given))
    hatebm.langevin(energy, state(), 5, seed=0, **law)
    dense = [given for given in calls if given[1].shape == (32 * 64, 5)]
    assert len(dense) == 1


def test_weights_of_g_that_change_between_runs_are_seen():
    energy = hatebm.HatEnergy(seeded(Smooth), seeded(SmoothGenerator))
    law = LAWS["in turns"]
    hatebm.langevin(energy, state(), 2, seed=0, **law)
    with torch.no_grad():
        energy.generator.first.weight.mul_(2)
    got, want = (hatebm.langevin(energy, state(), 2, seed=0, compile=how, **law) for how in ("auto", "off"))
    for a, b, before in zip(got, want, state(), strict=True):
        assert float((a - b).norm()) <= ROUNDING * float((b - before).norm())
