"""The tables that an evaluation prints."""

import math
from collections.abc import Sequence

from hatebm.evaluation import Detection, Quality
from hatebm.evaluation.ood import Estimate
from hatebm.runs.results import ENOUGH, Score


def print_scores(scores: Sequence[Score], reference: str) -> None:
    """Frechet distances and covered classes; `reference` says what the samples are compared with."""
    headings = ["samples", "pixels"]
    rows = [[score.samples, f"{max(score.pixel_frechet, 0):.2f}"] for score in scores]
    if scores[0].feature_frechet is not None:
        headings += ["classifier", f"classes >= {ENOUGH:.0%}", "smallest class"]
        for row, score in zip(rows, scores, strict=True):
            row += [f"{max(score.feature_frechet, 0):.1f}", str(score.classes_covered), f"{score.smallest_share:.1%}"]
    if any(score.label_agreement is not None for score in scores):
        headings = [heading.replace(" ", "\n", 1) for heading in (*headings, "label agreement")]
        for row, score in zip(rows, scores, strict=True):
            row.append("" if score.label_agreement is None else f"{score.label_agreement:.1%}")
    _print(f"Frechet distance to {reference} (less is better)", headings, rows)


def print_detections(found: dict[str, dict[str, Detection]], inside: str) -> None:
    """How well scores tell outliers apart, and which is the best: score -> outliers -> what was found."""
    rows = []
    for label in next(iter(found.values())):
        of_scores = {score: by_outliers[label].auroc for score, by_outliers in found.items()}
        rows.append([label, *map(_interval, of_scores.values()), _best(of_scores)])
    title = f"AUROC of {inside} against outliers, with 95 % intervals (best: 1, chance: 0.5)"
    _print(title, ["outliers", *found, "best score"], rows)


def print_qualities(found: dict[int, Quality], reference: str) -> None:
    """Distances with their standard errors: number of Langevin steps -> quality."""
    rows = []
    for step, one in found.items():
        distance = f"{max(one.frechet, 0):.2f}" + _error(one.frechet_error, ".2f")
        kid = "" if one.kid is None else f"{one.kid:.4g}" + _error(one.kid_error, ".2g")
        rows.append([str(step), distance, kid])
    samples = next(iter(found.values())).samples
    _print(f"{samples} samples against {reference} (less is better)", ["steps", "Frechet distance", "KID"], rows)


def _error(error: float, how: str) -> str:
    return "" if math.isnan(error) else f" +- {error:{how}}"


def _best(aurocs: dict[str, Estimate]) -> str:
    """The scores of the highest AUROC, if it is above chance."""
    highest = max(estimate.value for estimate in aurocs.values())
    best = [name for name, estimate in aurocs.items() if estimate.value == highest and estimate.low > 0.5]
    return "all" if len(best) == len(aurocs) > 1 else ", ".join(best) or "none"


def _interval(estimate: Estimate) -> str:
    low, high = (f"{end:.3f}".removeprefix("0") for end in (estimate.low, estimate.high))
    return f"{estimate.value:.3f} ({low}-{high})"


def _print(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    print(title)
    table = Table()
    for i, heading in enumerate(headings):
        first = next((row[i] for row in rows if row[i]), "")
        table.add_column(heading, justify="right" if first[:1].isdigit() else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # no markup: a folder may be called [red]
    Console().print(table)
