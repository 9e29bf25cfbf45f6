"""How the energy of an IGEBM scores images."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from hatebm.evaluation import energy_score, score_norm
from hatebm.learning.scores import scores_of
from hatebm.systems.igebm.buffer import BOX
from hatebm.systems.igebm.config import IGEBMConfig


def igebm_scores(energy: nn.Module, images: Tensor, config: IGEBMConfig, device: torch.device) -> dict[str, Tensor]:
    """-E(x), of a conditional energy -min_y E(x, y), and -|dE/dx|_2 of the same, near 0 where it is flat."""
    of_image = partial(least_energy, energy, config.classes) if config.classes else energy
    by = {"-E(x)": partial(energy_score, of_image), "-|dE/dx|": partial(score_norm, of_image)}
    return scores_of(images, by, config, device, BOX)


def least_energy(energy: Callable[[Tensor, Tensor], Tensor], classes: int, x: Tensor) -> Tensor:
    """min_y E(x, y), (n, channels, size, size) to (n,)."""
    labels = torch.arange(classes, dtype=torch.int64, device=x.device)
    with torch.no_grad():
        of_each = torch.stack([energy(x, label.expand(len(x))) for label in labels])
    return energy(x, of_each.argmin(0))  # alone keeps a graph, however many classes there are
