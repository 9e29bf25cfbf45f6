"""Data that lie elsewhere than when a run began: said where they are, known again, remembered; others are refused."""
# ruff: noqa: F811 (fixtures by import)

import json
import shutil

import pytest
import torch
from PIL import Image
from run_folders import tree
from shell import hatebm, pictures, refusal, train
from tiny import one_thread  # noqa: F401
from two_stages import unseen  # noqa: F401

from hatebm import data as data_sets
from hatebm.data import Images
from hatebm.data.fingerprint import Fingerprint
from hatebm.runs.folder import Run


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two stages, and its pictures."""
    place = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hatebm.commands.train.report", lambda *_: None)
        said = hatebm(*train("hat-refine", pictures(place / "pictures", 12), place / "run", "--steps", 1))
    assert said.code == 0, said.err
    return place


@pytest.fixture
def moved(begun, tmp_path):
    """The run, whose pictures are gone, and where they are now."""
    run = shutil.copytree(begun / "run", tmp_path / "run")
    for folder in (run, run / "generator"):
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | {"data": str(tmp_path / "old")}))
    return run, shutil.copytree(begun / "pictures", tmp_path / "elsewhere")


def test_a_run_whose_pictures_are_gone_says_so_and_how_to_go_on(moved, tmp_path):
    run, _ = moved
    before = tree(run)
    for command in (
        ["evaluate", run],
        ["train", "--resume", "--out", run, "--steps", 9],
        ["evaluate", run / "generator"],
    ):
        said = refusal(*command)
        assert f"are not in {tmp_path / 'old'} any more; say with --data where they are now" in said
        assert "mnist" not in said
    assert hatebm("sample", run, "--n", 1, "--out", tmp_path / "a.png").code == 0
    assert tree(run) == before


@pytest.mark.parametrize("command", [["evaluate"], ["train", "--resume", "--steps", 2, "--out"]], ids=lambda c: c[0])
def test_told_where_they_are_it_remembers_that_in_both_stages(moved, command, tmp_path, monkeypatch, unseen):
    run, elsewhere = moved
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hatebm.commands.evaluate.report", lambda *_: None)
    assert hatebm(*command, run, "--data", "elsewhere").code == 0
    assert [Run.open(folder).data for folder in (run, run / "generator")] == [str(elsewhere)] * 2
    monkeypatch.chdir("/")
    assert hatebm("evaluate", run).code == 0
    assert hatebm("train", "--resume", "--out", run, "--steps", 3).code == 0


def altered(folder, how):
    if how == "one less":
        (folder / "003.png").unlink()
    elif how == "one other":
        Image.new("RGB", (8, 8), "red").save(folder / "003.png")
    elif how == "another order":
        (folder / "003.png").rename(folder / "zzz.png")
    else:
        for path in folder.iterdir():
            Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)


@pytest.mark.parametrize("how", ["one less", "one other", "another order", "all turned"])
@pytest.mark.parametrize("told", [True, False], ids=["told", "in their place"])
def test_other_pictures_are_refused_by_name(moved, tmp_path, how, told):
    run, elsewhere = moved
    altered(elsewhere, how)
    place = elsewhere if told else elsewhere.rename(tmp_path / "old")
    before = tree(run)
    for command in (["evaluate", run], ["train", "--resume", "--out", run, "--steps", 9]):
        said = refusal(*command, *(["--data", place] if told else []))
        assert f"{run} began with " in said
        assert str(place) in said
    assert tree(run) == before


def test_what_are_no_pictures_of_the_run_is_refused(moved, tmp_path):
    run, _ = moved
    before = tree(run)
    for more, message in (
        (["--data", "mnist"], f"--data: the run in {run} has data = {tmp_path / 'old'} and keeps it, got mnist"),
        (["--data", "nowhere"], f"--data: wanted the folder where the images of {run} are now, got 'nowhere'"),
    ):
        assert message in refusal("evaluate", run, *more)
        assert message in refusal("train", "--resume", "--out", run, *more)
    with Run.open(run).held():
        assert "another training is at work" in refusal("evaluate", run, "--data", tmp_path / "elsewhere")
    assert tree(run) == before


def test_the_files_of_a_published_set_may_move_below_another_root(begun, tmp_path, monkeypatch, unseen):
    monkeypatch.setattr("hatebm.commands.evaluate.report", lambda *_: None)
    asked, load = [], data_sets.load
    monkeypatch.setattr("hatebm.data.load", lambda *given: asked.append(given) or load(str(begun / "pictures"), 8))
    run = tmp_path / "run"
    assert hatebm(*train("hat-synthesis", "svhn", run, "--data-root", tmp_path / "old")).code == 0
    assert hatebm("evaluate", run, "--data-root", tmp_path / "new").code == 0
    assert hatebm("train", "--resume", "--out", run, "--data-root", tmp_path / "newer").code == 0
    assert hatebm("evaluate", run).code == 0
    assert [given[2] for given in asked] == [str(tmp_path / name) for name in ("old", "new", "newer", "newer")]
    assert "has data = svhn and keeps it, got " in refusal("evaluate", run, "--data", begun / "pictures")


def test_a_fingerprint_forgives_rounding_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 255, (100, 3, 8, 8), generator=generator, dtype=torch.uint8)
    held_out = images[:7]
    ours = Fingerprint.of(Images(images, held_out))
    rounded = images.short() + torch.randint(-1, 2, images.shape, generator=generator)
    assert ours.difference(Fingerprint.of(Images(rounded.byte(), held_out))) is None
    assert Fingerprint.of(Images(images, held_out, labels := torch.zeros(100), labels)) == ours
    brighter = images.clone()
    brighter[0] = (brighter[0].short() + 9).clamp(max=255).byte()
    for others, words in (
        (Images(brighter, held_out), "of 468 means of sampled pictures differ"),
        (Images(images[:99], held_out), "100 of 3 x 8 x 8 were the training images, now 99 of 3 x 8 x 8"),
        (Images(images, held_out[:6]), "7 of 3 x 8 x 8 were the held-out images, now 6 of 3 x 8 x 8"),
        (Images(images[..., :4, :4], held_out[..., :4, :4]), "now 100 of 3 x 4 x 4"),
    ):
        assert words in ours.difference(Fingerprint.of(others))
