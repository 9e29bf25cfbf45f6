"""What is seen of a run's folder, and ways to damage it."""

import resource
from contextlib import contextmanager
from pathlib import Path

from hatebm.runs import checkpoints


def tree(folder: Path) -> dict[str, tuple]:
    """Every file and folder below: when it was last changed, and its bytes."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        found[str(path.relative_to(folder))] = path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None
    return found


@contextmanager
def room_for(size: int):
    """No file may grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def rewritten(path: Path, change) -> None:
    """Write a checkpoint anew, whole and with its checksum, after `change(tensors, about)`."""
    tensors, about = checkpoints.load(path)
    change(tensors, about)
    checkpoints.write(path, tensors, about)


def flipped(data: bytes, bit: int) -> bytes:
    """The same bytes but for one bit."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
