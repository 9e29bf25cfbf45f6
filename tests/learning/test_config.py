"""Configurations: what each kind of number refuses, in the name of its field."""

import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from hatebm.errors import UsageError
from hatebm.learning.config import Config, dropped
from hatebm.runs.config_json import config_from_json
from hatebm.systems.autoencoder import AutoencoderConfig
from hatebm.systems.catalogue import SYSTEMS
from hatebm.systems.hat import JointConfig, SynthesisConfig
from hatebm.systems.igebm import IGEBMConfig
from hatebm.systems.sngan import SNGANConfig

KINDS = (SynthesisConfig, JointConfig, SNGANConfig, AutoencoderConfig, IGEBMConfig)
FIELDS = [(kind, field.name, field.default) for kind in KINDS for field in fields(kind)]


def each(test):
    """The test for every field of every configuration."""
    ids = [f"{kind.__name__}.{name}" for kind, name, _ in FIELDS]
    return pytest.mark.parametrize(("kind", "name", "default"), FIELDS, ids=ids)(test)


@each
def test_every_field_refuses_what_is_of_another_kind(kind, name, default):
    for wrong in (None, "a word", b"3", [4, 4], math.nan, 2.5 if isinstance(default, int) else True):
        with pytest.raises(UsageError, match=f"^{kind.__name__}: {name} must "):
            kind(**{name: wrong})


@each
def test_every_number_refuses_what_lies_below_its_range_and_no_field_its_default(kind, name, default):
    assert getattr(kind(**{name: default}), name) == default
    if isinstance(default, int | float) and not isinstance(default, bool) and name != "seed":
        for wrong in (-1, *([] if name in kind.MAY_BE_ZERO | kind.FRACTIONS else [0])):
            with pytest.raises(UsageError, match=f"{name} must "):
                kind(**{name: wrong})
        if name in kind.MAY_BE_ZERO | kind.FRACTIONS:
            assert getattr(kind(**{name: 0}), name) == 0


REFUSED = [
    ({"eps": math.inf}, "eps must be positive, got inf"),
    ({"data_noise": math.inf}, "data_noise must not be negative, got inf"),
    ({"average": 1.0}, r"average must lie in \[0, 1\), got 1"),
    ({"energy_beta1": -1e-9}, "energy_beta1 must lie"),
    ({"crop": "left"}, "crop must be one of center, random, got left"),
    ({"seed": (1 << 63) - 1}, "seed must fit 64 bits"),
    ({"seed": -(1 << 63) - 1}, "seed must fit 64 bits"),
    ({"energy_widths": ()}, r"energy_widths must be positive whole numbers, got \(\)"),
    ({"energy_widths": (4, 0)}, "energy_widths"),
    ({"energy_widths": (4, 2.0)}, "energy_widths"),
    ({"energy_widths": (True,)}, "energy_widths"),
    ({"latent_shape": (3, 0)}, r"latent_shape must be positive whole numbers, got \(3, 0\)"),
    ({"latent_shape": (1.5,)}, "latent_shape"),
    ({"energy_lr_drops": (5,)}, r"energy_lr_drops must be pairs \(iteration, factor\)"),
    ({"energy_lr_drops": (("5", 0.1),)}, "energy_lr_drops"),
    ({"energy_lr_drops": ((5, "0.1"),)}, "energy_lr_drops"),
    ({"energy_lr_drops": ((5.5, 0.1),)}, "energy_lr_drops"),
    ({"energy_lr_drops": ((-1, 0.1),)}, "energy_lr_drops"),
    ({"energy_lr_drops": ((5, 0.0),)}, "energy_lr_drops"),
    ({"energy_lr_drops": ((5, math.inf),)}, "energy_lr_drops"),
    ({"energy_lr_drops": ((5, 0.1, 2),)}, "energy_lr_drops"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED, ids=[str(wrong) for wrong, _ in REFUSED])
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(UsageError, match=f"JointConfig: {message}"):
        JointConfig(**wrong)


def test_what_lies_at_the_edge_is_accepted():
    for seed in (-(1 << 63), (1 << 63) - 2):
        assert JointConfig(seed=seed).seed == seed
    assert JointConfig(latent_shape=(), energy_lr_drops=((0, 2), (9, 0.5))).latent_shape == ()
    assert JointConfig(eps=1, temperature=5).eps == 1
    assert SynthesisConfig(batch=8, bank_size=8).bank_size == 8
    for alternate in (True, False):
        assert JointConfig(alternate=alternate).alternate is alternate


def test_a_bank_smaller_than_a_batch_is_refused():
    with pytest.raises(UsageError, match="bank_size must be at least batch = 9, got 8"):
        SynthesisConfig(batch=9, bank_size=8)


@pytest.mark.parametrize("kind", [IGEBMConfig, SynthesisConfig, JointConfig])
def test_a_batch_whose_spread_is_unknown_is_refused(kind):
    assert kind(batch=2).batch == 2
    with pytest.raises(UsageError, match=f"{kind.__name__}: batch must be 2 or more, got 1"):
        kind(batch=1)


@pytest.mark.parametrize(("name", "most", "wrong", "wanted"), [
    ("buffer_size", (1 << 31) - 1, 1 << 31, "be below 2^31"),
    ("max_returns", 1000, 1001, "be at most 1000"),
    ("step_size", 3e38, 4e38, "lie in the range of float32"),
    ("noise_std", 3e38, 1e300, "lie in the range of float32"),
    ("max_gradient", 3e38, 4e38, "lie in the range of float32"),
])  # fmt: skip
def test_what_a_chain_or_its_buffer_would_refuse_is_refused_before_the_training(name, most, wrong, wanted):
    assert getattr(IGEBMConfig(**{name: most}), name) == most
    with pytest.raises(UsageError) as caught:
        IGEBMConfig(**{name: wrong})
    assert str(caught.value) == f"IGEBMConfig: {name} must {wanted}, got {wrong}"


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_keys_are_refused_and_known_ones_stay(kind):
    with pytest.raises(TypeError, match="max_langevin_norm"):
        kind(max_langevin_norm=2.5)
    with pytest.raises(TypeError, match="max_langevin_norm"):
        replace(kind(), max_langevin_norm=2.5)
    with pytest.raises(ValueError, match=r"unknown keys \['clip', 'max_langevin_norm'\]"):
        config_from_json(kind, {"max_langevin_norm": 2.5, "clip": True, "batch": 4})
    config = kind()
    with pytest.raises(FrozenInstanceError):
        config.batch = 4
    assert hash(config) == hash(kind())
    assert issubclass(kind, Config)


def test_every_ready_configuration_stands():
    for system in SYSTEMS.values():
        for ready in (*system.published.values(), *(system.preset(size, 3) for size in (8, 16, 32, 64, 128))):
            assert type(ready) is system.config


def test_the_last_drop_before_an_iteration_counts_in_whatever_order_they_come():
    drops = ((800, 0.1), (500, 0.5), (900, 4.0))
    assert [dropped(2.0, drops, t) for t in (0, 499, 500, 799, 800, 899, 900, 10**6)] == [2, 2, 1, 1, 0.2, 0.2, 8, 8]
    assert dropped(2.0, (), 7) == 2
    assert dropped(2.0, ((0, 0.5),), 0) == 1
