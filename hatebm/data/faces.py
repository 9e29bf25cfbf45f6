"""CelebA: a list of 202,599 faces in three parts, and their pictures in a zip file or a folder."""

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from hatebm.data.download import intact, obtain
from hatebm.data.folder import read_pictures
from hatebm.data.images import Images
from hatebm.errors import UsageError

TRAIN, VALIDATION, TEST = "0", "1", "2"


def celeba(root: Path, size: int | None = None, crop: str = "center") -> Images:
    """CelebA, aligned: 162,770 and 19,962 faces of 178 x 218, from the zip file or its folder; 64 x 64 by default.

    Of each face the whole width is kept: the square of 178 at the centre, as Hat EBM takes it, not a closer one of 140
    as some do. The official validation part is left out; there are no labels. All are decoded at once and lie in
    memory as bytes: 2 GB at 64 x 64.

    Source: Liu et al., "Deep learning face attributes in the wild" (2015).
    """
    listing = obtain("celeba", root, "list_eval_partition.txt")
    with intact(listing):
        part_of = dict(line.split() for line in listing.read_text().splitlines() if line.strip())
        if not {TRAIN, TEST} <= set(part_of.values()) <= {TRAIN, VALIDATION, TEST}:
            raise ValueError("not lines of a file name and 0, 1 or 2")
    folder = "img_align_celeba"
    path = obtain("celeba", root, f"{folder}.zip", f"{folder}/{folder}", folder)
    with _files_of(path) as (found, opened):
        wanted = [name for name, part in part_of.items() if part != VALIDATION]
        missing = [name for name in wanted if name not in found]
        if missing:
            raise UsageError(
                f"--data-root: {path} lacks {len(missing)} of the {len(wanted)} pictures of celeba, {missing[0]} the "
                "first; put a whole one in its place, or remove it and it is downloaded"
            )
        train, held_out = (
            read_pictures([found[name] for name in wanted if part_of[name] == part], size or 64, crop, opened)[0]
            for part in (TRAIN, TEST)
        )
    return Images(train, held_out)


@contextmanager
def _files_of(path: Path) -> Iterator[tuple[dict[str, Any], Callable]]:
    """The files in a folder or in a zip file by their names, and what opens one of them."""
    if path.is_dir():
        yield {file.name: file for file in path.iterdir()}, Path
        return
    with intact(path):
        archive = zipfile.ZipFile(path)
    with archive:
        found = {PurePosixPath(member).name: member for member in archive.namelist()}
        yield found, lambda member: io.BytesIO(archive.read(member))
