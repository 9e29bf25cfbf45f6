"""Files that appear whole or not at all, and the hold that one process at a time has on a folder."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hatebm.errors import CannotWrite, UsageError

PARTIAL = "partial-"  # begins the names of files that are being written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCK = "lock"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what lies there when the block ends takes the place of `path` at once.

    It is on the disk before it does, so neither a kill nor a power cut leaves half of it or an empty file; where the
    block raises, it is removed and `path` stays as it was. What is no file, such as /dev/stdout, is written directly.
    Raises CannotWrite, which names `path`, where there is no room or no permission.
    """
    target = path.resolve()  # through links, which stay
    if target.exists() and not target.is_file():
        with _named(path):
            yield target
        return
    partial = target.with_name(f"{PARTIAL}{os.getpid()}-{target.name}")
    try:
        with _named(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(target)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def copy(given: Path, path: Path) -> None:
    """Copy a file, whole."""
    with whole(path) as partial:
        shutil.copyfile(given, partial)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    """What went wrong with a file, and what helps."""
    helps = "make room" if error.errno in FULL else "make it writable"
    return CannotWrite(f"cannot write {path} ({error.strerror or error}); {helps}")


def is_partial(path: Path, name: str) -> bool:
    """Whether a killed process left this file half written, of one whose name ends so."""
    old = path.name == f"{name}.partial"  # as version 0.1.0 called it
    return old or (path.name.startswith(PARTIAL) and path.name.endswith(name))


def sweep(folder: Path, name: str) -> None:
    """Remove what killed processes left half written of files whose names end so; for those who hold the folder."""
    for path in folder.iterdir():
        if is_partial(path, name):
            path.unlink(missing_ok=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder through a file in it: one process at a time, whatever way leads there.

    The hold ends with the process, however that ends; the file stays and means nothing by itself. A file system that
    has no locks lets everyone in. Raises UsageError while another process holds the folder.
    """
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UsageError(f"another training is at work in {folder}; wait for its end, or stop it") from None
        except OSError:
            pass
        yield


def refuse_held(folder: Path) -> None:
    """Raise UsageError while another process holds the folder; changes nothing."""
    if (folder / LOCK).exists():
        with held(folder):
            pass
