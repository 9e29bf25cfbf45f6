"""IGEBM: an energy learns from data against the ends of chains that a replay buffer keeps going.

Source: Du and Mordatch, "Implicit generation and modeling with energy-based models" (2019), arXiv 1903.08689, and the
code published with it. The model is `p(x) = exp(-E(x)) / Z`, of a class `p(x | y) = exp(-E(x, y)) / Z(y)`.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from hatebm.data import Images
from hatebm.learning.config import dropped
from hatebm.learning.learner import ImageChain, Learner, drawn_by
from hatebm.learning.part import Part
from hatebm.nets.igebm import SpectralConvNet, SpectralResNet
from hatebm.nets.spectral import iterate_power
from hatebm.sampling.chain import Chain
from hatebm.sampling.replay import ReplayBuffer
from hatebm.systems.igebm.config import IGEBMConfig
from hatebm.systems.igebm.dropout import in_a_chain, in_an_update
from hatebm.systems.igebm.starts import fresh_starts
from hatebm.systems.igebm.update import dithered_batch, update_energy

BOX = (0.0, 1.0)


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
        shape = (config.channels, config.size, config.size)
        learner.buffer = ReplayBuffer(config.buffer_size, shape, box=BOX, seed=config.seed, device=device)
        return learner

    @property
    def energy(self) -> nn.Module:
        return self.parts["energy"].evaluated

    def iterate(self, images: Images) -> dict[str, float]:
        """One iteration.

        1. (x-, y-) are drawn from the buffer, or afresh from `config.start` and the labels of the data.
        2. K Langevin steps of x- on E(., y-).
        3. E descends `mean E(x+, y+) - mean E(x-, y-) + l2 (mean E(x+, y+)^2 + mean E(x-, y-)^2)`.
        4. (x-, y-) go into the buffer.
        """
        config, t, energy = self.config, self.iteration, self.parts["energy"]
        iterate_power(energy.network)
        if energy.average is not None:
            iterate_power(energy.average)
        data, labels = dithered_batch(images, config, t, self.device)
        fresh = partial(fresh_starts, config, seed=config.seed, step=t, device=self.device)
        start, kept_labels, _ = self.buffer.draw(config.batch, t, reinit=config.reinit, labels=labels, init=fresh)
        place = {"seed": config.seed, "first_step": t * config.langevin_steps}
        chain = self._chain(energy.network, start, kept_labels, dropout=config.dropout, **place)
        sampled = chain.run(config.langevin_steps)
        kept = in_an_update(energy.network, config.batch, seed=config.seed, iteration=t) if config.dropout else {}
        learned = update_energy(energy, (data, labels), (sampled, kept_labels), config, kept)
        self.buffer.push(sampled, t, labels=kept_labels)
        return learned

    def chain(self, chain_ids: Sequence[int], *, seed: int, labels: Tensor | None = None) -> ImageChain:
        config = self.config
        start = fresh_starts(config, chain_ids, seed=seed, step=0, device=self.device)
        if config.classes and labels is None:
            labels = torch.tensor(list(chain_ids), dtype=torch.int64, device=self.device) % config.classes
        chain = self._chain(self.energy, start, labels, seed=seed, chain_ids=chain_ids)
        return ImageChain(chain, lambda x: 2 * x - 1)

    def stages(self) -> dict[str, int]:
        k, more = self.config.langevin_steps, self.config.sample_steps
        return {f"{k} Langevin steps": k, f"{more} Langevin steps": more}

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
