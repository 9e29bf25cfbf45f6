"""Learning to reconstruct: an encoder and a decoder that give images back from noisy codes.

Source: Hill et al., "Hat EBM" (2022), arXiv 2210.16486, retrofit experiment, and its official code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.data import Images, batch_indices, to_pixels
from hatebm.errors import UsageError
from hatebm.learning.config import dropped
from hatebm.learning.learner import CHAINS_AT_ONCE, Learner, adam, drawn_by
from hatebm.learning.part import Part
from hatebm.learning.scores import scores_of
from hatebm.nets import Decoder, Encoder
from hatebm.ops.noise import Purpose, normal
from hatebm.systems.autoencoder.config import AutoencoderConfig


class Autoencoder(Learner):
    """An encoder I and a decoder G that learn to give images back from noisy codes; I is of no use afterwards."""

    METHOD: ClassVar = "decoding"
    CURVES: ClassVar = {"reconstruction_loss": "reconstruction loss"}

    config: AutoencoderConfig

    @classmethod
    def create(cls, config: AutoencoderConfig, device: torch.device | str = "cpu") -> "Autoencoder":
        """Fresh networks and optimisers, determined by `config.seed`; the global random state is left alone."""
        size, channels, side = config.size, config.channels, config.code_side
        with drawn_by(config.seed):
            encoder = Encoder(size, channels, side, config.encoder_widths)
            decoder = Decoder(size, channels, side, config.decoder_widths, config.output_scale)
        parts = {}
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            network.to(device, memory_format=torch.channels_last)
            optimizer = adam(network, config.lr)
            parts[name] = Part(network, optimizer, lambda t: dropped(config.lr, config.lr_drops, t), config.average)
        return cls(config, parts)

    @property
    def generator(self) -> nn.Module:
        return self.parts["decoder"].evaluated

    def iterate(self, images: Images) -> dict[str, float]:
        """One Adam step of I and of G down `loss_weight * mean (x - G(I(x) + code_noise * N(0, I)))^2`."""
        config, t = self.config, self.iteration
        encoder, decoder = self.parts["encoder"], self.parts["decoder"]
        index = batch_indices(len(images.train), config.batch, seed=config.seed, iteration=t)
        data = to_pixels(images.train[index].to(self.device))
        code = encoder.network(data)
        noise = normal(code.shape, seed=config.seed, step=t, purpose=Purpose.DATA_NOISE, device=self.device)
        loss = config.loss_weight * F.mse_loss(decoder.network(code + config.code_noise * noise), data)
        for part in (encoder, decoder):
            part.optimizer.zero_grad()
        loss.backward()
        for part in (encoder, decoder):
            part.optimizer.step()
        return {"reconstruction_loss": loss.item()}

    def chain(self, chain_ids: Sequence[int], *, seed: int) -> "Decoded":
        shape = (len(chain_ids), 1, self.config.code_side, self.config.code_side)
        place = {"seed": seed, "step": 0, "chain_ids": chain_ids, "purpose": Purpose.INITIAL_STATE}
        with torch.no_grad():
            return Decoded(self.generator(normal(shape, **place, device=self.device)))

    @torch.no_grad()
    def scores(self, images: Tensor) -> dict[str, Tensor]:
        """Minus the error of reconstruction, -|x - G(I(x))|_2, without noise on the codes."""
        encoder, decoder = self.parts["encoder"].evaluated, self.parts["decoder"].evaluated
        by = {"-|x - G(I(x))|": lambda x: -(x - decoder(encoder(x))).flatten(1).norm(dim=1)}
        return scores_of(images, by, self.config, self.device)

    def stages(self) -> dict[str, int]:
        return {"G(z) alone": 0}

    @torch.no_grad()
    def samples(self, images: Images, n: int, *, seed: int) -> dict[str, Tensor]:
        """Reconstructions of the first n held-out images, then the decoder on random codes."""
        kind = "held-out" if len(images.held_out) else "data"
        shown = to_pixels((images.held_out if len(images.held_out) else images.train)[:n])
        encoder, decoder = self.parts["encoder"].evaluated, self.parts["decoder"].evaluated
        back = [decoder(encoder(x.to(self.device))).cpu() for x in shown.split(CHAINS_AT_ONCE)]
        return {f"{kind}, decoded": torch.cat(back)} | super().samples(images, n, seed=seed)


@dataclass
class Decoded:
    """Images of random codes, which no chain moves."""

    images: Tensor

    def run(self, n_steps: int) -> Tensor:
        """The images; raises UsageError for any step."""
        if n_steps:
            raise UsageError(f"--steps: an autoencoder has no chain, wanted 0 steps, got {n_steps}")
        return self.images
