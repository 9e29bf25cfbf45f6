"""What scores tell from data: labels, sentences, the best score, names of pictures."""

from pathlib import Path

import pytest
import tiny
import torch
from tiny_learners import SYSTEMS

from hatebm.evaluation import Detection, Estimate
from hatebm.runs import detection
from hatebm.runs.folder import Run
from hatebm.runs.tables import print_detections


def found(**aurocs) -> dict[str, dict[str, Detection]]:
    """Detections of which AUROCs are known: score -> outliers -> (low, value, high)."""
    return {
        score: {
            label: Detection(Estimate(value, low, high), Estimate(1.0, 1.0, 1.0), Estimate(0.0, 0.0, 0.0))
            for label, (low, value, high) in kinds.items()
        }
        for score, kinds in aurocs.items()
    }


SURE, CHANCE, WORSE = (0.97, 0.98, 0.99), (0.45, 0.52, 0.58), (0.1, 0.2, 0.4)


def test_what_a_score_cannot_do_is_said_as_plainly_as_what_it_can():
    both = found(
        E={"noise": SURE, "mirrored": CHANCE, "inverted": WORSE, "letters": (0.501, 0.6, 0.7), "edge": (0.5, 0.6, 0.7)},
        F={"noise": (0.2, 0.4, 0.5), "mirrored": (0.3, 0.4, 0.499)},
    )
    assert detection.verdicts(both, "digits") == [
        "E tells digits from noise (AUROC 0.980), letters (AUROC 0.600)",
        "E does not tell digits from mirrored (AUROC 0.520), edge (AUROC 0.600)",
        "E ranks digits below inverted (AUROC 0.200)",
        "F does not tell digits from noise (AUROC 0.400)",
        "F ranks digits below mirrored (AUROC 0.400)",
    ]


@pytest.mark.parametrize(
    ("aurocs", "best"),
    [
        ({"E": SURE, "F": CHANCE, "G": SURE}, "E, G"),
        ({"E": (0.6, 0.7, 0.8), "F": SURE}, "F"),
        ({"E": SURE, "F": SURE}, "all"),
        ({"E": SURE}, "E"),
        ({"E": CHANCE, "F": WORSE}, "none"),
    ],
)
def test_the_best_score_is_named_where_it_is_above_chance(aurocs, best, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_detections(found(**{score: {"noise": auroc} for score, auroc in aurocs.items()}), "9 images of digits")
    *_, row, _ = capsys.readouterr().out.splitlines()
    assert row.strip("│ ").split("│")[-1].strip() == best


def test_a_score_names_its_picture():
    for name, slug in (("-|dH/dx|", "gradient"), ("-|dE/dx|", "gradient"), ("a D(x) + b", "a-d-x-b")):
        assert detection._slug(name) == slug


def test_a_folder_called_like_a_made_kind_stands_beside_it(tmp_path):
    images = tiny.images(6).train
    run = Run(tmp_path, "hat-synthesis", "/somewhere/digits", ".", 6, tiny.CONFIG)
    sets = detection.compared(run, images, {"letters": images[:2], "a\udcff": images[:3]})
    kinds = ["permuted pixels", "uniform noise", "constant", "letters", "mirrored", "inverted"]
    assert list(sets) == ["digits (learned)", *kinds, "./letters", "a\\udcff"]
    assert [len(x) for x in sets.values()] == [6] * 7 + [2, 3]
    learner = SYSTEMS["synthesis"]()
    scores = detection.scores_of(learner, sets)
    for name in ("-H(x)", "-|dH/dx|"):
        assert list(scores[name]) == list(sets)
        assert torch.equal(scores[name]["digits (learned)"], learner.scores(images)[name])
        assert torch.equal(scores[name]["mirrored"], learner.scores(images.flip(-1))[name])
    by_score = detection.detect(scores)
    assert list(by_score["-H(x)"]) == list(sets)[1:]
    other = Run(Path(tmp_path), "hat-synthesis", "digits", ".", 6, tiny.replace(tiny.CONFIG, seed=1))
    assert not torch.equal(detection.compared(other, images, {})["letters"], sets["letters"])
