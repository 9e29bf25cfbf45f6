"""Folders of picture files of every kind, read by many threads."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from hatebm.data.images import Images
from hatebm.errors import UsageError
from hatebm.noise import Purpose, uniform

CROPS = ("center", "random")
HOLD_OUT_FROM = 50
AT_ONCE = 32


class SkippedFile(UserWarning):
    """A file in a folder of pictures could not be read as a picture."""


def image_folder(folder: Path, size: int = 32, crop: str = "center") -> Images:
    """Every picture below `folder`, in the order of the paths, with labels where there is a subfolder for each class.

    With subfolders `train` and `test` (or `val`) these are the two parts; else every fifth picture is held out when
    there are 50 or more. The classes are the immediate subfolders of the training part in the order of their names;
    there are labels when there are two or more and every picture lies in one.

    Each picture is turned upright (EXIF), taken in its first frame, laid on white where it is transparent, converted to
    RGB, scaled until it covers size x size and cropped: see `hatebm.data.load`. A file that cannot be read is skipped
    with one SkippedFile warning; hidden files and folders are passed over silently. Raises UsageError when nothing
    readable is left.
    """
    parts = [folder / name for name in ("train", "test", "val") if (folder / name).is_dir()]
    if len(parts) >= 2 and parts[0].name == "train":
        train, held_out = (_pictures_below(part, size, crop) for part in parts[:2])
    else:
        pictures, names = _pictures_below(folder, size, crop)
        held = torch.zeros(len(pictures), dtype=torch.bool)
        if len(pictures) >= HOLD_OUT_FROM:
            held[4::5] = True
        train, held_out = ((pictures[part], [names[i] for i in part.nonzero().flatten()]) for part in (~held, held))
    classes = sorted(set(train[1]) - {None})
    return Images(train[0], held_out[0], _labels(train[1], classes), _labels(held_out[1], classes))


def _pictures_below(folder: Path, size: int, crop: str) -> tuple[Tensor, list[str | None]]:
    """The readable pictures, (n, 3, size, size), and the immediate subfolder in which each of them lies."""
    inner = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    inner = sorted(path for path in inner if not any(part.startswith(".") for part in path.parts))
    pictures, readable = read_pictures([folder / path for path in inner], size, crop)
    if not len(pictures):
        raise UsageError(f"--data: no readable image in the folder {folder}")
    return pictures, [inner[i].parts[0] if len(inner[i].parts) > 1 else None for i in readable]


def _labels(names: Sequence[str | None], classes: Sequence[str]) -> Tensor | None:
    """The place of each name among the classes, or None where these are no two or do not hold them all."""
    number = {name: i for i, name in enumerate(classes)}
    if len(classes) < 2 or not set(names) <= set(classes):
        return None
    return torch.tensor([number[name] for name in names], dtype=torch.int64)


def read_pictures(
    files: Sequence[Any], size: int, crop: str = "center", opened: Callable[[Any], Path | BinaryIO] = Path
) -> tuple[Tensor, list[int]]:
    """The readable ones of the files as (n, 3, size, size) uint8, and which they are; one SkippedFile for each other.

    opened: makes of an entry of `files` a path or an open file. A random crop lies where the counter noise of seed 0
    puts the entry of that number.
    """
    places = [0.5] * len(files)
    if crop == "random":
        places = uniform((len(files), 1), seed=0, step=0, purpose=Purpose.DATA_ORDER, block=1).flatten().tolist()
    pictures = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    failed: dict[int, str] = {}

    def read(first: int) -> None:
        for i in range(first, min(first + AT_ONCE, len(files))):
            try:
                pictures[i] = read_picture(opened(files[i]), size, places[i])
            except (ImportError, MemoryError):
                raise
            except Exception as error:  # each decoder of Pillow has its own way to fail on a broken file
                failed[i] = type(error).__name__

    with _decoders_warnings(), ThreadPoolExecutor() as pool:
        list(pool.map(read, range(0, len(files), AT_ONCE)))
    for i in sorted(failed):
        warnings.warn(SkippedFile(f"skipped {files[i]}: cannot be read as a picture ({failed[i]})"), stacklevel=2)
    readable = [i for i in range(len(files)) if i not in failed]
    return pictures if not failed else pictures[readable], readable


@contextmanager
def _decoders_warnings() -> Iterator[None]:
    """Make a decompression bomb an error and silence other words; around all threads, as filters belong to them all."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_picture(file: Path | BinaryIO, size: int, place: float = 0.5) -> Tensor:
    """One picture as (3, size, size) uint8, cropped at `place`, 0 to 1 along its longer side: see `image_folder`."""
    from PIL import Image, ImageOps

    with Image.open(file) as picture:
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")  # 16 bits to 8
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BICUBIC, centering=(place, place))
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)
