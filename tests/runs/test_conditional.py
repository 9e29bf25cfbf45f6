"""Runs of classes: begun with --conditional, gone on with, sampled by --label, judged by their labels."""
# ruff: noqa: F811 (fixtures by import)

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_learners
import torch
from PIL import Image
from run_folders import tree
from shell import hatebm, pictures, refusal, same, state, train
from tiny import one_thread  # noqa: F401
from two_stages import unseen  # noqa: F401

from hatebm.data import to_bytes
from hatebm.errors import UsageError
from hatebm.runs import results, stages
from hatebm.runs.folder import Run
from hatebm.runs.pictures import columns_of, grid, save_strip
from hatebm.systems.catalogue import SYSTEMS


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Pictures of three classes."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for name, n in (("ape", 4), ("bee", 5), ("cat", 6)):
        pictures(folder / name, n)
    return folder


@pytest.fixture(scope="module")
def conditional(data, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("conditional") / "run"
    said = hatebm(*train("igebm", data, folder, "--conditional"))
    assert said.code == 0, said.err
    return folder, said.out


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hatebm.commands.train.report", lambda *_: None)
        folder = tmp_path_factory.mktemp("plain") / "run"
        assert hatebm(*train("igebm", data, folder)).code == 0
    return folder


def test_a_run_is_of_as_many_classes_as_the_data_only_where_that_was_asked(conditional, plain):
    folder, said = conditional
    assert Run.open(folder).config.classes == 3
    assert Run.open(plain).config.classes == 0
    assert "15 images of 3 classes, 3 iterations" in said
    assert "buffer.labels" in state(folder).keys() - state(plain).keys()


def test_samples_are_judged_by_their_labels(conditional, plain):
    folder, said = conditional
    rows = json.loads((folder / "results.json").read_text())
    titles = ["training images", "2 Langevin steps", "4 Langevin steps", "replay buffer"]
    assert [row["samples"] for row in rows] == titles
    assert rows[0]["label_agreement"] is None
    assert all(0 <= row["label_agreement"] <= 1 for row in rows[1:])
    assert "agreement" in said
    shown = [f"{title} (classes 0 to 2 in columns)" for title in titles[1:3]]
    assert f"samples.png: data, {', '.join(shown)}, replay buffer\n" in said
    said = hatebm("evaluate", plain)
    assert said.code == 0, said.err
    assert "agreement" not in said.out
    assert "in columns" not in said.out
    assert {row["label_agreement"] for row in json.loads((plain / "results.json").read_text())} == {None}


def test_the_share_of_samples_that_the_classifier_takes_for_their_class(conditional, monkeypatch):
    folder, _ = conditional
    run = Run.open(folder)
    learner, images = stages.load(run), run.images()
    seen = []

    def predict(self, pixels):
        seen.append(pixels)
        return torch.zeros(len(pixels), dtype=torch.int64)

    monkeypatch.setattr("hatebm.evaluation.Classifier.predict", predict)
    found = [score.label_agreement for score in results.evaluate(run, learner, images)]
    replayed = learner.sample_labels(100)["replay buffer"]
    assert found == pytest.approx([None, 0.34, 0.34, float((replayed == 0).float().mean())])
    assert [len(pixels) for pixels in seen] == [len(images.train), 100, 100, 100]


@pytest.mark.parametrize("more", [["--conditional"], []], ids=["conditional", "plain"])
def test_a_run_goes_on_bit_for_bit_its_buffer_with_it(data, conditional, plain, tmp_path, unseen, more):
    stopped = shutil.copytree(conditional[0] if more else plain, tmp_path / "stopped")
    assert hatebm("train", "--resume", "--out", stopped, "--steps", 5, *more).code == 0
    assert hatebm(*train("igebm", data, tmp_path / "straight", "--steps", "5", *more)).code == 0
    assert same(state(stopped), state(tmp_path / "straight"))
    assert int(state(stopped)["buffer.seen"]) == 20
    pair = [tmp_path / f"{name}.png" for name in ("stopped", "straight")]
    for picture in pair:
        assert hatebm("sample", tmp_path / picture.stem, "--n", 3, "--out", picture).code == 0
    assert pair[0].read_bytes() == pair[1].read_bytes()


def drawn(folder: Path, out: Path, *arguments) -> str:
    said = hatebm("sample", folder, "--out", out, *arguments)
    assert said.code == 0, said.err
    assert said.out.count("\n") == 1
    return said.out.removeprefix(f"{out}: ").strip()


@pytest.mark.parametrize(("arguments", "labels", "columns", "words"), [
    (["--label", "2,0", "--n", 12], [2] * 6 + [0] * 6, 3, "12 images of classes 2,0 in whole rows"),
    (["--label", "1,2"], [1] * 32 + [2] * 32, 8, "64 images of classes 1,2 in whole rows"),
    (["--label", "2,1,0"], [2] * 21 + [1] * 21 + [0] * 21, 7, "63 images of classes 2,1,0 in whole rows"),
    (["--label", "1", "--n", 4], [1] * 4, 2, "4 images of class 1"),
    (["--label", "0,2", "--n", 7], [0] * 4 + [2] * 3, 3, "7 images of classes 0,2"),
    (["--n", 20], [0, 1, 2] * 6 + [0, 1], 9, "20 images of classes 0 to 2 in columns"),
    (["--n", 2], [0, 1], 2, "2 images of classes 0 to 1 in turn"),
])  # fmt: skip
def test_a_grid_shows_the_classes_asked_for(conditional, tmp_path, arguments, labels, columns, words):
    folder, _ = conditional
    said = drawn(folder, tmp_path / "a.png", "--steps", 3, *arguments)
    assert said == f"{words} after 3 steps, iteration 3 of the training"
    (images,) = stages.load(Run.open(folder)).sample(len(labels), [3], seed=0, labels=labels)
    with Image.open(tmp_path / "a.png") as picture:
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    wanted = grid(to_bytes(images), columns)
    assert torch.equal(pixels.view(wanted.permute(1, 2, 0).shape), wanted.permute(1, 2, 0))


@pytest.mark.parametrize(("arguments", "labels", "words"), [
    (["--label", "2,0"], [2] * 4 + [0] * 4, "8 chains of classes 2,0 at steps 0, 1, 2"),
    (["--label", "2,0,1"], [2, 2, 0, 0, 1, 1], "6 chains of classes 2,0,1 at steps 0, 1, 2"),
    (["--n", 5], [0, 1, 2, 0, 1], "5 chains of classes 0 to 2 in turn at steps 0, 1, 2"),
])  # fmt: skip
def test_paths_of_classes_are_drawn(conditional, tmp_path, arguments, labels, words):
    folder, _ = conditional
    assert drawn(folder, tmp_path / "a.png", "--path", "--steps", 2, *arguments) == words
    seen = stages.load(Run.open(folder)).sample(len(labels), [0, 1, 2], seed=0, labels=labels)
    save_strip(tmp_path / "b.png", dict(enumerate(map(to_bytes, seen))))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_more_steps_are_not_advised_against(conditional, tmp_path):
    assert drawn(conditional[0], tmp_path / "a.png", "--steps", 200, "--n", 2).startswith("2 images of classes 0 to 1")


def test_quality_is_judged_at_steps_that_grow_by_factors(conditional, plain):
    folder, _ = conditional
    said = hatebm("evaluate", folder, "--fid", "--n", 5)
    assert said.code == 0, said.err
    assert [row["steps"] for row in json.loads((folder / "quality.json").read_text())] == [1, 2, 4, 6, 8]
    with Image.open(folder / "quality.png") as picture:
        picture.load()


def test_refusals_leave_a_run_as_it_was(data, conditional, plain, tmp_path):
    folder, _ = conditional
    for run, arguments, message in (
        (folder, ["sample", "--label", "0,3"], "--label: wanted classes from 0 to 2, got 3"),
        (folder, ["sample", "--label", "-1"], "argument --label: wanted numbers of classes such as 3,7"),
        (folder, ["sample", "--label", "1,1"], "none of them twice, got '1,1'"),
        (folder, ["sample", "--label", "a"], "none of them twice, got 'a'"),
        (folder, ["sample", "--label", "0,1", "--n", "1"], "--n: wanted at least 2, one for each class of --label"),
        (plain, ["sample", "--label", "0"], f"--label: {plain} draws of no classes"),
        (plain, ["train", "--resume", "--conditional"], f"the run in {plain} has classes = 0 and keeps it, got"),
        (folder, ["train", "--resume", "--set", "classes=2"], "has classes = 3 and keeps it, got 2"),
    ):
        before = tree(run)
        command, *more = arguments
        said = refusal(command, *(["--out", run] if command == "train" else [run]), *more)
        assert message in said
        assert tree(run) == before
    for more, message in (
        (["--conditional", "--set", "classes=2"], "--set: classes must be 3 like those of the data, got 2"),
        (["--conditional", "--set", "classes=0"], "--set: classes must be 3 like those of the data, got 0"),
        (["--set", "classes=4"], "--set: classes must be 3 like those of the data, got 4"),
    ):
        assert message in refusal(*train("igebm", data, tmp_path / "run", *more))
    (bare,) = data.glob("ape")
    for more, message in (
        (["--conditional"], "--conditional: the data have no labels"),
        (["--set", "classes=2"], "--set: classes must be 0, for the data have no labels, got 2"),
    ):
        assert message in refusal(*train("igebm", bare, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def thousand(monkeypatch):
    """A published configuration of more classes than the data have."""
    ready = replace(SYSTEMS["igebm"].published["imagenet32"], **vars(tiny_learners.igebm(classes=1000).config))
    monkeypatch.setitem(SYSTEMS["igebm"].published, "thousand", replace(ready, channels=3, size=32, iterations=9))


def test_a_preset_of_other_classes_is_refused_or_takes_the_datas_and_so_it_goes_on(data, tmp_path, thousand, unseen):
    begins = ["train", "igebm", "--preset", "thousand", "--data", data, "--steps", 2, "--out", tmp_path / "run"]
    said = refusal(*begins)
    assert "--preset: it has classes = 1000, and they must be 3 like those of the data; --conditional takes" in said
    said = refusal(*begins[:4], "--data", data / "ape", *begins[6:])
    assert said.endswith("--preset: it has classes = 1000, and they must be 0, for the data have no labels\n")
    assert hatebm(*begins, "--conditional").code == 0
    assert Run.open(tmp_path / "run").config.classes == 3
    assert "has classes = 3 and keeps it, got 1000" in refusal(*begins, "--resume")
    said = hatebm(*begins[:7], 3, *begins[8:], "--conditional", "--resume")
    assert (said.code, said.err) == (0, "")


def test_a_preset_brings_the_data_that_its_name_begins_with(tmp_path, monkeypatch):
    def asked(name, *_):
        raise UsageError(f"asked for {name}")

    monkeypatch.setattr("hatebm.data.load", asked)
    begins = ["train", "igebm", "--out", tmp_path / "run", "--preset"]
    assert "asked for cifar10\n" in refusal(*begins, "cifar10-conditional")
    assert "asked for mnist\n" in refusal(*begins, "mnist")
    assert "--preset: dsprites brings no data" in refusal(*begins, "dsprites")


def test_data_whose_labels_are_gone_are_refused(data, conditional, tmp_path):
    for path in sorted(data.rglob("*.png")):
        (tmp_path / "flat").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "flat" / f"{path.parent.name}-{path.name}")
    run = shutil.copytree(conditional[0], tmp_path / "run")
    said = refusal("train", "--resume", "--out", run, "--steps", 5, "--data", tmp_path / "flat")
    assert f"{run} began with labels of 3 classes, {tmp_path / 'flat'} now gives none" in said


def test_labels_may_have_a_gap(tmp_path, monkeypatch):
    images = replace(tiny.images(), train_labels=torch.arange(10) % 2 * 2)
    monkeypatch.setattr("hatebm.data.load", lambda *_: images)
    said = hatebm(*train("igebm", "mnist", tmp_path / "run", "--conditional"))
    assert said.code == 0, said.err
    assert Run.open(tmp_path / "run").config.classes == 3
    assert "10 images of 3 classes" in said.out


@pytest.mark.parametrize(("n", "classes", "rows_of", "columns"), [
    (64, 0, None, 8), (100, 10, None, 10), (100, 7, None, 7), (100, 4, None, 8), (100, 15, None, 15),
    (100, 21, None, 10), (5, 10, None, 5), (60, 10, range(5), 6), (26, 10, range(2), 5), (7, 10, range(7), 3),
    (1, 10, [3], 1), (9, 10, [3], 3),
])  # fmt: skip
def test_columns_are_whole_classes_where_that_is_possible(n, classes, rows_of, columns):
    assert columns_of(n, classes, rows_of) == columns
