"""Ready configurations of an IGEBM: the published ones, and small ones for a CPU, found on digits by trial.

Source of the published numbers: the commands in the README of github.com/openai/ebm_code_release and the defaults of
its train.py, which say 3e-4 for the rate where the paper (arXiv 1903.08689) has 1e-4.
"""

from dataclasses import replace

from hatebm.learning.widths import halvings, widening
from hatebm.systems.igebm.config import IGEBMConfig

PUBLISHED = {
    "cifar10": IGEBMConfig(),
}

DIGITS = IGEBMConfig(
    size=8,
    channels=1,
    network="conv",
    energy_widths=(32, 64, 64),
    energy_depths=(1, 1, 1),
    hidden=64,
    activation="swish",
    dropout=False,
    langevin_steps=20,
    sample_steps=400,
    iterations=1500,
    batch=64,
    buffer_size=2000,
    lr=1e-3,
)


def small(size: int, channels: int) -> IGEBMConfig:
    """IGEBM at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    if size == 8:
        return replace(DIGITS, channels=channels)
    return replace(DIGITS, size=size, channels=channels, energy_widths=widening(halvings(size)))
