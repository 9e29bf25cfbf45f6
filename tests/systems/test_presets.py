"""Ready configurations: the published ones number by number, and that all of them stand for networks that fit."""

from dataclasses import replace

import pytest
import torch
from shell import refusal
from tiny import one_thread  # noqa: F401
from torch import nn

from hatebm.errors import UsageError
from hatebm.learning.learner import Learner
from hatebm.systems import autoencoder, hat, igebm, sngan
from hatebm.systems.catalogue import SYSTEMS

# Hill, Nijkamp, Mitchell, Pang and Zhu, "Hat EBM" (2022), arXiv 2210.16486, and its official code.
HAT = {
    "batch": 128,
    "channels": 3,
    "data_noise": 1e-3,
    "energy_beta1": 0.9,
    "energy_lr": 1e-4,
    "max_displacement": 2.5,
    "max_grad_norm": 0.0,
    "energy_lr_drops": (),
    "crop": "center",
    "average": 0.9999,
}
SYNTHESIS = HAT | {
    "latent_dim": 128,
    "langevin_steps": 50,
    "eps": 5e-4,
    "temperature": 1e-8,
    "sample_residual": 0.01,
    "iterations": 50_000,
    "bank_size": 9_984,
    "generator_lr": 1e-4,
    "generator_lr_drops": (),
    "generator_weight": 1000.0,
    "output_scale": 2.0,
}
AT_32 = {"size": 32, "energy_widths": (256, 256, 256, 256), "energy_pools": 2}
AT_64 = {"size": 64, "energy_widths": (64, 128, 256, 512, 1024), "energy_pools": 5}
AT_128 = {"size": 128, "energy_widths": (64, 128, 256, 512, 1024, 1024), "energy_pools": 5}
IMAGENET = SYNTHESIS | {
    "iterations": 300_000,
    "crop": "random",
    "energy_lr_drops": ((230_000, 0.1), (260_000, 0.01)),
    "generator_lr": 5e-5,
    "generator_lr_drops": ((230_000, 0.2), (260_000, 0.02)),
    "max_grad_norm": 50.0,
}
JOINT = HAT | {"iterations": 25_000, "langevin_steps": 250, "eps": 1e-4, "eps_latent": 5e-3, "temperature": 1e-3}
JOINT |= {"alternate": True, "latent_shape": (), "residual_precision": 0.0, "sample_residual": 0.0, "energy_lr": 1e-5}
RETROFIT = {"langevin_steps": 100, "eps": 5e-4, "eps_latent": 1e-3, "residual_precision": 50.0, "data_noise": 1e-2}
RETROFIT |= {"energy_lr": 1e-4, "sample_residual": 0.01, "sample_steps": 125}
# Miyato, Kataoka, Koyama and Yoshida, "Spectral normalization for GANs" (2018), as in the mimicry library.
SNGAN = {
    "channels": 3,
    "crop": "center",
    "average": 0.0,
    "iterations": 100_000,
    "batch": 64,
    "latent_dim": 128,
    "output_scale": 1.0,
    "discriminator_updates": 5,
    "generator_lr": 2e-4,
    "discriminator_lr": 2e-4,
    "lr_hold": 0.0,
    "beta1": 0.0,
    "beta2": 0.9,
}
AUTOENCODER = {"channels": 3, "crop": "center", "average": 0.9999, "code_noise": 2e-2, "loss_weight": 1000.0}
AUTOENCODER |= {"encoder_widths": (256,) * 4, "decoder_widths": (256,) * 4, "lr": 1e-4, "lr_drops": ()}
# Du and Mordatch, "Implicit generation and modeling with energy-based models" (2019), arXiv 1903.08689, and its code.
IGEBM = {
    "crop": "center",
    "average": 0.0,
    "activation": "leaky",
    "dropout": False,
    "start": "uniform",
    "noise_std": 0.005,
    "buffer_size": 10_000,
    "reinit": 0.05,
    "loss": "difference",
    "energy_l2": 1.0,
    "lr": 1e-4,
    "lr_drops": (),
    "beta1": 0.0,
}
LONG_CHAINS = IGEBM | {"network": "resnet", "langevin_steps": 60, "step_size": 10.0, "max_gradient": 0.01}
LONG_CHAINS |= {"size": 32, "channels": 3, "stem_width": 128, "sample_steps": 600, "batch": 128}
SHORT_CHAINS = IGEBM | {"network": "conv", "langevin_steps": 20, "max_gradient": 0.0, "sample_steps": 200}
SHORT_CHAINS |= {"channels": 1, "hidden": 128, "batch": 256}

