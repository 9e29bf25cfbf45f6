"""Data that lie elsewhere than when a run began: found where a person says, known again, remembered."""

from dataclasses import replace
from pathlib import Path

from hatebm import data
from hatebm.data import Images
from hatebm.data.fingerprint import Fingerprint
from hatebm.errors import UsageError
from hatebm.runs import stages
from hatebm.runs.folder import Run

PUBLISHED = frozenset(data.NAMES) - {"digits"}  # they have files, which lie below a root


def place(name: str, root: str) -> str:
    """How a run remembers its data: a name as it is, a folder by its absolute path."""
    return name if name in data.NAMES else str(Path(root, name).resolve())


def relocated(run: Run, source: str | None, root: str | None) -> Run:
    """The run with its data where `--data` and `--data-root` say that they lie now; whether they do is not looked at.

    A folder of pictures may have moved, and the root of a published data set; raises UsageError for other changes.
    """
    asked = run.data if source is None else place(source, root or ".")
    if asked != run.data and (run.data in data.NAMES or asked in data.NAMES):
        raise UsageError(f"--data: the run in {run.folder} has data = {run.data} and keeps it, got {asked}")
    if source is not None and asked not in data.NAMES and not Path(asked).is_dir():
        raise UsageError(f"--data: wanted the folder where the images of {run.folder} are now, got {source!r}")
    asked_root = run.data_root if root is None else str(Path(root).resolve())
    if asked_root != run.data_root and source is None and run.data not in PUBLISHED:
        begun = f"data_root = {run.data_root}"
        raise UsageError(f"--data-root: the run in {run.folder} has {begun} and keeps it, got {asked_root}")
    return replace(run, data=asked, data_root=asked_root)


def known(run: Run, images: Images) -> Run:
    """The run with what it remembers of its images, also where it began before runs did."""
    return replace(run, fingerprint=run.fingerprint or Fingerprint.of(images))


def first_stage_beside(run: Run, begun: Run) -> Run | None:
    """The stage before a run, with its data where the run now has them, if they are the same."""
    before = stages.first_stage(begun)
    if before is None or (before.data, before.data_root) != (begun.data, begun.data_root):
        return before
    return replace(before, data=run.data, data_root=run.data_root)


def remember(run: Run, begun: Run) -> None:
    """Write down where the data of a run and of its first stage lie now; refused while a training is at work."""
    before, old = first_stage_beside(run, begun), stages.first_stage(begun)
    with run.held():
        run.write_config()
        if before is not None and before != old:
            before.write_config()
