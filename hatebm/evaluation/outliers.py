"""Outliers made from the in-distribution images themselves, far from them and near."""

import torch
from torch import Tensor

from hatebm.evaluation.letters import letters
from hatebm.ops.checks import require
from hatebm.ops.noise import Purpose, words


def outliers(images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """As many outliers of three kinds as there are images, fixed by the seed: name -> (n, channels, size, size) uint8.

    "permuted pixels": each image with its pixels in an order of its own, colours kept; "uniform noise": every byte
    equally likely; "constant": one colour for each image.

    Args:
        images: (n, channels, size, size) uint8.
        seed: 64 bits.
    """
    _check("outliers", images)
    n, channels, height, width = images.shape
    kinds = ((n, height * width), images.shape, (n, channels))
    draws = [
        words(shape, seed=seed, step=0, block=block, purpose=Purpose.OUTLIERS, device=images.device)
        for block, shape in enumerate(kinds)
    ]
    order = draws[0].argsort(dim=1, stable=True)[:, None].expand(-1, channels, -1)
    noise, colour = (draw.remainder(256).byte() for draw in draws[1:])
    return {
        "permuted pixels": images.flatten(2).gather(2, order).view_as(images),
        "uniform noise": noise,
        "constant": colour[:, :, None, None].expand_as(images).clone(),
    }


def near_outliers(images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """As many outliers of three kinds near the data: name -> (n, channels, size, size) uint8.

    "letters": one where each image has its ink, as `hatebm.evaluation.letters` draws them by the seed; "mirrored": left
    and right exchanged; "inverted": 255 - x. Arguments as of `outliers`.
    """
    _check("near_outliers", images)
    return {"letters": letters(images, seed=seed), "mirrored": images.flip(-1), "inverted": 255 - images}


def _check(op: str, images: Tensor) -> None:
    fits = isinstance(images, Tensor) and images.dtype == torch.uint8 and images.dim() == 4
    square = fits and images.shape[2] == images.shape[3]
    require(square, op, "images", "uint8 of shape (n, channels, size, size)", images, TypeError)
