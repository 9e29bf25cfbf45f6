"""From the bytes of images to a system's scores of them, checked at the door and some at a time."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hatebm.data import SIGNED, Box, to_pixels
from hatebm.learning.config import Config
from hatebm.ops.checks import require

AT_ONCE = 250


def scores_of(
    images: Tensor,
    by: Mapping[str, Callable[[Tensor], Tensor]],
    config: Config,
    device: torch.device | str,
    box: Box = SIGNED,
) -> dict[str, Tensor]:
    """Each score of each image: name -> (n,) float32 on the CPU.

    Args:
        images: (n, channels, size, size) uint8, of the configuration's channels and size, on any device.
        by: name -> function of float32 pixels in the box, (b, channels, size, size) on `device` to (b,).

    Raises:
        TypeError, ValueError: in the name of `scores`, images of another kind or shape.
    """
    shape = (config.channels, config.size, config.size)
    fits = isinstance(images, Tensor) and images.dtype == torch.uint8
    require(fits, "scores", "images", "a uint8 tensor", images, TypeError)
    wanted = f"of shape (n, {', '.join(map(str, shape))}), n > 0"
    require(images.dim() == 4 and len(images) > 0 and images.shape[1:] == shape, "scores", "images", wanted, images)
    found = {name: [] for name in by}
    for part in images.split(AT_ONCE):
        pixels = to_pixels(part.to(device), box)
        for name, score in by.items():
            found[name].append(score(pixels).float().cpu())
    return {name: torch.cat(values) for name, values in found.items()}
