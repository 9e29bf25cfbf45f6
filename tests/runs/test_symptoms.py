"""The six symptoms: each is told once where it shows, in rows made up and in trainings made sick, and not in health."""

import math
from dataclasses import replace

import pytest
import tiny
import torch
from tiny import one_thread  # noqa: F401

from hatebm import data
from hatebm.data import Images, to_bytes
from hatebm.learning.config import Config
from hatebm.learning.learner import Learner
from hatebm.runs import stages, symptoms
from hatebm.runs.folder import Run
from hatebm.runs.starts import create
from hatebm.runs.symptoms import Watched
from hatebm.runs.training import train
from hatebm.systems.hat import Joint, Synthesis
from hatebm.systems.hat.symptoms import SYMPTOMS
from hatebm.systems.sngan import SNGANConfig

SYNTHESIS = replace(
    tiny.CONFIG,
    energy_widths=(8, 16),
    generator_widths=(16, 16, 8),
    latent_dim=8,
    langevin_steps=5,
    eps=2e-3,
    temperature=1e-6,
    max_displacement=1.0,
    batch=16,
    bank_size=64,
    data_noise=0.02,
    energy_lr=2e-3,
    energy_beta1=0.0,
    energy_lr_drops=(),
    generator_lr=2e-3,
    generator_lr_drops=(),
    average=0.0,
)
SMALLER = replace(
    SYNTHESIS,
    energy_widths=(4, 6),
    generator_widths=(6, 6, 4),
    latent_dim=5,
    langevin_steps=3,
    batch=8,
    bank_size=32,
)
JOINT = replace(tiny.JOINT, langevin_steps=5, batch=16, residual_precision=0.0, average=0.0, energy_lr=3e-4)
CAP, SWINGS, DEAD, BEHIND, LATENTS, OVERSATURATED = (symptom.advice for symptom in SYMPTOMS)


def told(config: Config, rows) -> list[tuple[int, str]]:
    """What a training with these rows is told, and in which iteration."""
    watched = Watched(SYMPTOMS, config)
    return [(row["step"], advice) for row in rows for advice in watched.see(row)]


def advice(config: Config, rows) -> list[str]:
    return [text for _, text in told(config, rows)]


def made_up(config: Config, n: int = 500, **sick) -> list[dict]:
    """Rows of a healthy training, noisy as real ones are, but for the metrics given as functions of the iteration."""
    drawn = torch.Generator().manual_seed(0)
    rows = []
    for t in range(1, n + 1):
        a, b, c, d = torch.randn(4, generator=drawn).tolist()
        row = {"step": t, "energy_gap": 2e4 * (1 + 20 * math.exp(-t / 50)) * a, "displacement": 0.2 + 0.02 * b}
        row["gap_error"] = 20.0
        if config is SYNTHESIS:  # the bank begins as images of G, so that the loss begins at 0
            row["generator_loss"] = 300 * (1 - math.exp(-t / 10)) * math.exp(-t / 100) + 22 + c
            row |= {"residual": 0.15 + 0.01 * b, "overshoot": 0.03 + 0.1 * math.exp(-t / 100) + 0.003 * d}
        else:
            row |= {"residual": JOINT.eps * JOINT.langevin_steps**0.5, "overshoot": 0.001, "latent_norm": 1 + 0.05 * c}
            row["latent_displacement"] = 0.3 + 0.02 * d
        rows.append(row | {name: value(t) for name, value in sick.items()})
    return rows


@pytest.mark.parametrize("config", [SYNTHESIS, JOINT], ids=["synthesis", "joint"])
def test_nothing_is_told_in_health(config):
    assert advice(config, made_up(config, 1500)) == []


def flips(t: int) -> int:
    return 1 if t % 6 < 3 else -1


SICK = {
    "cap": (SYNTHESIS, CAP, {"displacement": lambda t: 0.2 if t <= 150 else 0.99}),
    "cap, with noise": (replace(SYNTHESIS, eps=0.1), CAP, {"displacement": lambda t: 0.8 if t <= 150 else 1.27}),
    "swings": (SYNTHESIS, SWINGS, {"energy_gap": lambda t: flips(t) * 100 * math.exp(max(0, t - 150) / 50)}),
    "dead": (SYNTHESIS, DEAD, {"residual": lambda t: 0.15 if t <= 150 else 2e-3 * 5**0.5}),
    "dead, jointly": (JOINT, DEAD, {"latent_displacement": lambda t: 0.3 if t <= 150 else 0.05 * 5**0.5}),
    "behind": (SYNTHESIS, BEHIND, {"generator_loss": lambda t: 22 + max(0, t - 150) / 5}),
    "latents, out": (JOINT, LATENTS, {"latent_norm": lambda t: 1 + max(0, t - 150) / 100}),
    "latents, in": (JOINT, LATENTS, {"latent_norm": lambda t: math.exp(-max(0, t - 150) / 100)}),
    "oversaturated": (SYNTHESIS, OVERSATURATED, {"overshoot": lambda t: 0.05 if t <= 150 else 0.3}),
}


