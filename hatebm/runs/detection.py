"""How well the scores of a run tell its data from outliers: what is compared, what is found, what is kept of it."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from hatebm import data
from hatebm.evaluation import Detection, Estimate, detection, near_outliers, outliers
from hatebm.learning.learner import Learner
from hatebm.runs import pictures, plots
from hatebm.runs.folder import Run
from hatebm.runs.results import reference, write_rows
from hatebm.terminal import spelled

Scores = dict[str, dict[str, Tensor]]  # score -> set of images, the data first -> (n,)
Detections = dict[str, dict[str, Detection]]  # score -> outliers -> how well it tells the data from them
SHOWN = 10
GRADIENT = re.compile(r"-\|d\w/dx\|")


def data_name(run: Run) -> str:
    """What the data of a run are called where they are told from others."""
    return spelled(Path(run.data).name)


def named_outliers(names: Sequence[str], run: Run, root: str) -> dict[str, Tensor]:
    """Images of data sets and folders, at the size of the run and in its colours; raises UsageError for no such one."""
    return {name: _outliers_from(name, run, root) for name in names}


def compared(run: Run, inside: Tensor, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The data, outliers made of them, far and near, and those with names: label -> (n, channels, size, size) uint8."""
    seed = run.config.seed
    made = {f"{data_name(run)} (learned)": inside} | outliers(inside, seed=seed) | near_outliers(inside, seed=seed)
    spelt = ((spelled(name), images) for name, images in named.items())
    return made | {f"./{name}" if name in made else name: images for name, images in spelt}


def scores_of(learner: Learner, sets: dict[str, Tensor]) -> Scores:
    """Every score of every set."""
    found = {label: learner.scores(images) for label, images in sets.items()}
    names = next(iter(found.values()))
    return {name: {label: by_name[name] for label, by_name in found.items()} for name in names}


def detect(scores: Scores) -> Detections:
    """How well each score tells the data, the first set, from each other one."""
    found = {}
    for name, by_set in scores.items():
        inside, *others = by_set
        found[name] = {label: detection(by_set[inside], by_set[label]) for label in others}
    return found


def verdicts(found: Detections, inside: str) -> list[str]:
    """What each score can do and what it cannot, a sentence each, by the intervals of its AUROC."""
    said: dict[str, list[str]] = {}
    for score, by_outliers in found.items():
        for label, one in by_outliers.items():
            kinds = said.setdefault(f"{score} {_verdict(one.auroc, inside)}", [])
            kinds.append(f"{label} (AUROC {one.auroc.value:.3f})")
    return [f"{sentence} {', '.join(kinds)}" for sentence, kinds in said.items()]


def _verdict(auroc: Estimate, inside: str) -> str:
    if auroc.low > 0.5:
        return f"tells {inside} from"
    return f"ranks {inside} below" if auroc.high < 0.5 else f"does not tell {inside} from"


def write(run: Run, sets: dict[str, Tensor], scores: Scores, found: Detections) -> dict[str, str]:
    """Write ood.json, a histogram for each score and outliers.png; returns file name -> what it shows."""
    rows = [
        {"score": score, "outliers": label, **asdict(one)}
        for score, by_outliers in found.items()
        for label, one in by_outliers.items()
    ]
    write_rows(run.folder / "ood.json", rows)
    shown = {"ood.json": "AUROC, AUPRC and FPR80 with their intervals"}
    for name, by_set in scores.items():
        file = "ood.png" if "ood.png" not in shown else f"ood-{_slug(name)}.png"
        plots.save_histogram(run.folder / file, by_set, f"{name} of {data_name(run)} and of outliers", name)
        shown[file] = f"histogram of {name}"
    few = {label: images[:: max(1, len(images) // SHOWN)][:SHOWN] for label, images in sets.items()}
    pictures.save_panels(run.folder / "outliers.png", few, columns=SHOWN)
    return shown | {"outliers.png": f"some of each: {', '.join(sets)}"}


def _outliers_from(name: str, run: Run, root: str) -> Tensor:
    images = reference(data.load(name, run.config.size, root, run.config.crop))
    if images.shape[1] == run.config.channels:
        return images
    if run.config.channels == 3:
        return images.expand(-1, 3, -1, -1)
    return images.float().mean(1, keepdim=True).round().byte()


def _slug(score: str) -> str:
    return "gradient" if GRADIENT.fullmatch(score) else re.sub(r"\W+", "-", score).strip("-").lower()
