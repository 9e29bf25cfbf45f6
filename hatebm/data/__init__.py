"""Image data as bytes: data sets with names, any folder of pictures, and the order of training."""

from pathlib import Path

from hatebm.data.batches import batch_indices, epoch_order
from hatebm.data.faces import celeba
from hatebm.data.folder import CROPS, SkippedFile, image_folder
from hatebm.data.images import SIGNED, Box, Images, require_room, rescaled, to_bytes, to_pixels
from hatebm.data.named import cifar10, digits, mnist, svhn
from hatebm.data.picture import read_picture
from hatebm.errors import UsageError
from hatebm.ops.checks import is_count, require

__all__ = [
    "CROPS",
    "NAMES",
    "SIGNED",
    "Box",
    "Images",
    "SkippedFile",
    "batch_indices",
    "digits",
    "epoch_order",
    "image_folder",
    "load",
    "read_picture",
    "require_room",
    "rescaled",
    "to_bytes",
    "to_pixels",
]

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "svhn", "celeba")


def load(name: str, size: int | None = None, root: str = ".", crop: str = "center") -> Images:
    """The data set of that name, or the folder of pictures at that path (relative paths start at `root`).

    All images lie in memory, as bytes. A name goes before a folder so called: write ./mnist for a folder of pictures.

    Args:
        name: one of `NAMES`, or a path. The files of a published set are sought below `root`, in the usual folders
            and as they are published or unpacked, and downloaded there otherwise, checked by their SHA-256.
        size: side of the square images in pixels; by default 8 for digits, 64 for celeba and 32 for all else.
        root: where the files of named sets lie, and where a relative path begins.
        crop: which square of a picture that is not square, after its shorter side is scaled to `size`: "center", or
            "random", one place along the longer side for each picture, drawn once from its number in the order of the
            files and thus the same in every run and every epoch.

    Raises:
        UsageError: a name that is neither, no readable picture, a damaged file, or a failed download.
    """
    require(size is None or is_count(size, 1), "load", "size", "a whole number of pixels", size, UsageError)
    require(crop in CROPS, "load", "crop", " or ".join(map(repr, CROPS)), crop, UsageError)
    match name:
        case "digits":
            return digits(size or 8)
        case "mnist" | "fashion-mnist":
            return mnist(name, Path(root), size)
        case "cifar10":
            return cifar10(Path(root), size)
        case "svhn":
            return svhn(Path(root), size)
        case "celeba":
            return celeba(Path(root), size, crop)
    folder = Path(root, name)
    if not name or not folder.is_dir():  # Path(root, "") is the root, of which nobody spoke
        raise UsageError(f"--data: wanted {', '.join(NAMES)} or the path of a folder of images, got {name!r}")
    return image_folder(folder, size or 32, crop)