@pytest.mark.parametrize(("config", "wanted", "sick"), SICK.values(), ids=SICK)
def test_each_symptom_is_told_once_and_no_other(config, wanted, sick):
    rows = [row | {name: value(row["step"]) for name, value in sick.items()} for row in made_up(SYNTHESIS)]
    if config is JOINT:
        rows = made_up(JOINT, **sick)
    found = told(config, rows)
    assert [text for _, text in found] == [wanted]
    assert 200 <= found[0][0] <= 350
    assert found[0][0] % 10 == 0


def test_each_knob_is_a_number_of_the_configuration():
    for symptom in SYMPTOMS:
        _, _, knobs = symptom.advice.partition("; ")
        words = {word.strip(",") for word in knobs.split()} - {"lower", "raise", "or", "and"}
        assert words
        assert all(hasattr(SYNTHESIS, word) or hasattr(JOINT, word) for word in words), words


WELL = {
    "a cap below the noise": (replace(SYNTHESIS, eps=0.3), {"displacement": lambda t: 0.3 * 63.5**0.5}),
    "every other image at the cap": (SYNTHESIS, {"displacement": lambda t: 0.6}),
    "swings no wider than their error": (
        SYNTHESIS,
        {
            "energy_gap": lambda t: flips(t) * 100 * math.exp(max(0, t - 150) / 50),
            "gap_error": lambda t: 80 * math.exp(max(0, t - 150) / 50),
        },
    ),
    "swings as wide as ever": (SYNTHESIS, {"energy_gap": lambda t: flips(t) * 1e6}),
    "swings that narrow": (SYNTHESIS, {"energy_gap": lambda t: flips(t) * 1e6 * math.exp(-t / 50)}),
    "a gap that grows to one side": (SYNTHESIS, {"energy_gap": lambda t: -100 * math.exp(t / 50)}),
    "a gap that grows to one side, but for moments": (
        SYNTHESIS,
        {"energy_gap": lambda t: (-100 if t % 20 else 20) * math.exp(t / 50)},
    ),
    "swings that come and go": (SYNTHESIS, {"energy_gap": lambda t: flips(t) * (1e5 if t % 100 < 50 else 1e4)}),
    "one jump of the gap": (SYNTHESIS, {"energy_gap": lambda t: flips(t) * (1e9 if t == 190 else 1e4)}),
    "residuals held near G(z)": (SYNTHESIS, {"residual": lambda t: 0.5 * 2e-3 * 5**0.5}),
    "live residuals at dead latents": (
        JOINT,
        {"latent_displacement": lambda t: 0.05 * 5**0.5, "residual": lambda t: 0.1},
    ),
    "a bank not yet renewed": (
        replace(SYNTHESIS, bank_size=16 * 50),
        {"generator_loss": lambda t: 22 + min(t, 600) ** 2 / 1e3},
    ),
    "a loss that doubles slowly": (SYNTHESIS, {"generator_loss": lambda t: 22 * 2 ** (t / 500)}),
    "a jump of a loss that falls": (
        SYNTHESIS,
        {"generator_loss": lambda t: 9000 if t == 251 else 100 - t / 10},
    ),
    "noisy colours": (SYNTHESIS, {"overshoot": lambda t: 0.15}),
}


@pytest.mark.parametrize(("config", "odd"), WELL.values(), ids=WELL)
def test_what_only_looks_like_a_symptom_is_not_told(config, odd):
    rows = made_up(JOINT, **odd) if config is JOINT else made_up(SYNTHESIS, **odd)
    assert advice(config, rows) == []


def test_a_symptom_must_last_and_none_is_told_before_two_windows():
    assert advice(SYNTHESIS, made_up(SYNTHESIS, overshoot=lambda t: 0.3 if 200 < t <= 240 else 0.03)) == []
    assert advice(SYNTHESIS, made_up(SYNTHESIS, 199, overshoot=lambda t: 9.0)) == []
    assert told(SYNTHESIS, made_up(SYNTHESIS, 200, overshoot=lambda t: 9.0)) == [(200, OVERSATURATED)]


