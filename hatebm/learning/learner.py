"""What learns: its parts, and all else that a training must remember."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hatebm.data import Images
from hatebm.errors import UsageError
from hatebm.learning.config import Config
from hatebm.learning.part import Part
from hatebm.ops.checks import describe
from hatebm.sampling.chain import Chain

CHAINS_AT_ONCE = 250


@dataclass
class ImageChain:
    """A chain, and the images that its states stand for."""

    chain: Chain
    image: Callable[[Any], Tensor]

    def run(self, n_steps: int) -> Tensor:
        """Advance by `n_steps`; returns the images, (n, channels, size, size) float32, unclipped."""
        return self.image(self.chain.run(n_steps))


class Learner(ABC):
    """A system in training: everything that changes, one iteration, and what can be drawn from it.

    Attributes:
        config: all its numbers.
        parts: the networks that learn.
        memory: other tensors that a restart needs.
        iteration: how many iterations are finished.
        returns: how often it diverged and went back.
        noise_seed: the seed of its training, another one after each return; at first that of the configuration.
        rate: factor of all learning rates, lower after each return; at first 1.
    """

    METHOD: ClassVar[str] = "langevin"  # how it samples, as `hatebm sample --method` says it
    BEST: ClassVar[tuple[int, int] | None] = None  # times K: where samples are best, if more steps oversaturate them
    CURVES: ClassVar[dict[str, str]]  # what an iteration measures -> the words on its axis

    def __init__(self, config: Config, parts: dict[str, Part], memory: dict[str, Tensor] | None = None) -> None:
        self.config, self.parts, self.memory = config, parts, memory or {}
        self.iteration = 0
        self.returns, self.noise_seed, self.rate = 0, config.seed, 1.0

    @abstractmethod
    def iterate(self, images: Images) -> dict[str, float]:
        """The algorithm's iteration number `self.iteration`, in place; returns what it measured."""

    @abstractmethod
    def chain(self, chain_ids: Sequence[int], *, seed: int) -> ImageChain:
        """Chains before their first step; each is determined by its id and the seed."""

    @abstractmethod
    def stages(self) -> dict[str, int]:
        """What is worth comparing: title -> number of steps of the chain."""

    @abstractmethod
    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """How much images look like the data, by each measure that the system has: name -> (n,) float32 on the CPU.

        A higher score is more like the data. Averaged weights are used where there are any, and no training is changed.

        Args:
            images: (n, channels, size, size) uint8, of the configuration's channels and size, on any device.

        Raises:
            TypeError, ValueError: images of another kind or shape.
        """

    @property
    def classes(self) -> int:
        """Of how many classes it draws, each of its own; 0 where it knows none."""
        return 0

    @property
    def trained_steps(self) -> int:
        """K, the steps of a chain in training; where none is trained on, those of the longest stage."""
        return getattr(self.config, "langevin_steps", max(self.stages().values()))

    def quality_steps(self) -> list[int]:
        """The increasing numbers of steps after which samples are worth judging, those of the last stage among them."""
        last = max(self.stages().values())
        factors = (0, 0.5, 1, 1.5, 2, 2.5, 3, 4) if last else ()
        return sorted({round(self.trained_steps * factor) for factor in factors} | {last})

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(next(iter(self.parts.values())).network.parameters()).device

    @property
    def frozen(self) -> dict[str, Tensor]:
        """The tensors of networks that it stands on and that never change; a checkpoint keeps their checksum alone."""
        return {}

    @property
    def generator(self) -> nn.Module:
        """The generator as other systems take it over; raises UsageError where there is none."""
        raise UsageError(f"{type(self).__name__} has no generator")

    @property
    def energy(self) -> nn.Module:
        """The energy of images, low = likely; raises UsageError where there is none."""
        raise UsageError(f"{type(self).__name__} has no energy of images")

    def advance(self, images: Images) -> dict[str, float]:
        """One iteration at its learning rates, then the averages; returns what it measured."""
        for part in self.parts.values():
            for group in part.optimizer.param_groups:
                group["lr"] = self.rate * part.rate(self.iteration)
        measured = self.iterate(images)
        for part in self.parts.values():
            if part.average is not None:
                part.average.update_parameters(part.network)
        self.iteration += 1
        return measured

    def batches(
        self, n: int, steps: Sequence[int], *, seed: int, labels: Sequence[int] | None = None
    ) -> Iterator[list[Tensor]]:
        """Run n chains, some at a time, seen after each of the increasing numbers of steps; 0 is where they begin.

        Each batch: for each entry of `steps`, (b, channels, size, size) float32 on the CPU, unclipped.

        labels: classes, as the `chain` of a learner that draws of classes takes them.
        """
        given = {} if labels is None else {"labels": labels}
        for first in range(0, n, CHAINS_AT_ONCE):
            chain = self.chain(range(first, min(first + CHAINS_AT_ONCE, n)), seed=seed, **given)
            done, seen = 0, []
            for goal in steps:
                seen.append(chain.run(goal - done).cpu())
                done = goal
            yield seen

    def sample(self, n: int, steps: Sequence[int], *, seed: int, labels: Sequence[int] | None = None) -> list[Tensor]:
        """All batches of `batches` in one: for each entry of `steps`, (n, channels, size, size) float32."""
        return [torch.cat(seen) for seen in zip(*self.batches(n, steps, seed=seed, labels=labels), strict=True)]

    def samples(self, images: Images, n: int, *, seed: int) -> dict[str, Tensor]:
        """Samples of each stage, n of them: title -> (n, channels, size, size) float32."""
        stages = dict(sorted(self.stages().items(), key=lambda stage: stage[1]))
        return dict(zip(stages, self.sample(n, list(stages.values()), seed=seed), strict=True))

    def sample_labels(self, n: int) -> dict[str, Tensor]:
        """The classes of which `samples` drew n images: title -> (n,) int64 on the CPU, for sets that have any."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that changes, under one name each, as a checkpoint keeps them."""
        return self.learned()

    def learned(self) -> dict[str, Tensor]:
        """Those of the parts and of the memory, none of them a copy."""
        named = dict(self.memory)
        for name, part in self.parts.items():
            named |= part.tensors(name)
        return named

    def restore(self, named: dict[str, Tensor], iteration: int) -> None:
        """Take back what `tensors` gave; raises ValueError, and changes nothing, when it is not all that.

        Every tensor must be there, of the shape and the dtype that this configuration gives it, and finite.
        """
        wanted = dict(self.memory)
        for name, part in self.parts.items():
            wanted |= part.shapes(name, begun=iteration > 0)
        require_fit(named, wanted)
        for name, part in self.parts.items():
            part.restore(name, named)
        for name, tensor in self.memory.items():
            tensor.copy_(named[name])
        self.iteration = iteration


@contextmanager
def drawn_by(seed: int) -> Iterator[None]:
    """Networks that are made here have the random start of the seed, on the CPU; torch's generator stays as it is."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        yield


def adam(network: nn.Module, lr: float, beta1: float = 0.9, beta2: float = 0.999) -> torch.optim.Adam:
    """Adam with the small constant of Keras, under which the published numbers were found."""
    return torch.optim.Adam(network.parameters(), lr, betas=(beta1, beta2), eps=1e-7, fused=True)


def require_fit(named: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise ValueError where tensors have other names, shapes or dtypes than those wanted, or are not finite."""
    for name in sorted(named.keys() ^ wanted.keys()):
        raise ValueError(f"the tensor {name} is {'unknown' if name in named else 'missing'}")
    for name, tensor in named.items():
        if (tensor.shape, tensor.dtype) != (wanted[name].shape, wanted[name].dtype):
            raise ValueError(f"the tensor {name} must be {describe(wanted[name])}, got {describe(tensor)}")
        if not tensor.isfinite().all():
            raise ValueError(f"the tensor {name} is not finite")
