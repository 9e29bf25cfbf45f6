"""Image data as bytes: the digits of scikit-learn or any folder of pictures, and the order of training."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hatebm.errors import UsageError
from hatebm.noise import Purpose, normal

NAMES = ("digits",)
HELD_OUT_DIGITS = 500
HOLD_OUT_FROM = 50


class SkippedFile(UserWarning):
    """A file in a folder of pictures could not be read as a picture."""


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


def to_pixels(images: Tensor) -> Tensor:
    """Bytes 0 to 255 as float32 in [-1, 1]."""
    return images / 127.5 - 1


def to_bytes(pixels: Tensor) -> Tensor:
    """Floats as bytes: clipped to [-1, 1], rounded to the nearest of 0 to 255."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def load(name: str, size: int | None = None, root: str = ".") -> Images:
    """The data set of that name, or the folder of pictures at that path (relative paths start at `root`).

    size: side of the square images in pixels; by default 8 for digits and 32 for a folder.
    Raises UsageError for a name that is neither, and for a folder without a readable picture.
    """
    if name == "digits":
        return digits(size or 8)
    folder = Path(root, name)
    if not folder.is_dir():
        raise UsageError(f"--data: wanted {', '.join(NAMES)} or the path of a folder of images, got {name!r}")
    return image_folder(folder, size or 32)


def digits(size: int = 8) -> Images:
    """The 1,797 handwritten digits that scikit-learn ships, 500 of them (the same ones always, stratified) held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 8 - 1
    if size != 8:
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)
    images, labels = to_bytes(images), torch.from_numpy(bunch.target)
    train, held_out = train_test_split(range(len(labels)), test_size=HELD_OUT_DIGITS, random_state=0, stratify=labels)
    return Images(images[train], images[held_out], labels[train], labels[held_out])


def image_folder(folder: Path, size: int = 32) -> Images:
    """Every picture below `folder`, in the order of the paths; every fifth is held out when there are 50 or more.

    Each picture is turned upright (EXIF), taken in its first frame, laid on white where it is transparent, converted to
    RGB, scaled until it covers size x size and cropped at the centre. A file that cannot be read is skipped with one
    SkippedFile warning; hidden files are passed over silently. Raises UsageError when nothing readable is left.
    """
    images = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        try:
            images.append(read_picture(path, size))
        except ImportError:
            raise
        except Exception as error:  # each decoder of Pillow has its own way to fail on a broken file
            reason = f"cannot be read as a picture ({type(error).__name__})"
            warnings.warn(SkippedFile(f"skipped {path}: {reason}"), stacklevel=2)
    if not images:
        raise UsageError(f"--data: no readable image in the folder {folder}")
    images = torch.stack(images)
    held_out = torch.zeros(len(images), dtype=torch.bool)
    if len(images) >= HOLD_OUT_FROM:
        held_out[4::5] = True
    return Images(images[~held_out], images[held_out])


def read_picture(path: Path, size: int) -> Tensor:
    """One picture file as (3, size, size) uint8, see `image_folder`."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            picture.load()
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")  # 16 bits to 8
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)


def batch_indices(n: int, batch: int, *, seed: int, iteration: int) -> Tensor:
    """Which `batch` of the n training images iteration t sees: places t*batch to (t+1)*batch of the shuffled epochs.

    The epochs are laid end to end, so that a batch may span two (or, with fewer images than the batch, several), and
    each is ordered by the counter noise: any iteration's batch is known without running those before it.
    """
    start = iteration * batch
    first, last = start // n, (start + batch - 1) // n
    order = torch.cat([epoch_order(n, seed, epoch) for epoch in range(first, last + 1)])
    return order[start - first * n :][:batch]


@lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of n images in one epoch, a permutation (n,)."""
    return normal((n, 1), seed=seed, step=epoch, purpose=Purpose.DATA_ORDER).flatten().argsort(stable=True)
