"""A system that breaks when it is told to, to see how its training goes back, and trainings of it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from hatebm.data import Images
from hatebm.dynamics.health import ChainDiverged
from hatebm.learning.config import Config
from hatebm.learning.learner import Learner, adam, drawn_by
from hatebm.learning.part import Part
from hatebm.learning.symptoms import Symptom, later_half
from hatebm.learning.system import System
from hatebm.ops.noise import Purpose, normal


@dataclass(frozen=True, kw_only=True)
class BreakingConfig(Config):
    """breaks: (how, iteration), one after another, each after as many returns as stand before it."""

    MAY_BE_ZERO = Config.MAY_BE_ZERO | {"max_returns"}

    size: int = 8
    channels: int = 1
    batch: int = 4
    iterations: int = 70
    average: float = 0.5
    langevin_steps: int = 3
    max_returns: int = 2
    breaks: tuple = (("metric", 45), ("symptom", 38))


class Breaking(Learner):
    """Weights and a memory that wander with the noise of their training."""

    CURVES: ClassVar = {"loss": "loss"}

    config: BreakingConfig

    @classmethod
    def create(cls, config: BreakingConfig, device: torch.device | str = "cpu") -> "Breaking":
        with drawn_by(config.seed):
            network = nn.Linear(3, 2)
        part = Part(network.to(device), adam(network, 0.1), lambda t: 0.1 / (t + 1), config.average)
        return cls(config, {"walker": part}, {"trace": torch.zeros(3, dtype=torch.float32, device=device)})

    def iterate(self, images: Images) -> dict[str, float]:
        x = normal((4, 3), seed=self.noise_seed, step=self.iteration, purpose=Purpose.DATA_NOISE)
        self.memory["trace"].mul_(0.5).add_(x[0])
        measured = {"loss": self.parts["walker"].descend(self.parts["walker"].network(x).square().mean()), "sick": 0.0}
        self._break(measured)
        return measured

    def _break(self, measured: dict[str, float]) -> None:
        how, iteration = dict(enumerate(self.config.breaks)).get(self.returns, ("not", 0))
        if how == "symptom" and self.iteration + 1 >= iteration:
            measured["sick"] = 1.0
        elif self.iteration + 1 != iteration:
            return
        elif how == "metric":
            measured["loss"] = float("nan")
        elif how == "weight":
            with torch.no_grad():
                self.parts["walker"].network.bias[0] = float("nan")
        elif how == "chain":
            raise ChainDiverged(self.iteration * self.config.langevin_steps + 1, [0, 2])

    def chain(self, chain_ids, *, seed: int): ...
    def scores(self, images): ...

    def stages(self) -> dict[str, int]:
        return {"x": 0}


SICK = Symptom("it is sick; lower lr", ("sick",), lambda rows, _: all(row["sick"] for row in later_half(rows)), True)
SYSTEM = System(
    config=BreakingConfig, learner=Breaking, preset=lambda size, channels: BreakingConfig(), symptoms=(SICK,)
)