def test_systems_without_these_metrics_are_told_nothing():
    rows = [{"step": t, "generator_loss": 1.1**t, "discriminator_loss": -(1.1**t)} for t in range(1, 400)]
    assert advice(SNGANConfig(), rows) == []


@pytest.mark.parametrize("stop", [199, 250, 305])
def test_a_training_that_goes_on_is_told_nothing_twice(stop):
    sick = {"overshoot": lambda t: 0.3, "displacement": lambda t: 0.2 if t <= 300 else 1.0}
    rows = made_up(SYNTHESIS, **sick)
    straight = told(SYNTHESIS, rows)
    assert [text for _, text in straight] == [OVERSATURATED, CAP]
    resumed = Watched(SYMPTOMS, SYNTHESIS, rows[:stop])
    after = [(row["step"], text) for row in rows[stop:] for text in resumed.see(row)]
    assert told(SYNTHESIS, rows[:stop]) + after == straight


@pytest.fixture
def short_window(monkeypatch):
    """A symptom must last 20 iterations instead of 100."""
    monkeypatch.setattr(symptoms, "WINDOW", 20)


@pytest.fixture(scope="module")
def digits() -> Images:
    return data.load("digits")


@pytest.fixture(scope="module")
def generated() -> Images:
    """Images of the joint model's own generator, which H has little to add to."""
    with torch.no_grad():
        x = to_bytes(tiny.generator()(torch.randn(300, 5, generator=torch.Generator().manual_seed(3))))
    return Images(x, x[:0])


def trained(learner: Learner, images: Images, n: int) -> list[str]:
    return advice(learner.config, ({"step": t + 1, **learner.advance(images)} for t in range(n)))


GROWING = tuple((40 + 3 * i, 1.3**i) for i in range(1, 20))
SICK_SYNTHESIS = {
    "T tiny": ({"temperature": 1e-12}, 40, CAP),
    "T huge": ({"temperature": 1.0}, 40, DEAD),
    "no cap": ({"temperature": 1e-9, "max_displacement": 50.0}, 40, OVERSATURATED),
    "H ever faster": ({"energy_lr_drops": GROWING}, 80, SWINGS),
    "G too slow": ({"temperature": 1e-5, "generator_lr": 1e-6, "max_displacement": 5.0}, 90, BEHIND),
}
SICK_JOINT = {
    "eps_latent huge": ({"eps_latent": 0.7}, LATENTS),
    "T huge": ({"temperature": 1e3}, DEAD),
    "T tiny": ({"temperature": 1e-8}, CAP),
}


@pytest.mark.parametrize(("sick", "n", "wanted"), SICK_SYNTHESIS.values(), ids=SICK_SYNTHESIS)
@pytest.mark.usefixtures("short_window")
def test_a_sick_synthesis_is_told_so(digits, sick, n, wanted):
    assert trained(Synthesis.create(replace(SMALLER, **sick)), digits, n).count(wanted) == 1


@pytest.mark.parametrize(("sick", "wanted"), SICK_JOINT.values(), ids=SICK_JOINT)
@pytest.mark.usefixtures("short_window")
def test_a_sick_joint_training_is_told_so(generated, sick, wanted):
    assert trained(Joint.create(replace(JOINT, **sick), tiny.generator()), generated, 40).count(wanted) == 1


@pytest.mark.usefixtures("short_window")
def test_a_healthy_synthesis_is_told_nothing(digits):
    assert trained(Synthesis.create(SYNTHESIS), digits, 80) == []


@pytest.mark.usefixtures("short_window")
def test_a_healthy_joint_training_is_told_nothing(generated):
    assert trained(Joint.create(JOINT, tiny.generator()), generated, 50) == []


@pytest.mark.parametrize("stop", [30, 50])
@pytest.mark.usefixtures("short_window")
def test_a_resumed_run_is_told_each_symptom_once(tmp_path, stop):
    config, heard = replace(tiny.CONFIG, temperature=1.0, eps=2e-3, iterations=stop), []
    run = Run(tmp_path / "run", "hat-synthesis", "digits", ".", 10, config)
    create(run)
    train(run, Synthesis.create(config), tiny.images(), lambda row: None, heard.append)
    run = replace(run, config=replace(config, iterations=60))
    train(run, stages.load(run), tiny.images(), lambda row: None, heard.append)
    assert heard.count(f"iteration 40: {DEAD}") == 1
    assert sum(DEAD in text for text in heard) == 1