PUBLISHED = {
    ("hat-synthesis", "cifar10"): SYNTHESIS | AT_32 | {"generator_widths": (256,) * 4, "sample_steps": 125},
    ("hat-synthesis", "celeba"): SYNTHESIS
    | AT_64
    | {"generator_widths": (1024, 512, 256, 128, 64), "sample_steps": 100},
    ("hat-synthesis", "imagenet"): IMAGENET
    | AT_128
    | {"generator_widths": (1024, 1024, 512, 256, 128, 64), "sample_steps": 150},
    ("hat-synthesis", "imagenet-large"): IMAGENET
    | {"size": 128, "energy_widths": (128, 256, 512, 1024, 2048, 2048), "energy_pools": 5}
    | {"generator_widths": (2048, 2048, 1024, 512, 256, 128), "sample_steps": 125},
    ("hat-refine", "cifar10"): JOINT | AT_32 | {"sample_steps": 350},
    ("hat-refine", "celeba"): JOINT | AT_64 | {"langevin_steps": 100, "temperature": 1e-6, "sample_steps": 125},
    ("hat-retrofit", "cifar10"): JOINT | AT_32 | RETROFIT,
    ("sngan", "cifar10"): SNGAN
    | {"size": 32, "generator_widths": (256,) * 4, "discriminator_widths": (128,) * 4, "discriminator_pools": 2},
    ("sngan", "celeba"): SNGAN
    | {"size": 64, "generator_widths": (1024, 512, 256, 128, 64)}
    | {"discriminator_widths": (64, 128, 256, 512, 1024), "discriminator_pools": 5},
    ("autoencoder", "cifar10"): AUTOENCODER
    | {"size": 32, "iterations": 49_900, "batch": 128, "code_side": 16, "output_scale": 2.0},
    ("igebm", "cifar10"): LONG_CHAINS
    | {"classes": 0, "dropout": True, "iterations": 121_200}
    | {"energy_widths": (128, 256, 512), "energy_depths": (3, 3, 3)},
    ("igebm", "cifar10-conditional"): LONG_CHAINS
    | {"classes": 10, "iterations": 74_700, "energy_widths": (128, 256, 256), "energy_depths": (2, 2, 2)},
    ("igebm", "imagenet32"): LONG_CHAINS
    | {"classes": 1000, "batch": 32, "energy_widths": (256, 512, 1024), "energy_depths": (3, 3, 3)},
    ("igebm", "imagenet128"): LONG_CHAINS
    | {"size": 128, "classes": 1000, "batch": 16, "iterations": 2_238_000, "activation": "swish"}
    | {"langevin_steps": 50, "step_size": 100.0, "max_gradient": 0.0, "sample_steps": 200}
    | {"stem_width": 64, "energy_widths": (64, 128, 256, 512, 512), "energy_depths": (1, 1, 1, 1, 2)},
    ("igebm", "dsprites"): SHORT_CHAINS
    | {"size": 64, "classes": 3, "step_size": 500.0, "activation": "swish", "start": "normal"}
    | {"energy_widths": (32, 64, 128, 128, 128)},
    ("igebm", "mnist"): SHORT_CHAINS
    | {"size": 28, "classes": 0, "step_size": 1.0, "iterations": 60_000, "energy_widths": (64, 64, 128, 256)},
}
# Millions of weights that the networks of those papers have, to their three digits.
MILLIONS = {
    ("hat-synthesis", "cifar10"): {"energy": 4.20, "generator": 4.28},
    ("hat-synthesis", "celeba"): {"energy": 19.5, "generator": 12.2},
    ("hat-synthesis", "imagenet"): {"energy": 38.4, "generator": 32.2},
    ("hat-synthesis", "imagenet-large"): {"energy": 153.7, "generator": 124.3},
    ("hat-refine", "cifar10"): {"energy": 4.20},
    ("hat-refine", "celeba"): {"energy": 19.5},
    ("hat-retrofit", "cifar10"): {"energy": 4.20},
    ("sngan", "cifar10"): {"generator": 4.28, "discriminator": 1.05},
    ("sngan", "celeba"): {"generator": 12.2, "discriminator": 19.5},
    ("autoencoder", "cifar10"): {"encoder": 4.21, "decoder": 4.21},
    # None are given but MNIST's; the others by hand, as in tests/nets/test_igebm_nets.py.
    ("igebm", "cifar10"): {"energy": 18.6},
    ("igebm", "cifar10-conditional"): {"energy": 5.35},
    ("igebm", "imagenet32"): {"energy": 89.6},
    ("igebm", "imagenet128"): {"energy": 21.2},
    ("igebm", "dsprites"): {"energy": 0.953},
    ("igebm", "mnist"): {"energy": 1.25},
}
SIZES = (8, 16, 24, 32, 56, 64, 88, 128)


