"""What goes wrong in the training of a Hat EBM, seen in its metrics, and which knob to turn.

Each symptom is a property of the last rows of metrics.jsonl: the failures that users of short-run energy-based models
report.
"""

from hatebm.learning.symptoms import Rows, Symptom, gap_swings_wider, later_half, mean
from hatebm.systems.hat.config import HatConfig, JointConfig, SynthesisConfig


def stuck_at_the_cap(rows: Rows, config: HatConfig) -> bool:
    """The drift of the residual is nearly always as long as the cap allows: the gradient explodes."""
    noise = config.eps * (config.channels * config.size**2) ** 0.5
    return mean(later_half(rows), "displacement") ** 2 > (0.95 * config.max_displacement) ** 2 + noise**2


def sampler_is_dead(rows: Rows, config: HatConfig) -> bool:
    """Chains end as far off as their noise alone carries them, eps sqrt(K): the drift does nothing."""
    late, walks = later_half(rows), {"residual": config.eps}
    if "latent_displacement" in late[-1]:
        walks["latent_displacement"] = config.eps_latent
    ways = [mean(late, name) / (eps * config.langevin_steps**0.5) for name, eps in walks.items()]
    return all(0.98 < way < 1.02 for way in ways)


def generator_falls_behind(rows: Rows, config: SynthesisConfig) -> bool:
    """The generator's loss rises, once its bank is renewed: its teacher, the chain, moves faster than it learns."""
    third = len(rows) // 3
    first, middle, last = (mean(rows[i * third : (i + 1) * third], "generator_loss") for i in range(3))
    renewed = rows[0]["step"] > 10 * config.bank_size / config.batch  # ten times the mean age of a pair
    return renewed and first < middle < last and last > 1.5 * first


def latents_drift(rows: Rows, config: JointConfig) -> bool:
    """The latents leave the shell of N(0, I), which no prior keeps them on."""
    return not 0.7 < mean(later_half(rows), "latent_norm") < 1.4


def oversaturated(rows: Rows, config: HatConfig) -> bool:
    """Pixels lie beyond [-1, 1] by a tenth of its length: H wins, and the chains run away from the data."""
    return mean(later_half(rows), "overshoot") > 0.2


SYMPTOMS = (
    Symptom(
        "moves are stuck at max_displacement: the gradient of H explodes; lower energy_lr, or raise temperature",
        ("displacement",),
        stuck_at_the_cap,
    ),
    Symptom(
        "the energy gap swings around 0, wider and wider; lower energy_lr, or raise langevin_steps",
        ("energy_gap", "gap_error"),
        gap_swings_wider,
    ),
    Symptom(
        "chains move no further than their noise: the drift eps^2 / (2 T) is too small; lower temperature",
        ("residual",),
        sampler_is_dead,
    ),
    Symptom(
        "the generator loss grows: its teacher moves faster than G learns; lower energy_lr, or raise bank_size",
        ("generator_loss", "energy_gap"),
        generator_falls_behind,
    ),
    Symptom(
        "latents leave the shell of N(0, I), and no prior holds them; lower eps_latent or langevin_steps",
        ("latent_norm",),
        latents_drift,
    ),
    Symptom(
        "samples lie far beyond [-1, 1]: they oversaturate; lower energy_lr, or langevin_steps and sample_steps",
        ("overshoot",),
        oversaturated,
    ),
)
