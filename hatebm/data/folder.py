"""Folders of picture files of every kind, read by many threads."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from hatebm.data.images import Images, require_room
from hatebm.data.picture import read_picture
from hatebm.errors import UsageError
from hatebm.ops.noise import Purpose, uniform

CROPS = ("center", "random")
HOLD_OUT_FROM = 50
AT_ONCE = 32
TRAIN = ("train", "training")
HELD_OUT = ("test", "testing", "val", "valid", "validation", "dev", "eval")
filters_of_warnings = threading.Lock()  # they are one list for all threads


class SkippedFile(UserWarning):
    """A file or a folder in a folder of pictures could not be read."""


def image_folder(folder: Path, size: int = 32, crop: str = "center") -> Images:
    """Every picture below `folder`, in the order of the paths, with labels where there is a subfolder for each class.

    A subfolder `train` (or `training`) beside one called `test`, `testing`, `val`, `valid`, `validation`, `dev` or
    `eval`, in any case, are the two parts, the first of these names where there are several; else every fifth picture
    is held out when there are 50 or more. The classes are the immediate subfolders of the training part in the order of
    their names; there are labels when there are two or more and every picture lies in one.

    Links are followed, but not to a folder in which they lie, and of a folder that can be reached twice the pictures
    are read once in each class, where the links do not count before the folders themselves.

    Each picture is turned upright (EXIF), taken in its first frame, laid on white where it is transparent, converted to
    RGB, scaled until it covers size x size and cropped: see `hatebm.data.load`. Floats are read as 0 to 1, and whole
    numbers, be they floats, as 0 to 255 or, where one is greater, as 0 to 65535, which grey of 16 bits always is. What
    cannot be read, other numbers among it, is skipped with one SkippedFile warning; hidden files and folders are passed
    over silently. Raises UsageError when nothing readable is left.
    """
    parts = _parts(folder)
    if parts is not None:
        train, held_out = (_pictures_below(part, size, crop) for part in parts)
    else:
        pictures, names = _pictures_below(folder, size, crop)
        held = torch.zeros(len(pictures), dtype=torch.bool, device="cpu")
        if len(pictures) >= HOLD_OUT_FROM:
            held[4::5] = True
        train, held_out = ((pictures[part], [names[i] for i in part.nonzero().flatten()]) for part in (~held, held))
    classes = sorted(set(train[1]) - {None})
    return Images(train[0], held_out[0], _labels(train[1], classes), _labels(held_out[1], classes))


def _parts(folder: Path) -> tuple[Path, Path] | None:
    """The subfolders to train on and to hold out, where both are there."""
    named = (name for name in sorted(os.listdir(folder)) if name.lower() in TRAIN + HELD_OUT)
    found = {name.lower(): folder / name for name in named if os.path.isdir(folder / name)}
    train, held_out = (next((found[name] for name in names if name in found), None) for names in (TRAIN, HELD_OUT))
    return None if train is None or held_out is None else (train, held_out)


def _pictures_below(folder: Path, size: int, crop: str) -> tuple[Tensor, list[str | None]]:
    """The readable pictures, (n, 3, size, size), and the immediate subfolder in which each of them lies."""
    inner = sorted(path.relative_to(folder) for path in _files_below(folder))
    pictures, readable = read_pictures([folder / path for path in inner], size, crop)
    if not len(pictures):
        raise UsageError(f"--data: no readable image in the folder {folder}")
    return pictures, [inner[i].parts[0] if len(inner[i].parts) > 1 else None for i in readable]


def _files_below(folder: Path) -> list[Path]:
    """The visible files in a folder and in its subfolders, each of which may reach what another one reaches."""
    root = os.path.realpath(folder)
    paths = [folder / name for name in os.listdir(folder) if not name.startswith(".")]
    files = [path for path in paths if _is_file(path)]
    for top in paths:
        if os.path.isdir(top) and not _leads_around(top, root):
            files += _files_of_class(top, root)
    return files


def _files_of_class(top: Path, root: str) -> list[Path]:
    """The visible files in an immediate subfolder and below: in the folders themselves, then where links lead to."""
    files, seen, tops = [], {root}, [top]
    for path in tops:
        for place, folders, names in os.walk(path, onerror=_skip_folder):
            if (real := os.path.realpath(place)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links = [Path(place, name) for name in folders if os.path.islink(Path(place, name))]
            tops += [link for link in links if not _leads_around(link, root)]
            files += [Path(place, name) for name in names if not name.startswith(".") and _is_file(Path(place, name))]
    return files


def _leads_around(path: Path, root: str) -> bool:
    """Whether a link leads to a folder in which it lies, or in which all of them lie."""
    target = os.path.realpath(path)
    return os.path.islink(path) and any(
        Path(place).is_relative_to(target) for place in (root, os.path.realpath(path.parent))
    )


def _is_file(path: Path) -> bool:
    """Whether to try to read it: a file or a link to nowhere, which is named then; no pipe, which would never end."""
    return os.path.isfile(path) or not os.path.exists(path)


def _skip_folder(error: OSError) -> None:
    warnings.warn(SkippedFile(f"skipped {error.filename}: cannot be read ({type(error).__name__})"), stacklevel=2)


def _labels(names: Sequence[str | None], classes: Sequence[str]) -> Tensor | None:
    """The place of each name among the classes, or None where these are no two or do not hold them all."""
    number = {name: i for i, name in enumerate(classes)}
    if len(classes) < 2 or not set(names) <= set(classes):
        return None
    return torch.tensor([number[name] for name in names], dtype=torch.int64, device="cpu")


def read_pictures(
    files: Sequence[Any], size: int, crop: str = "center", opened: Callable[[Any], Path | BinaryIO] = Path
) -> tuple[Tensor, list[int]]:
    """The readable ones of the files as (n, 3, size, size) uint8, and which they are; one SkippedFile for each other.

    opened: makes of an entry of `files` a path or an open file. A random crop lies where the counter noise of seed 0
    puts the entry of that number.
    """
    places = [0.5] * len(files)
    if crop == "random":
        places = uniform((len(files), 1), seed=0, step=0, purpose=Purpose.DATA_ORDER, block=1, device="cpu")
        places = places.flatten().tolist()
    require_room(len(files), 3, size)
    pictures = torch.empty(len(files), 3, size, size, dtype=torch.uint8, device="cpu")
    failed: dict[int, str] = {}

    def read(first: int) -> None:
        for i in range(first, min(first + AT_ONCE, len(files))):
            try:
                pictures[i] = read_picture(opened(files[i]), size, places[i])
            except (ImportError, MemoryError):
                raise
            except UsageError as error:
                failed[i] = str(error)
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

    with filters_of_warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
