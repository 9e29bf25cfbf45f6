"""Pictures as bytes, what every data set becomes, and as the floats that the networks see, in whichever box."""

import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hatebm.errors import UsageError

AT_ONCE = 1000
Box = tuple[float, float]  # the values of a byte 0 and of a byte 255
SIGNED: Box = (-1.0, 1.0)


@dataclass(frozen=True)
class Images:
    """A training and a held-out part of one data set, as bytes.

    train: (n, channels, size, size) uint8; held_out: (m, channels, size, size) uint8, empty when the set is too small
    to give any away; labels: (n,) and (m,) int64, or None where there are no classes.
    """

    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None

    @property
    def size(self) -> int:
        return self.train.shape[-1]

    @property
    def channels(self) -> int:
        return self.train.shape[1]

    @property
    def classes(self) -> int:
        """How many classes the training labels number, from 0 to the largest; 0 where there are no labels."""
        return 0 if self.train_labels is None else int(self.train_labels.max()) + 1

    def thinned(self, most: int) -> "Images":
        """At most that many images of either part, evenly spaced in their order."""
        train, held_out = _spread(len(self.train), most), _spread(len(self.held_out), most)
        labels = ((self.train_labels, train), (self.held_out_labels, held_out))
        return Images(
            self.train[train], self.held_out[held_out], *(None if x is None else x[index] for x, index in labels)
        )


def to_pixels(images: Tensor, box: Box = SIGNED) -> Tensor:
    """Bytes 0 to 255 as float32, evenly from one end of a box to the other."""
    low, high = box
    return images.float() / (255 / (high - low)) + low


def to_bytes(pixels: Tensor, box: Box = SIGNED) -> Tensor:
    """Floats as bytes: clipped to the box, rounded to the nearest of 0 to 255 that `to_pixels` makes it of."""
    low, high = box
    return ((pixels.clamp(low, high) - low) * (255 / (high - low))).round().to(torch.uint8)


def rescaled(pixels: Tensor, box: Box, other: Box) -> Tensor:
    """Floats of one box as those of another, by the line that maps the ends; what lies beyond stays beyond."""
    (low, high), (new_low, new_high) = box, other
    return (pixels - low) * ((new_high - new_low) / (high - low)) + new_low


def resized(images: Tensor, size: int) -> Tensor:
    """Images (n, channels, s, s) uint8 at another side, bicubic and antialiased; those of that side as they are."""
    if images.shape[-1] == size:
        return images
    require_room(len(images), images.shape[1], size)
    scale = {"size": (size, size), "mode": "bicubic", "antialias": True, "align_corners": False}
    return torch.cat([to_bytes(F.interpolate(to_pixels(part), **scale)) for part in images.split(AT_ONCE)])


def _spread(n: int, most: int) -> Tensor:
    count = min(n, most)
    return torch.arange(count, dtype=torch.int64, device="cpu") * n // max(count, 1)


def require_room(n: int, channels: int, size: int, option: str = "--size") -> None:
    """Refuse images that the memory of this machine cannot hold, as far as it tells how much that is."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return
    memory, needed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), n * channels * size**2
    if 0 < memory < needed:
        wanted, there = needed >> 30, memory >> 30
        raise UsageError(
            f"{option}: {n} images of {size} x {size} take {wanted} GiB of memory, this machine has {there}"
        )
