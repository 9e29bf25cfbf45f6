"""IGEBM: an energy learns from data against the ends of chains that a replay buffer keeps going.

Source: Du and Mordatch, "Implicit generation and modeling with energy-based models" (2019), arXiv 1903.08689, and the
code published with it. The model is `p(x) = exp(-E(x)) / Z`, of a class `p(x | y) = exp(-E(x, y)) / Z(y)`.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from hatebm.data import SIGNED, Images, rescaled
from hatebm.learning.config import dropped
from hatebm.learning.learner import ImageChain, Learner, drawn_by
from hatebm.learning.part import Part
from hatebm.nets.igebm import SpectralConvNet, SpectralResNet
from hatebm.nets.spectral import iterate_power
from hatebm.sampling.chain import Chain
from hatebm.systems.igebm import buffer
from hatebm.systems.igebm.config import IGEBMConfig
from hatebm.systems.igebm.dropout import in_a_chain, in_an_update
from hatebm.systems.igebm.labels import labels_of
from hatebm.systems.igebm.scores import igebm_scores
from hatebm.systems.igebm.starts import fresh_starts
from hatebm.systems.igebm.update import dithered_batch, update_energy

QUALITY_AT = (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40)  # of K steps


class IGEBM(Learner):
    """The energy E and the replay buffer of its chains, with the labels of a conditional one."""

    CURVES: ClassVar = {
        "energy_gap": "E(data) - E(samples)",
        "energy": "E(data)",
        "gradient": "mean |dE/dx|",
    }

    config: IGEBMConfig

    @classmethod
    def create(cls, config: IGEBMConfig, device: torch.device | str = "cpu") -> "IGEBM":
        """A fresh energy and an empty buffer, determined by `config.seed`; the global random state is left alone."""
        with drawn_by(config.seed):
            network = energy_network(config)
        network.to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(network.parameters(), config.lr, betas=(config.beta1, 0.999), fused=True)
        part = Part(
            network,
            optimizer,
            lambda t: dropped(config.lr, config.lr_drops, t),
            config.average,
            max_grad_sigmas=3.0,
        )
        learner = cls(config, {"energy": part})
        learner.buffer = buffer.empty(config, device)
        return learner

    @property
    def energy(self) -> nn.Module:
        return self.parts["energy"].evaluated

    @property
    def classes(self) -> int:
        return self.config.classes

    def iterate(self, images: Images) -> dict[str, float]:
        """One iteration.

        1. (x-, y-) are drawn from the buffer, or afresh from `config.start` and the labels of the data.
        2. K Langevin steps of x- on E(., y-).
        3. E descends `mean E(x+, y+) - mean E(x-, y-) + l2 (mean E(x+, y+)^2 + mean E(x-, y-)^2)`.
        4. (x-, y-) go into the buffer.
        """
        config, t, energy = self.config, self.iteration, self.parts["energy"]
        seed = self.buffer.seed = self.noise_seed
        iterate_power(energy.network)
        if energy.average is not None:
            iterate_power(energy.average)
        data, labels = dithered_batch(images, config, t, seed, self.device)
        fresh = partial(fresh_starts, config, seed=seed, step=t, device=self.device)
        start, kept_labels, _ = self.buffer.draw(config.batch, t, reinit=config.reinit, labels=labels, init=fresh)
        place = {"seed": seed, "first_step": t * config.langevin_steps}
        chain = self._chain(energy.network, start, kept_labels, dropout=config.dropout, **place)
        sampled, info = chain.run(config.langevin_steps, return_info=True, every=config.langevin_steps)
        kept = in_an_update(energy.network, config.batch, seed=seed, iteration=t) if config.dropout else {}
        learned = update_energy(energy, (data, labels), (sampled, kept_labels), config, kept)
        self.buffer.push(sampled, t, labels=kept_labels)
        return {
            **learned,
            "gradient": info["grad_norm"].mean().item(),
            "displacement": (sampled - start).square().mean().sqrt().item(),
        }

    def chain(self, chain_ids: Sequence[int], *, seed: int, labels: Sequence[int] | None = None) -> ImageChain:
        """Chains from `config.start`; chain c is of class labels[c % len(labels)], by default c % classes.

        Raises ValueError for labels that are no classes, and for any without classes.
        """
        config = self.config
        start = fresh_starts(config, chain_ids, seed=seed, step=0, device=self.device)
        with torch.inference_mode(False):  # gradients in the images pass them
            of_classes = labels_of(chain_ids, config.classes, labels)
            of_classes = None if of_classes is None else of_classes.to(self.device)
        chain = self._chain(self.energy, start, of_classes, seed=seed, chain_ids=chain_ids)
        return ImageChain(chain, lambda x: rescaled(x, buffer.BOX, SIGNED))

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        return igebm_scores(self.energy, images, self.config, self.device)

    def stages(self) -> dict[str, int]:
        half, whole = self.config.sample_steps // 2, self.config.sample_steps
        return {f"{steps} Langevin steps": steps for steps in (half, whole)}

    def quality_steps(self) -> list[int]:
        """From K / 2 up, by factors, to the last stage and as far again, where refinement may have gone too far."""
        last, steps = max(self.stages().values()), {round(self.trained_steps * factor) for factor in QUALITY_AT}
        return sorted({step for step in steps if 0 < step < 2 * last} | {last, 2 * last})

    def samples(self, images: Images, n: int, *, seed: int) -> dict[str, Tensor]:
        """Samples of each stage, and what the buffer now holds, once it holds anything."""
        held = {title: x for title, (x, _) in self._replayed(n).items()}
        return super().samples(images, n, seed=seed) | held

    def sample_labels(self, n: int) -> dict[str, Tensor]:
        if not self.classes:
            return {}
        held = {title: labels for title, (_, labels) in self._replayed(n).items()}
        return dict.fromkeys(self.stages(), labels_of(range(n), self.classes)) | held

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | buffer.kept(self.buffer, self.config)

    def restore(self, named: dict[str, Tensor], iteration: int) -> None:
        of_buffer = {name: tensor for name, tensor in named.items() if name.startswith(buffer.NAME)}
        held = buffer.restored(of_buffer, self.config, self.device)
        super().restore({name: tensor for name, tensor in named.items() if name not in of_buffer}, iteration)
        self.buffer = held

    def _replayed(self, n: int) -> dict[str, tuple[Tensor, Tensor | None]]:
        if not len(self.buffer):
            return {}
        return {"replay buffer": buffer.shown(self.buffer, n)}

    def _chain(
        self, energy: nn.Module, start: Tensor, labels: Tensor | None, *, seed: int, dropout: bool = False, **place
    ) -> Chain:
        given = {} if labels is None else {"labels": labels}
        if dropout:
            given = in_a_chain(energy, len(start), given, seed)
        return Chain(energy, start, self.config.dynamics, energy_kwargs=given, seed=seed, **place)


def energy_network(config: IGEBMConfig) -> nn.Module:
    """A fresh E; its weights come from torch's generator as it stands."""
    image, widths, of_class = (config.size, config.channels), config.energy_widths, (config.classes, config.activation)
    if config.network == "conv":
        return SpectralConvNet(*image, widths, config.hidden, *of_class)
    return SpectralResNet(*image, widths, config.energy_depths, *of_class, config.stem_width)
