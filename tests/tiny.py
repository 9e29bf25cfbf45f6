"""A Hat EBM and data small enough that a test can train it many times."""

from dataclasses import replace

import pytest
import torch

from hatebm.data import Images
from hatebm.nets import ResidualGenerator
from hatebm.systems.hat import JointConfig
from hatebm.systems.hat.presets import DIGITS_SYNTHESIS

CONFIG = replace(
    DIGITS_SYNTHESIS,
    energy_widths=(4, 6),
    generator_widths=(6, 6, 4),
    latent_dim=5,
    langevin_steps=3,
    sample_steps=6,
    iterations=6,
    batch=4,
    bank_size=12,
    energy_lr_drops=((3, 0.5),),
    generator_lr_drops=((3, 0.5),),
    average=0.9,
)
JOINT = JointConfig(
    size=8,
    channels=1,
    energy_widths=(4, 6),
    energy_pools=2,
    langevin_steps=3,
    sample_steps=6,
    eps=1e-2,
    eps_latent=5e-2,
    temperature=1e-2,
    max_displacement=1.0,
    residual_precision=0.5,
    sample_residual=0.1,
    iterations=6,
    batch=4,
    average=0.9,
    data_noise=0.02,
    energy_lr=2e-3,
    energy_lr_drops=((3, 0.5),),
    energy_beta1=0.0,
)
SETTINGS = [
    *("--set", "energy_widths=(4,6)", "--set", "generator_widths=(6,6,4)", "--set", "latent_dim=5"),
    *(
        "--set",
        "langevin_steps=3",
        "--set",
        "sample_steps=6",
        "--set",
        "bank_size=12",
        "--batch",
        "4",
        "--threads",
        "1",
    ),
]


def images(n: int = 10) -> Images:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pictures, pictures[:0], torch.arange(n) % 3)


def generator() -> ResidualGenerator:
    """A generator for JOINT, whose batch norms have seen latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ResidualGenerator(8, 1, 5, (6, 6, 4), output_scale=1.0, norm="batch")
        with torch.no_grad():
            for _ in range(5):
                made(torch.randn(20, 5))
    return made.eval()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """So small a network is done before a second thread has joined in, and on a busy machine waiting takes seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
