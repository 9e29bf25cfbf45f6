"""How the hat network H scores images."""

from functools import partial

import torch
from torch import Tensor, nn

from hatebm.evaluation import energy_score, score_norm
from hatebm.learning.scores import scores_of
from hatebm.systems.hat.config import HatConfig


def hat_scores(energy: nn.Module, images: Tensor, config: HatConfig, device: torch.device) -> dict[str, Tensor]:
    """The log-density up to a factor and a constant, -H(x), and -|dH/dx|_2, near 0 where it is flat."""
    by = {"-H(x)": partial(energy_score, energy), "-|dH/dx|": partial(score_norm, energy)}
    return scores_of(images, by, config, device)
