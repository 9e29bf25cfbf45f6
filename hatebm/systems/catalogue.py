"""The systems by the names that the command line and the run folders use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hatebm.learning.config import Config
from hatebm.learning.learner import Learner
from hatebm.systems.autoencoder import Autoencoder, AutoencoderConfig
from hatebm.systems.hat import Joint, JointConfig, Synthesis, SynthesisConfig, presets
from hatebm.systems.sngan import SNGAN, SNGANConfig


@dataclass(frozen=True)
class System:
    """One system: its numbers, its algorithm, and its ready configurations.

    preset: configuration for images of a size and a number of channels that a CPU can train; published: those of the
    papers, by name; generator: the system that trains the frozen generator on which this one learns, if it needs one.
    """

    config: type[Config]
    learner: type[Learner]
    preset: Callable[[int, int], Config]
    published: Mapping[str, Config] = field(default_factory=dict)
    generator: str | None = None


SYSTEMS = {
    "hat-synthesis": System(SynthesisConfig, Synthesis, presets.hat_synthesis, presets.HAT_SYNTHESIS),
    "hat-refine": System(JointConfig, Joint, presets.hat_refine, presets.HAT_REFINE, generator="sngan"),
    "hat-retrofit": System(JointConfig, Joint, presets.hat_retrofit, presets.HAT_RETROFIT, generator="autoencoder"),
    "sngan": System(SNGANConfig, SNGAN, presets.sngan, presets.SNGAN),
    "autoencoder": System(AutoencoderConfig, Autoencoder, presets.autoencoder, presets.AUTOENCODER),
}
