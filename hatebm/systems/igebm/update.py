"""How the energy of an IGEBM learns, and what of it is worth watching."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hatebm.data import Images, batch_indices
from hatebm.engine.prepare.trained import OwnKernels
from hatebm.learning.part import Part
from hatebm.ops.noise import Purpose
from hatebm.sampling.cells import from_cells
from hatebm.systems.igebm.config import IGEBMConfig

Labelled = tuple[Tensor, Tensor | None]  # images (n, channels, size, size) in [0, 1], labels (n,)


def dithered_batch(
    images: Images, config: IGEBMConfig, iteration: int, noise_seed: int, device: torch.device | str
) -> Labelled:
    """The training images of an iteration, each byte k as a random value of its cell, (k + U(0, 1)) / 256."""
    index = batch_indices(len(images.train), config.batch, seed=config.seed, iteration=iteration)
    cells, place = images.train[index].to(device), {"seed": noise_seed, "step": iteration, "device": device}
    data = from_cells(cells, (0.0, 1.0), purpose=Purpose.DATA_NOISE, **place)
    return data, images.train_labels[index].to(device) if config.classes else None


def update_energy(
    energy: Part, data: Labelled, sampled: Labelled, config: IGEBMConfig, kept: dict[str, Tensor]
) -> dict[str, float]:
    """One Adam step of E down the loss, under dropout's masks of data and samples; returns what it saw on the way."""
    x = torch.cat((data[0], sampled[0]))
    labels = () if data[1] is None else (torch.cat((data[1], sampled[1])),)
    with OwnKernels():
        real, drawn = energy.network(x, *labels, **kept).split(len(data[0]))
    loss = loss_of(real, drawn, config.loss) + config.energy_l2 * (real.square().mean() + drawn.square().mean())
    energy.descend(loss)
    real, drawn = real.detach(), drawn.detach()
    return {
        "energy_gap": (real.mean() - drawn.mean()).item(),
        "gap_error": (real.var() / len(real) + drawn.var() / len(drawn)).sqrt().item(),
        "energy": real.mean().item(),
        "saturation": saturation(sampled[0], data[0]),
    }


def loss_of(real: Tensor, drawn: Tensor, form: str) -> Tensor:
    """What E descends, without its regularisation.

    difference: `mean E(x+) - mean E(x-)`. softplus: `mean log(1 + exp(E(x+_i) - E(x-_i)))`. logsumexp: the difference
    with negatives weighted by `w_i = exp(-(E(x-_i) - min E(x-)))`, normalised, through which no gradient flows.
    """
    if form == "softplus":
        return F.softplus(real - drawn).mean()
    if form == "logsumexp":
        weights = (drawn.min() - drawn).exp().detach()
        return real.mean() - (weights * drawn).sum() / (weights.sum() + 1e-4)
    return real.mean() - drawn.mean()


def saturation(sampled: Tensor, data: Tensor) -> float:
    """How much of what the data leave between the edges of [0, 1] the samples have driven there: 1 is all of it."""
    here, wanted = at_edges(sampled), at_edges(data)
    return ((here - wanted) / (1 - wanted).clamp_min(1e-3)).item()


def at_edges(pixels: Tensor) -> Tensor:
    """The share of pixels in the first or the last of 256 cells."""
    return ((pixels < 1 / 256) | (pixels > 255 / 256)).float().mean()
