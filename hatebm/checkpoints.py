"""Checkpoints: tensors and a few words about them in one safetensors file, which appears whole or not at all."""

import os
from pathlib import Path

from torch import Tensor

from hatebm.errors import UsageError

KEPT = 3


def save(folder: Path, iteration: int, tensors: dict[str, Tensor], about: dict[str, str]) -> Path:
    """Write the checkpoint of an iteration, then drop all but the newest few; returns its path.

    The file is written beside its place and renamed into it, so a run killed at any moment leaves no broken checkpoint.
    """
    from safetensors.torch import save as to_bytes

    folder.mkdir(exist_ok=True)
    path = folder / f"{iteration:08d}.safetensors"
    partial = folder / "partial"
    with partial.open("wb") as file:
        file.write(to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=about))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    for old in paths(folder)[:-KEPT]:
        old.unlink()
    return path


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and words of a checkpoint; raises UsageError when the file is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(f"the checkpoint {path} cannot be read: {error}") from error


def paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("*.safetensors"), key=lambda path: int(path.stem))
