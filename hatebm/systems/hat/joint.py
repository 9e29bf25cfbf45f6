"""Joint Hat EBM: z and y move on a generator that stays, to refine its samples or to make it a generator at all.

Source: Hill et al., "Hat EBM" (2022), arXiv 2210.16486: refinement of a trained generator, and retrofit of a decoder
that was never taught to generate. The density has no prior on z, so only short chains from N(0, I) mean anything.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from hatebm.data import Images
from hatebm.energies.hat import HatEnergy
from hatebm.errors import UsageError
from hatebm.learning.learner import ImageChain, Learner, drawn_by
from hatebm.ops.noise import Purpose, normal
from hatebm.sampling.chain import Chain
from hatebm.systems.hat.config import JointConfig
from hatebm.systems.hat.scores import hat_scores
from hatebm.systems.hat.update import energy_part, noisy_batch, signs_of_health, update_energy


class Joint(Learner):
    """H of a joint Hat EBM on a frozen generator: `p(y, z) = exp(-H(G(z) + y) / T - tau |y|^2) / Z`.

    The generator maps (n, *latent_shape) to (n, channels, size, size); where the configuration does not say it, its
    own attribute `latent_shape` does.
    """

    BEST: ClassVar = (2, 3)
    CURVES: ClassVar = {
        "energy_gap": "energy gap / T",
        "residual": "residual y (RMS)",
        "latent_norm": "latent norm / sqrt(d)",
    }

    config: JointConfig

    @classmethod
    def create(cls, config: JointConfig, generator: nn.Module, device: torch.device | str = "cpu") -> "Joint":
        """A fresh H, determined by `config.seed`; the global random state is left alone.

        Raises UsageError for a generator that does not give images of the configuration.
        """
        with drawn_by(config.seed):
            part = energy_part(config, device)
        learner = cls(config, {"energy": part})
        learner._generator = generator.to(device).eval().requires_grad_(False)
        _check_generator(generator, config, device)
        return learner

    @property
    def energy(self) -> nn.Module:
        return self.parts["energy"].evaluated

    @property
    def generator(self) -> nn.Module:
        return self._generator

    @property
    def frozen(self) -> dict[str, Tensor]:
        return {name: t for name, t in self.generator.state_dict().items() if isinstance(t, Tensor)}

    def iterate(self, images: Images) -> dict[str, float]:
        """One iteration: chains of (z, y) from (N(0, I), 0), then one step of H on where they ended.

        1. z ~ N(0, I), y = 0; K Langevin steps of (z, y) give x- = G(z) + y.
        2. H descends (mean H(x+) - mean H(x-)) / T, x+ noisy data.
        """
        config, t = self.config, self.iteration
        moves: list[Tensor] = []
        chain = self._chain(self.parts["energy"].network, range(config.batch), seed=config.seed, step=t, residual=0.0)
        start, last = chain.state

        def see(_: int, state: tuple[Tensor, Tensor]) -> None:
            nonlocal last
            moves.append((state[1] - last).flatten(1).norm(dim=1).mean())
            last = state[1]

        z, y = chain.run(config.langevin_steps, callback=see)
        with torch.no_grad():
            generated = self.generator(z)
        sampled = generated + y
        learned = update_energy(
            self.parts["energy"], noisy_batch(images, config, t, self.device), sampled, config.temperature
        )
        return {
            **learned,
            "displacement": torch.stack(moves).mean().item(),
            "latent_displacement": (z - start).square().mean().sqrt().item(),
            "latent_norm": z.square().mean().sqrt().item(),
            **signs_of_health(sampled, generated),
        }

    def chain(self, chain_ids: Sequence[int], *, seed: int) -> ImageChain:
        chain = self._chain(self.energy, chain_ids, seed=seed, step=0, residual=self.config.sample_residual)
        return ImageChain(chain, self._image)

    def scores(self, images: Tensor) -> dict[str, Tensor]:
        return hat_scores(self.energy, images, self.config, self.device)

    def stages(self) -> dict[str, int]:
        k, more = self.config.langevin_steps, self.config.sample_steps
        return {"G(z) alone": 0, f"Hat EBM, {k} steps": k, f"Hat EBM, {more} steps": more}

    def _chain(self, energy: nn.Module, chain_ids: Sequence[int], *, seed: int, step: int, residual: float) -> Chain:
        """Chains of (z, y) from z = N(0, I), y = residual * N(0, I), both drawn at `step`."""
        config, n = self.config, len(chain_ids)
        place = {"seed": seed, "step": step, "chain_ids": chain_ids, "purpose": Purpose.INITIAL_STATE}
        latent_shape = config.latent_shape or self.generator.latent_shape
        z = normal((n, *latent_shape), **place, device=self.device)
        y = normal((n, config.channels, config.size, config.size), **place, block=1, device=self.device)
        return Chain(
            HatEnergy(energy, self.generator),
            (z, residual * y),
            config.dynamics,
            seed=seed,
            chain_ids=chain_ids,
            first_step=step * config.langevin_steps,
        )

    @torch.no_grad()
    def _image(self, state: tuple[Tensor, Tensor]) -> Tensor:
        z, y = state
        return self.generator(z) + y


def _check_generator(generator: nn.Module, config: JointConfig, device: torch.device | str) -> None:
    latent_shape = config.latent_shape or getattr(generator, "latent_shape", None)
    if latent_shape is None:
        raise UsageError("--generator: has no attribute latent_shape; say it with --set latent_shape=(128,)")
    wanted = (2, config.channels, config.size, config.size)
    try:
        with torch.no_grad():
            came = generator(torch.zeros(2, *latent_shape, dtype=torch.float32, device=device))
    except (Exception, SystemExit) as error:  # code of the user's, which may raise anything
        what = f"{type(error).__name__}: {error}"
        raise UsageError(f"--generator: cannot take latents of shape {latent_shape}: {what}") from error
    got = tuple(came.shape) if isinstance(came, Tensor) else type(came).__name__
    if got != wanted:
        raise UsageError(f"--generator: wanted two images, a tensor of shape {wanted}, got {got}")
