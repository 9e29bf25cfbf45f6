"""How the folder of a run begins: all of it, or nothing that stands in the way of beginning again."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hatebm.errors import UsageError
from hatebm.runs import files
from hatebm.runs.folder import GENERATOR, Run


@contextmanager
def created(run: Run, put: Callable[[Path], None] | None = None) -> Iterator[None]:
    """Make the folder of a run, hold it, and write config.json last; the block runs inside the hold.

    put: writes the generator of the run into a folder.
    Raises UsageError when the folder is there already, but for one that a killed start left, or cannot be made.
    """
    refuse_taken(run.folder)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: cannot make the folder {run.folder}: {error.strerror}") from None
    with ExitStack() as hold:
        hold.callback(_remove_empty, run.folder)
        with files.whole(run.config_file) as partial:  # while it is there, what lies beside it is ours
            partial.write_text(run.config_text(), encoding="utf-8")
            hold.enter_context(run.held())
            hold.callback(_undo, run)
            if run.config_file.exists():
                raise _taken(run.folder)
            shutil.rmtree(run.folder / GENERATOR, ignore_errors=True)
            if put is not None:
                put(run.folder / GENERATOR)
        files.sweep(run.folder, run.config_file.name)
        yield


def create(run: Run) -> None:
    """Make the folder of a run that nobody trains yet; see `created`."""
    with created(run):
        pass


def refuse_taken(folder: Path) -> None:
    """Raise UsageError where a folder is there already, but for one that a killed start left."""
    if folder.exists() and not left_behind(folder):
        raise _taken(folder)


def left_behind(folder: Path) -> bool:
    """Whether a start that was killed before config.json left this folder: nothing in it is of use."""
    if not folder.is_dir():
        return False
    found = list(folder.iterdir())
    others = {path.name for path in found if not files.is_partial(path, "config.json")}
    return others <= ({files.LOCK, GENERATOR} if len(others) < len(found) else {files.LOCK})


def _taken(folder: Path) -> UsageError:
    return UsageError(f"--out: {folder} exists already; add --resume to go on with it, or choose another folder")


def _undo(run: Run) -> None:
    if not run.config_file.exists():
        shutil.rmtree(run.folder / GENERATOR, ignore_errors=True)
        (run.folder / files.LOCK).unlink()


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
