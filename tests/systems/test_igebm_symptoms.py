"""The symptoms of an IGEBM, in trainings made sick in the ways that its users report, and not in health."""

import pytest
from tiny import one_thread  # noqa: F401

from hatebm import data
from hatebm.systems.igebm import IGEBM, IGEBMConfig
from hatebm.systems.igebm.symptoms import SYMPTOMS

HEALTHY = {
    "size": 8,
    "channels": 1,
    "network": "conv",
    "energy_widths": (4, 8, 8),
    "hidden": 8,
    "activation": "swish",
    "dropout": False,
    "langevin_steps": 3,
    "batch": 8,
    "buffer_size": 64,
    "lr": 2e-3,
}
MIX, DRIFT, SATURATED, RUN_AWAY, SWINGS, GRADIENTS = SYMPTOMS
SICK = {
    "no buffer and a small step": ({"reinit": 0.999, "step_size": 1e-2, "lr": 1e-2}, MIX),
    "a large step and no clip": ({"step_size": 1e5, "max_gradient": 0.0}, SATURATED),
    "no regularisation": ({"energy_l2": 0.0}, DRIFT),
    "no regularisation and a large rate": ({"energy_l2": 0.0, "lr": 30.0}, RUN_AWAY),
}


def trained(iterations, **sick):
    """The rows of a training, and its configuration."""
    config = IGEBMConfig(**HEALTHY | sick)
    images, learner = data.digits().thinned(200), IGEBM.create(config)
    return [learner.advance(images) for _ in range(iterations)], config


def test_a_healthy_training_shows_none():
    rows, config = trained(160)
    assert not [symptom.advice for symptom in SYMPTOMS if symptom.shows(rows[40:], config)]


@pytest.mark.parametrize("name", SICK)
def test_a_sick_training_shows_its_symptom(name):
    sick, symptom = SICK[name]
    rows, config = trained(120, **sick)
    assert symptom.shows(rows[20:], config)


def row(step, **more):
    """One of a training in health."""
    healthy = {"energy_gap": -0.01, "gap_error": 0.01, "energy": 0.0, "saturation": -0.1, "gradient": 0.01}
    return {"step": step, **healthy, **more}


@pytest.mark.parametrize(("growth", "shows"), [(2.2, True), (1.8, False)])
def test_gradients_that_double_twice_show(growth, shows):
    config = IGEBMConfig(**HEALTHY)
    rows = [row(i, gradient=0.01 * growth ** (i // 50)) for i in range(200)]
    assert GRADIENTS.shows(rows, config) is shows


@pytest.mark.parametrize(("factor", "shows"), [(1.02, True), (1.0, False)])
def test_a_gap_that_swings_wider_shows(factor, shows):
    config = IGEBMConfig(**HEALTHY)
    rows = [row(i, energy_gap=0.1 * factor**i * (1 if i // 5 % 2 else -1)) for i in range(200)]
    assert SWINGS.shows(rows, config) is shows


def test_what_ends_a_training_is_told_from_what_is_only_advised():
    assert [symptom.diverged for symptom in SYMPTOMS] == [False, False, True, True, True, True]
