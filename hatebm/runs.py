"""The folder of one training run: its configuration, its metrics, its checkpoints and its pictures."""

import json
import platform
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path

from hatebm import checkpoints, data
from hatebm.catalogue import SYSTEMS
from hatebm.config import Config
from hatebm.data import Images
from hatebm.errors import UsageError
from hatebm.learner import Learner


@dataclass(frozen=True)
class Run:
    """One run: which system learns from which data under which numbers, and the folder where all about it lies."""

    folder: Path
    system: str
    data: str
    data_root: str
    train_images: int
    config: Config

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def images(self) -> Images:
        """The data, as the run began with it; raises UsageError when it has changed since."""
        images = data.load(self.data, self.config.size, self.data_root, self.config.crop)
        now = (len(images.train), images.channels)
        if now != (self.train_images, self.config.channels):
            begun = f"{self.train_images} training images of {self.config.channels} channels"
            raise UsageError(f"{self.folder} began with {begun}, {self.data} now gives {now[0]} of {now[1]}")
        return images

    def create(self) -> None:
        """Make the folder and write config.json; raises UsageError when the folder exists or cannot be made."""
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError:
            raise UsageError(
                f"--out: {self.folder} exists already; add --resume to go on with it, or choose another folder"
            ) from None
        except OSError as error:
            raise UsageError(f"--out: cannot make the folder {self.folder}: {error.strerror}") from None
        self.write_config()

    def write_config(self) -> None:
        """Write config.json: every value, the data and the versions."""
        values = {
            "system": self.system,
            "data": self.data,
            "data_root": self.data_root,
            "train_images": self.train_images,
            "config": asdict(self.config),
            "versions": versions(),
        }
        partial = self.folder / "config.json.partial"
        partial.write_text(json.dumps(values, indent=2) + "\n")
        partial.replace(self.folder / "config.json")

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """The run that lies in a folder; raises UsageError when there is none."""
        try:
            values = _checked(json.loads((folder / "config.json").read_text()))
            config = config_from_json(SYSTEMS[values["system"]].config, values["config"])
            return cls(folder, values["system"], values["data"], values["data_root"], values["train_images"], config)
        except FileNotFoundError:
            raise UsageError(f"{folder} is not the folder of a run: it has no config.json") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{folder / 'config.json'} is not the configuration of a run: {error}") from error

    def save(self, learner: Learner) -> Path:
        """Write a checkpoint; returns its path."""
        about = {"iteration": str(learner.iteration), "config": json.dumps(asdict(learner.config))}
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
        """Put the newest checkpoint into a learner of the run's configuration, and return it."""
        path = self.last_checkpoint()
        tensors, about = checkpoints.load(path)
        try:
            learner.restore(tensors, int(about["iteration"]))
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise UsageError(f"the checkpoint {path} does not fit the run: {' '.join(str(error).split())}") from error
        return learner

    def metrics(self) -> list[dict]:
        """The rows of metrics.jsonl, one for each iteration so far; an unfinished last line is left out."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def cut_metrics(self, iteration: int) -> None:
        """Drop the rows after an iteration, which a resumed training is about to write again."""
        kept = [row for row in self.metrics() if row["step"] <= iteration]
        partial = self.folder / "metrics.jsonl.partial"
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.metrics_file)


def _checked(values: object) -> dict:
    """What a config.json holds; raises ValueError where something is missing or of another kind."""
    if not isinstance(values, dict):
        raise ValueError("it holds no object")
    kinds = {"system": str, "data": str, "data_root": str, "train_images": int, "config": dict}
    words = {str: "a word", int: "a whole number", dict: "an object"}
    for key, kind in kinds.items():
        if key not in values:
            raise ValueError(f"it has no {key!r}")
        if not isinstance(values[key], kind):
            raise ValueError(f"{key} must be {words[kind]}, got {values[key]!r}")
    if values["system"] not in SYSTEMS:
        raise ValueError(f"system must be one of {', '.join(SYSTEMS)}, got {values['system']}")
    return values


def config_from_json(kind: type[Config], values: dict) -> Config:
    """The configuration written in a config.json, lists turned back into tuples; raises ValueError for unknown keys."""
    unknown = values.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    return kind(**{key: _tuples(value) for key, value in values.items()})


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("hatebm", "torch", "numpy", "scikit-learn", "safetensors", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _tuples(value):
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
