"""The folder of one training run: its configuration, its metrics, its checkpoints and its pictures."""

import json
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from hatebm import checkpoints, data, files, formats, metrics
from hatebm.config import Config
from hatebm.data import Images
from hatebm.errors import UsageError
from hatebm.fingerprint import Fingerprint
from hatebm.learner import Learner

GENERATOR = "generator"  # folder of the stage before, or of a generator that came from elsewhere


@dataclass(frozen=True)
class Run:
    """One run: which system learns from which data under which numbers, and the folder where all about it lies.

    fingerprint: by which its images are known again; None in a run that version 0.1.0 began.
    """

    folder: Path
    system: str
    data: str
    data_root: str
    train_images: int
    config: Config
    fingerprint: Fingerprint | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def config_file(self) -> Path:
        return self.folder / "config.json"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def images(self) -> Images:
        """The data, as the run began with it; raises UsageError when they are gone or others."""
        if self.data not in data.NAMES and not Path(self.data_root, self.data).is_dir():
            raise UsageError(
                f"the images of {self.folder} are not in {self.data} any more; say with --data where they are now"
            )
        images = data.load(self.data, self.config.size, self.data_root, self.config.crop)
        now = (len(images.train), images.channels)
        if now != (self.train_images, self.config.channels):
            begun = f"{self.train_images} training images of {self.config.channels} channels"
            raise UsageError(f"{self.folder} began with {begun}, {self.data} now gives {now[0]} of {now[1]}")
        differs = self.fingerprint and self.fingerprint.difference(Fingerprint.of(images))
        if differs:
            raise UsageError(f"{self.folder} began with other images than those in {self.data}: {differs}")
        return images

    @contextmanager
    def created(self, put: Callable[[Path], None] | None = None) -> Iterator[None]:
        """Make the folder, hold it, and write config.json last; the block runs inside the hold.

        put: writes the generator of the run into a folder.
        Raises UsageError when the folder is there already, but for one that a killed start left, or cannot be made.
        """
        refuse_taken(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out: cannot make the folder {self.folder}: {error.strerror}") from None
        with ExitStack() as hold:
            hold.callback(_remove_empty, self.folder)
            with files.whole(self.config_file) as partial:  # which marks the folder as begun by us
                partial.write_text(self._config_text(), encoding="utf-8")
                hold.enter_context(files.held(self.folder))
                hold.callback(self._undo_start)
                if self.config_file.exists():
                    raise _taken(self.folder)
                shutil.rmtree(self.folder / GENERATOR, ignore_errors=True)
                if put is not None:
                    put(self.folder / GENERATOR)
            files.sweep(self.folder, self.config_file.name)
            yield

    def _undo_start(self) -> None:
        """Where no config.json came, leave nothing behind."""
        if not self.config_file.exists():
            shutil.rmtree(self.folder / GENERATOR, ignore_errors=True)
            (self.folder / files.LOCK).unlink()

    def create(self, put: Callable[[Path], None] | None = None) -> None:
        """Make the folder of a run that nobody trains yet; see `created`."""
        with self.created(put):
            pass

    def held(self) -> AbstractContextManager:
        """Hold the folder, as one training at a time may."""
        return files.held(self.folder)

    def write_config(self) -> None:
        """Write config.json: every value, the data and the versions."""
        files.sweep(self.folder, self.config_file.name)
        files.write_text(self.config_file, self._config_text())

    def _config_text(self) -> str:
        values = {
            "format": formats.FORMAT,
            "system": self.system,
            "data": self.data,
            "data_root": self.data_root,
            "train_images": self.train_images,
            "fingerprint": self.fingerprint and asdict(self.fingerprint),
            "config": asdict(self.config),
            "versions": versions(),
        }
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """The run that lies in a folder; raises UsageError when there is none."""
        try:
            values = formats.read(folder / "config.json")
        except FileNotFoundError:
            raise UsageError(f"{folder} is not the folder of a run: it has no config.json") from None
        del values["versions"]
        return cls(folder, **values)

    def save(self, learner: Learner) -> Path:
        """Write a checkpoint; returns its path."""
        about = {"iteration": str(learner.iteration), "config": json.dumps(asdict(learner.config))}
        if learner.frozen:
            about[GENERATOR] = _frozen(learner)
        return checkpoints.save(self.checkpoints, learner.iteration, learner.tensors(), about)

    def last_checkpoint(self) -> Path:
        """Path of the newest checkpoint; raises UsageError when there is none."""
        found = checkpoints.paths(self.checkpoints)
        if not found:
            raise UsageError(f"{self.folder} has no checkpoint")
        return found[-1]

    def has_checkpoint(self) -> bool:
        """Whether a training has begun here."""
        return bool(checkpoints.paths(self.checkpoints))

    def restore(self, learner: Learner) -> Learner:
        """Put the newest checkpoint into a learner of the run's configuration, and return it.

        Raises UsageError where it is damaged, of another run, or does not fit, and names the newest one that is good.
        """
        newest = self.last_checkpoint()
        try:
            self._restore_from(newest, learner)
        except UsageError as error:
            good = self._newest_good(learner)
            way = f"; {good} is good: remove the newer ones to go on from there" if good else ""
            raise UsageError(f"{error}{way}") from error
        return learner

    def _newest_good(self, learner: Learner) -> Path | None:
        for path in reversed(checkpoints.paths(self.checkpoints)):
            with suppress(UsageError):
                self._restore_from(path, learner)
                return path
        return None

    def _restore_from(self, path: Path, learner: Learner) -> None:
        tensors, about = checkpoints.load(path)
        iteration = about.get("iteration")
        if iteration != str(int(path.stem)):
            raise UsageError(f"the checkpoint {path} does not fit the run: its file is of iteration {iteration}")
        try:
            self._refuse_others(about, learner)
            learner.restore(tensors, int(iteration))
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise UsageError(f"the checkpoint {path} does not fit the run: {' '.join(str(error).split())}") from error

    def _refuse_others(self, about: dict[str, str], learner: Learner) -> None:
        """Raise ValueError for the words about a checkpoint of another configuration, or on another generator."""
        ours, theirs = json.loads(json.dumps(asdict(self.config))), json.loads(about.get("config", "{}"))
        for key in ours.keys() & theirs.keys() - {"iterations"}:  # those may grow
            if ours[key] != theirs[key]:
                raise ValueError(f"it has {key} = {theirs[key]}, the run has {ours[key]}")
        if about.get(GENERATOR, _frozen(learner)) != _frozen(learner):
            raise ValueError(f"it learned on another generator than that in {self.folder / GENERATOR}")

    def metrics(self, last: int | None = None) -> list[dict]:
        """The rows of the iterations 1 to `last`, by default to the newest checkpoint.

        Raises UsageError, naming the line and the way back, where one is missing, damaged or there twice.
        """
        if last is None:
            last = int(self.last_checkpoint().stem) if self.has_checkpoint() else 0
        try:
            return metrics.read(self.metrics_file, last)
        except metrics.DamagedRow as error:
            reached = [path for path in checkpoints.paths(self.checkpoints) if int(path.stem) < error.iteration]
            way = f", or remove the checkpoints after {reached[-1]} to go on from there" if reached else ""
            raise UsageError(f"{error}; put the file back as it was{way}") from error

    def cut_metrics(self, iteration: int) -> None:
        """Drop the rows after an iteration, which a resumed training is about to write again."""
        metrics.cut(self.metrics_file, iteration)


def refuse_taken(folder: Path) -> None:
    """Raise UsageError where a folder is there already, but for one that a killed start left."""
    if folder.exists() and not left_behind(folder):
        raise _taken(folder)


def left_behind(folder: Path) -> bool:
    """Whether a start that was killed before config.json left this folder: nothing in it is of use."""
    if not folder.is_dir():
        return False
    others = {path.name for path in folder.iterdir() if not files.is_partial(path, "config.json")}
    begun = len(others) < sum(1 for _ in folder.iterdir())
    return others <= ({files.LOCK, GENERATOR} if begun else {files.LOCK})


def _taken(folder: Path) -> UsageError:
    return UsageError(f"--out: {folder} exists already; add --resume to go on with it, or choose another folder")


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _frozen(learner: Learner) -> str:
    return checkpoints.checksum({name: tensor.cpu() for name, tensor in learner.frozen.items()})


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("hatebm", "torch", "numpy", "scikit-learn", "safetensors", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
