"""`hatebm evaluate`, and what a run remembers of its data: tables, outliers, distances, and what is refused."""

import json
import shutil
import textwrap
import zipfile
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image
from shell import SYNTHESIS, hatebm, pictures, refusal, settings, train
from tiny import one_thread  # noqa: F401

from hatebm import data as data_sets
from hatebm.runs.folder import Run

FEATURES = """
    import torch

    def rows(images):
        return images.float().mean(2).flatten(1)[:, :4]

    class Network(torch.nn.Module):
        def forward(self, images):
            return images.float().mean(3).flatten(1)[:, :4]

    network = Network()
    number = 3
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures", 55)


def run_of(system: str, data, folder: Path, *more) -> tuple[Path, str]:
    said = hatebm(*train(system, data, folder, *more))
    assert said.code == 0, said.err
    return folder, said.out


@pytest.fixture(scope="module")
def refined(data, tmp_path_factory) -> tuple[Path, str]:
    return run_of("hat-refine", data, tmp_path_factory.mktemp("refined") / "run")


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A synthesis of digits, whose training ended without its evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hatebm.commands.train.report", lambda *_: None)
        return run_of("hat-synthesis", "digits", tmp_path_factory.mktemp("digits") / "run")[0]


@pytest.fixture(scope="module")
def gan(refined) -> Path:
    return refined[0] / "generator"


def rows_of(file: Path) -> list[dict]:
    """The rows of a JSON file, which by the standard holds no NaN and no Infinity."""

    def refuse(constant):
        raise AssertionError(f"{file.name} holds {constant}")

    return json.loads(file.read_text(), parse_constant=refuse)


def test_evaluate_prints_the_table_that_training_printed(refined):
    folder, said = refined
    table = said[said.index("Frechet distance") :]
    for row in ("training images", "G(z) alone", "DDLS, 4 steps", "Hat EBM, 3 steps", "Hat EBM, 6 steps"):
        assert row in table
    assert "11 held-out images" in table
    written = rows_of(folder / "results.json")
    for name in ("results.json", "samples.png", "path.gif", "path.png", "curves.png"):
        (folder / name).unlink()
    again = hatebm("evaluate", folder)
    assert again.code == 0
    assert again.out == table
    assert rows_of(folder / "results.json") == written
    for name in ("samples.png", "path.gif", "path.png", "curves.png"):
        with Image.open(folder / name) as picture:
            picture.load()


def test_the_same_images_are_at_no_distance(tmp_path):
    folder, said = run_of("autoencoder", pictures(tmp_path / "few", 5), tmp_path / "run")
    assert "-0.00" not in said
    assert "data, decoded" in said
    assert "held-out" not in said
    assert len(rows_of(folder / "results.json")) == 3


@pytest.mark.parametrize("system", ["hat-synthesis", "autoencoder"])
def test_a_training_of_one_iteration_or_none_ends_well(data, tmp_path, system):
    one, none = ([word.replace("=1", f"={n}") for word in ("--set", "iterations=1")] for n in (1, 0))
    words = [word for word in train(system, data, tmp_path / "one", "--steps", "1") if word not in ("--steps", "1")]
    assert hatebm(*words, *one).code == 0
    assert (tmp_path / "one" / "curves.png").exists()
    words[words.index(tmp_path / "one")] = tmp_path / "none"
    assert hatebm(*words, *none).code == 0
    assert (tmp_path / "none" / "samples.png").exists()
    assert not (tmp_path / "none" / "curves.png").exists()


KINDS = ["permuted pixels", "uniform noise", "constant", "letters", "mirrored", "inverted"]


def test_outliers_without_names_are_the_made_kinds_for_every_score_of_any_run(refined, gan, digits):
    hat = {"-H(x)": "ood.png", "-|dH/dx|": "ood-gradient.png"}
    gans = {"a D(x) + b": "ood.png"}
    for folder, inside, scores in (
        (refined[0], "11 images of pictures", hat),
        (gan, "11 images of pictures", gans),
        (digits, "500 images of digits", hat),
    ):
        named = ["digits"] if folder == digits else []
        said = hatebm("evaluate", folder, "--ood", *named)
        assert said.code == 0, said.err
        assert said.out.startswith(f"AUROC of {inside} against outliers")
        rows = rows_of(folder / "ood.json")
        assert [(row["score"], row["outliers"]) for row in rows] == list(product(scores, [*KINDS, *named]))
        assert all(0 <= row[name]["low"] <= row[name]["value"] <= row[name]["high"] <= 1
                   for row in rows for name in ("auroc", "auprc", "fpr80"))  # fmt: skip
        sentences = said.out.split("└")[1]
        for row in rows:
            value = f"{row['outliers']} (AUROC {row['auroc']['value']:.3f})"
            assert sum(line.startswith(row["score"]) and value in line for line in sentences.splitlines()) == 1
        for name in (*scores.values(), "outliers.png"):
            assert f"{folder / name}: " in sentences
            with Image.open(folder / name) as picture:
                picture.load()
    with Image.open(refined[0] / "outliers.png") as picture:
        assert picture.mode == "RGB"
    assert [row["auroc"]["value"] for row in rows if row["outliers"] == "digits"] == [0.5, 0.5]  # the run's own
    assert sentences.count(" does not tell digits from ") == 2
    assert next(line for line in said.out.splitlines() if line.startswith("│ digits ")).endswith("│ none       │")


def test_outliers_may_be_data_sets_and_folders_grey_and_coloured(refined, digits, data, tmp_path, monkeypatch):
    monkeypatch.setattr("hatebm.runs.plots.save_histogram", lambda *_: None)
    grey = pictures(tmp_path / "[red]grey", 7, "L")
    said = hatebm("evaluate", refined[0], "--ood", "digits", "[red]grey", "--data-root", tmp_path)
    assert said.code == 0, said.err
    rows = rows_of(refined[0] / "ood.json")
    assert [row["outliers"] for row in rows[:8]] == [*KINDS, "digits", "[red]grey"]
    assert "│ [red]grey " in said.out
    said = hatebm("evaluate", digits, "--ood", data)
    assert said.code == 0, said.err
    assert rows_of(digits / "ood.json")[len(KINDS)]["outliers"] == str(data)
    assert grey.exists()


def test_outliers_that_are_nowhere_are_refused(gan):
    assert "got 'nowhere'" in refusal("evaluate", gan.parent, "--ood", "nowhere")


def test_distances_after_growing_numbers_of_steps(digits):
    said = hatebm("evaluate", digits, "--fid", "--n", 60)
    assert said.code == 0, said.err
    assert "60 samples against 1297 training images" in said.out
    rows = rows_of(digits / "quality.json")
    assert [row["steps"] for row in rows] == [0, 2, 3, 4, 6, 8, 9, 12]
    assert all(row["samples"] == 60 and row["references"] == 1297 and row["frechet"] > 0 for row in rows)
    assert [row["steps"] for row in rows if row["kid"] is not None] == [6]
    with Image.open(digits / "quality.png") as picture:
        picture.load()


@pytest.mark.parametrize("features", ["rows", "network"])
def test_distances_in_features_of_ones_own(gan, tmp_path, monkeypatch, features):
    (tmp_path / "their_features.py").write_text(textwrap.dedent(FEATURES))
    monkeypatch.syspath_prepend(tmp_path)
    place = f"their_features:{features}"
    said, again = (hatebm("evaluate", gan, "--fid", "--n", 3, "--features", place) for _ in range(2))
    assert said.code == 0, said.err
    assert again == said
    assert "nan" not in said.out
    rows = rows_of(gan / "quality.json")  # of so few samples KID has no error
    assert [row["steps"] for row in rows] == [0, 2, 4, 6, 8, 10, 12, 16]
    assert [row["kid_error"] for row in rows] == [None] * 8
    assert "--features: their_features:number must be" in refusal(
        "evaluate", gan, "--fid", "--features", "their_features:number"
    )


RAISING = """
    import sys

    def raises(images):
        raise KeyError("two\\nlines")

    def leaves(images):
        sys.exit(3)

    def later(images):
        if len(images) == 7:  # the last batch of the samples
            raise RuntimeError("later")
        return images.flatten(1).float()
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("their_raising:raises", "their_raising:raises raised KeyError: 'two\\nlines'"),
        ("their_raising:leaves", "their_raising:leaves raised SystemExit: 3"),
        ("their_raising:later", "their_raising:later raised RuntimeError: later"),
        ("their_exit:network", "cannot import their_exit:network: SystemExit: 7"),
        ("their_division:network", "cannot import their_division:network: ZeroDivisionError: division by zero"),
        ("..their_raising:raises", "cannot import ..their_raising:raises: TypeError: "),
    ],
)
def test_features_that_raise_or_leave_are_named_in_a_line(digits, tmp_path, monkeypatch, name, said):
    for file, code in (("raising", RAISING), ("exit", "raise SystemExit(7)"), ("division", "1 / 0")):
        (tmp_path / f"their_{file}.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    assert f"--features: {said}" in refusal("evaluate", digits, "--fid", "--n", 7, "--features", name)


def test_generators_that_leave_are_named_in_a_line(data, tmp_path, monkeypatch):
    code = """
        import sys
        from torch import nn

        class Leaves(nn.Module):
            latent_shape = (5,)

            def forward(self, z):
                sys.exit(4)

        def make():
            sys.exit(5)
    """
    (tmp_path / "their_generator.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    for name, said in (("make", "sys.exit(5)"), ("Leaves", "cannot take latents of shape (5,): SystemExit: 4")):
        words = train("hat-refine", data, tmp_path / "run", "--generator", f"their_generator:{name}")
        assert said in refusal(*words)
    assert not (tmp_path / "run").exists()


def test_other_refusals(digits, gan, tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"broken")
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/code/nothing.py", "")
    for arguments, message in (
        (["--fid", "--weights", tmp_path / "missing.pt"], f"--weights: no file {tmp_path / 'missing.pt'}"),
        (["--fid", "--weights", tmp_path / "program.pt"], "program.pt cannot be read: "),
        (["--fid", "--weights", tmp_path / "broken.pt"], "is neither TorchScript nor a state dict"),
        (["--fid", "--features", "nowhere"], "--features: wanted package.module:attribute"),
        (["--fid", "--features", "no_such_module:network"], "--features: cannot import no_such_module:network"),
        (["--fid", "--n", "2"], "--n: wanted at least 3 samples, got 2"),
        (["--n", "60"], "--n goes with --fid"),
        (["--data-root", tmp_path], "--data-root goes with --ood"),
        (["--fid", "--n", "5", "--features", "torch:ravel"], "--fid: quality: features must be"),
        (["--weights", "a.pt"], "--weights goes with --fid"),
        (["--ood", "--features", "a:b"], "--features goes with --fid"),
        (["--fid", "--features", "a:b", "--weights", "a.pt"], "--weights are Inception's, got --features too"),
    ):
        assert message in refusal("evaluate", digits, *arguments)
    assert "is not the folder of a run" in refusal("evaluate", tmp_path)


def without_gpu(name: str) -> bool:
    return name != "cuda" or not torch.cuda.is_available()


@pytest.mark.parametrize("name", ["cuda", "meta", "hpu", "privateuseone", "mps", "tpu", "cpu:x", ""])
def test_devices_that_are_not_there_are_refused(digits, tmp_path, name):
    if not without_gpu(name) or (name == "mps" and torch.backends.mps.is_available()):
        pytest.skip("it is there")
    for command in (["evaluate", digits], ["sample", digits], ["train", "--out", tmp_path / "run"]):
        said = refusal(*command, "--device", name)
        assert said.startswith(f"hatebm: error: --device: cannot use {name!r}: ")
        assert len(said) < 250
    assert not (tmp_path / "run").exists()


def test_a_run_remembers_where_its_data_lay(tmp_path, monkeypatch):
    pictures(tmp_path / "sets" / "pictures", 6)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hatebm.commands.train.report", lambda *_: None)
    folder, _ = run_of("hat-synthesis", "pictures", tmp_path / "run", "--data-root", "sets")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert Run.open(folder).data == str(tmp_path / "sets" / "pictures")
    assert hatebm("evaluate", folder).code == 0
    assert hatebm("train", "--resume", "--out", folder, "--steps", 4).code == 0

    asked = []
    load = data_sets.load
    monkeypatch.setattr("hatebm.data.load", lambda *given: asked.append(given) or load("digits", 8))
    monkeypatch.chdir(tmp_path)
    words = ["--size", "8", "--steps", "1", *settings(SYNTHESIS)]
    assert hatebm("train", "--data", "mnist", "--data-root", "sets", "--out", "named", *words).code == 0
    monkeypatch.chdir(elsewhere)
    assert hatebm("train", "--resume", "--out", tmp_path / "named", "--steps", 2).code == 0
    assert [given[:3] for given in asked] == [("mnist", 8, "sets"), ("mnist", 8, str(tmp_path / "sets"))]


def test_changed_data_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hatebm.commands.train.report", lambda *_: None)
    place = pictures(tmp_path / "pictures", 6)
    folder, _ = run_of("hat-refine", place, tmp_path / "run")
    (place / "000.png").rename(tmp_path / "000.png")
    said = f"{folder} began with 6 training images of 3 channels, {place} now gives 5 of 3"
    for command in (["evaluate", folder], ["train", "--resume", "--out", folder, "--steps", "9"]):
        assert said in refusal(*command)
    assert hatebm("sample", folder, "--n", 2).code == 0
    shutil.rmtree(place)
    assert f"the images of {folder} are not in {place} any more; say with --data where" in refusal("evaluate", folder)
    assert Run.open(folder).config.iterations == 3


EDITS = [
    (lambda values: values["config"].update(speed=3), "unknown keys ['speed']"),
    (lambda values: values.update(system="stylegan"), "system must be one of hat-synthesis, "),
    (lambda values: values["config"].update(eps="small"), "SynthesisConfig: eps must be a number, got small"),
    (lambda values: values["config"].update(eps=-1), "SynthesisConfig: eps must be positive, got -1"),
    (lambda values: values.pop("data"), "it has no 'data'"),
    (lambda values: values.update(config=[1, 2]), "config must be an object"),
    (lambda values: values.update(data=3), "data must be a word, got 3"),
    (lambda values: values.update(train_images="many"), "train_images must be a whole number, got 'many'"),
]


@pytest.mark.parametrize(("edit", "message"), EDITS, ids=[message for _, message in EDITS])
def test_a_configuration_edited_by_hand_is_refused_in_one_line(digits, tmp_path, edit, message):
    values = json.loads((digits / "config.json").read_text())
    edit(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    for command in (["evaluate", tmp_path], ["sample", tmp_path], ["train", "--resume", "--out", tmp_path]):
        said = refusal(*command)
        assert f"{tmp_path / 'config.json'} is not the configuration of a run: " in said
        assert message in said


@pytest.mark.parametrize("text", ["", "[]", "3", '{"system": '])
def test_a_configuration_that_is_no_object_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert "is not the configuration of a run: " in refusal("evaluate", tmp_path)
