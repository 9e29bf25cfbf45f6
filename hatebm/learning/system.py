"""All that a system is, as the command line and the run folders take it up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hatebm.learning.config import Config
from hatebm.learning.learner import Learner
from hatebm.learning.symptoms import Symptom


@dataclass(frozen=True, kw_only=True)
class System:
    """One system: its numbers, its algorithm, its ready configurations, and what goes wrong in it.

    preset: configuration for images of a size and a number of channels that a CPU can train; published: those of the
    papers, by name; symptoms: what its metrics may show; generator: the system, by its name in the catalogue, that
    trains the frozen generator on which this one learns, if it needs one.
    """

    config: type[Config]
    learner: type[Learner]
    preset: Callable[[int, int], Config]
    published: Mapping[str, Config] = field(default_factory=dict)
    symptoms: tuple[Symptom, ...] = ()
    generator: str | None = None
