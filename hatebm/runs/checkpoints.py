"""Checkpoints: tensors and a few words about them in one safetensors file, which appears whole or not at all."""

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hatebm.errors import UsageError
from hatebm.runs.files import sweep, whole

KEPT = 3
OLD = ({"iteration", "config"}, set())  # what version 0.1.0 said of checkpoints and of weights, without a checksum
NAME = re.compile(r"[0-9]{8,}\.safetensors")


def save(
    folder: Path, iteration: int, tensors: Mapping[str, Tensor], about: Mapping[str, str], kept: int = KEPT
) -> Path:
    """Write the checkpoint of an iteration, then drop all but the newest few; returns its path.

    Nothing but checkpoints is dropped, and what a killed process left half written.
    """
    path = _added(folder, iteration, tensors, about)
    for old in paths(folder)[:-kept]:
        old.unlink()
    return path


def save_as_newest(folder: Path, iteration: int, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write the checkpoint of an iteration, then drop those of later ones."""
    _added(folder, iteration, tensors, about)
    drop_after(folder, iteration)


def drop_after(folder: Path, iteration: int) -> None:
    """Drop the checkpoints of later iterations."""
    for path in paths(folder):
        if int(path.stem) > iteration:
            path.unlink()


def _added(folder: Path, iteration: int, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    sweep(folder, ".safetensors")
    (folder / "partial").unlink(missing_ok=True)  # as version 0.1.0 called what it was writing
    path = folder / f"{iteration:08d}.safetensors"
    write(path, tensors, about)
    return path


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors, and words about them, with the checksum of all."""
    from safetensors.torch import save as to_bytes

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {**about, "checksum": checksum(tensors, about)}
    with whole(path) as partial, partial.open("wb") as file:
        file.write(to_bytes(tensors, metadata=about))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and words of a checkpoint; raises UsageError when the file is not whole or a bit of it has changed.

    Files of version 0.1.0 carry no checksum and are taken as they are, if they fit.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"the checkpoint {path} cannot be read: {error}") from error
    kept = about.pop("checksum", None)
    if kept != checksum(tensors, about) and (kept is not None or about.keys() not in OLD):
        raise UsageError(f"the checkpoint {path} is damaged: its checksum differs")
    return tensors, about


def checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> str:
    """CRC-32 of names, dtypes, shapes and bytes of tensors, and of the words about them."""
    value = zlib.crc32(json.dumps(sorted((about or {}).items())).encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), value)
    return f"{value:08x}"


def paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; other files beside them are nobody's."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=lambda path: int(path.stem))