class Given(nn.Module):
    """A generator that gives images of a size, whatever the latents."""

    latent_shape = (5,)

    def __init__(self, config) -> None:
        super().__init__()
        self.shape = (config.channels, config.size, config.size)

    def forward(self, z):
        return torch.zeros(len(z), *self.shape)


def unallocated(system: str, config) -> Learner:
    """What learns under a configuration, on the meta device: shapes without numbers."""
    found = SYSTEMS[system]
    if hasattr(config, "bank_size"):
        config = replace(config, bank_size=config.batch)
    with torch.device("meta"):
        return found.learner.create(config, *([Given(config)] if found.generator else []), "meta")


def millions(network: nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_every_published_configuration_is_spelled_out_here():
    assert {(name, preset) for name, system in SYSTEMS.items() for preset in system.published} == set(PUBLISHED)


@pytest.mark.parametrize(("system", "preset"), PUBLISHED)
def test_published_numbers(system, preset):
    config = SYSTEMS[system].published[preset]
    assert {key: getattr(config, key) for key in PUBLISHED[system, preset]} == PUBLISHED[system, preset]


@pytest.mark.parametrize(("system", "preset"), PUBLISHED)
def test_published_networks_have_the_weights_of_the_paper(system, preset):
    learner = unallocated(system, SYSTEMS[system].published[preset])
    for name, wanted in MILLIONS[system, preset].items():
        assert millions(learner.parts[name].network) == pytest.approx(wanted, rel=5e-3), name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_small_configurations_stand_at_every_size(system, size):
    channels = 1 if size in (8, 32) else 3
    config = SYSTEMS[system].preset(size, channels)
    assert (config.size, config.channels) == (size, channels)
    learner = unallocated(system, config)
    assert sum(millions(part.network) for part in learner.parts.values()) < 1.5
    with torch.device("meta"):
        if system == "igebm":
            assert learner.energy(torch.zeros(2, channels, size, size)).shape == (2,)
        else:
            assert learner.generator(torch.zeros(2, *learner.generator.latent_shape)).shape == (2, channels, size, size)


@pytest.mark.parametrize("size", [4, 9, 12, 132, 136, 256])
@pytest.mark.parametrize("system", SYSTEMS)
def test_other_sizes_are_refused(system, size):
    with pytest.raises(UsageError, match=f"--size: wanted a multiple of 8 from 8 to 128, got {size}"):
        SYSTEMS[system].preset(size, 1)


def test_the_digits_have_configurations_of_one_size():
    numbers = [item for system in (hat, sngan, autoencoder, igebm) for item in vars(system.presets).items()]
    ready = [value for name, value in numbers if name.startswith("DIGITS")]
    assert len(ready) == 6
    assert all((config.size, config.channels) == (8, 1) for config in ready)


PRESETS = [
    (["hat-synthesis", "--preset", "faces"], "--preset: wanted one of cifar10, celeba, imagenet, imagenet-large, got"),
    (["hat-retrofit", "--preset", "celeba"], "--preset: wanted one of cifar10, got 'celeba'"),
    (["hat-synthesis", "--preset", "imagenet"], "--preset: imagenet brings no data; name a folder of images with"),
    (["hat-synthesis", "--preset", "imagenet-large"], "--preset: imagenet-large brings no data; name a folder"),
    (["hat-synthesis", "--preset", "cifar10", "--data", "digits"], "--set: channels must be 1 like the data, got 3"),
]


@pytest.mark.parametrize(("arguments", "message"), PRESETS)
def test_presets_that_do_not_fit_are_refused(tmp_path, arguments, message):
    assert message in refusal("train", *arguments, "--out", tmp_path / "run", "--data-root", tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("system", "preset"), [(s, p) for s, found in SYSTEMS.items() for p in found.published])
def test_a_preset_asks_for_its_own_images(tmp_path, monkeypatch, system, preset):
    asked = []

    def load(*given):
        asked.append(given)
        raise UsageError("enough")

    monkeypatch.setattr("hatebm.data.load", load)
    (tmp_path / preset).mkdir()
    assert "enough" in refusal("train", system, "--preset", preset, "--data-root", tmp_path, "--out", tmp_path / "run")
    config = SYSTEMS[system].published[preset]
    assert asked == [(preset, config.size, str(tmp_path), config.crop)]
