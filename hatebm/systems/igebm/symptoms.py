"""What goes wrong in the training of an IGEBM, seen in its metrics, and which knob to turn.

Each symptom is a property of the last rows of metrics.jsonl: the failures that users of the published code and of its
successors report. Energies count in units of their spread over the images of a batch, since only that is learnt.
"""

from itertools import pairwise
from statistics import fmean, median

from hatebm.learning.symptoms import Rows, Symptom, gap_swings_wider, later_half, mean
from hatebm.systems.igebm.config import IGEBMConfig


def chains_do_not_mix(rows: Rows, config: IGEBMConfig) -> bool:
    """Samples lie far above the data in energy: the chains do not get there, and E merely tells the two apart."""
    return mean(later_half(rows), "energy_gap") < -3 * spread(later_half(rows), config)


def saturated(rows: Rows, config: IGEBMConfig) -> bool:
    """The chains drive the pixels to 0 and 1."""
    return mean(later_half(rows), "saturation") > 0.5


def energies_drift(rows: Rows, config: IGEBMConfig) -> bool:
    """The energies lie far from 0 for their spread: nothing holds them there."""
    return abs(mean(later_half(rows), "energy")) > 20 * spread(later_half(rows), config)


def energies_run_away(rows: Rows, config: IGEBMConfig) -> bool:
    """The energies lie beyond 10 on either side, where the code of Du et al. (2021) ends a training too."""
    return fmean(abs(row["energy"]) for row in later_half(rows)) > 10


def gradients_grow(rows: Rows, config: IGEBMConfig) -> bool:
    """The gradient in the pixels doubles from quarter to quarter, twice."""
    quarter = len(rows) // 4
    sizes = [median(row["gradient"] for row in rows[i * quarter : (i + 1) * quarter]) for i in range(1, 4)]
    return all(late > 2 * early for early, late in pairwise(sizes))


def spread(rows: Rows, config: IGEBMConfig) -> float:
    """The standard deviation of the energies of a batch's images, data and samples."""
    return fmean(row["gap_error"] for row in rows) * (config.batch / 2) ** 0.5


SYMPTOMS = (
    Symptom(
        "samples stay far above the data in energy: chains do not mix; raise step_size, max_gradient or "
        "langevin_steps, or lower reinit",
        ("energy_gap", "gap_error"),
        chains_do_not_mix,
    ),
    Symptom(
        "energies drift away from 0, which nothing holds them at; raise energy_l2",
        ("energy", "gap_error"),
        energies_drift,
    ),
    Symptom(
        "pixels of the samples lie at 0 and 1: chains run away; lower step_size, or max_gradient",
        ("saturation",),
        saturated,
        diverged=True,
    ),
    Symptom(
        "energies run away; lower lr, or raise energy_l2",
        ("energy",),
        energies_run_away,
        diverged=True,
    ),
    Symptom(
        "the energy gap swings around 0, wider and wider; lower lr, or raise langevin_steps",
        ("energy_gap", "gap_error"),
        gap_swings_wider,
        diverged=True,
    ),
    Symptom(
        "the gradient in the pixels doubles again and again; lower lr",
        ("gradient",),
        gradients_grow,
        diverged=True,
    ),
)
