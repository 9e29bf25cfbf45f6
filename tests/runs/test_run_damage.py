"""Damage in a run's folder, in either stage: named in one line, and nothing in the folder changes."""
# ruff: noqa: F811 (fixtures by import)

import json
import shutil

import pytest
import torch
from run_folders import flipped, rewritten, tree
from shell import hatebm, refusal, same, state
from tiny import one_thread  # noqa: F401
from two_stages import data, straight, unseen  # noqa: F401

from hatebm.errors import UsageError
from hatebm.runs import checkpoints
from hatebm.runs.config_json import FORMAT
from hatebm.runs.folder import Run

EITHER = pytest.mark.parametrize("part", [".", "generator"])
NEWEST, OLDEST = "checkpoints/00000003.safetensors", "checkpoints/00000000.safetensors"


@pytest.fixture
def run(straight, tmp_path):
    return shutil.copytree(straight["hat-refine"], tmp_path / "run")


def name_of(tensors, end):
    return next(name for name in tensors if name.endswith(end) and len(tensors[name].shape) > 1 < len(tensors[name]))


def narrow(end):
    def change(tensors, about):
        name = name_of(tensors, end)
        tensors[name] = tensors[name][:1].clone()

    return change


def halve(tensors, about):
    tensors[name_of(tensors, "weight")] = tensors[name_of(tensors, "weight")].half()


def forget_optimisers(tensors, about):
    for name in [name for name in tensors if "_optimizer." in name]:
        del tensors[name]


def forget_one_moment(tensors, about):
    del tensors[name_of(tensors, "exp_avg_sq")]


def add_a_moment(tensors, about):
    optimiser, _, moment = name_of(tensors, ".exp_avg").rsplit(".", 2)
    tensors[f"{optimiser}.999.{moment}"] = torch.zeros(3)


def break_a_weight(tensors, about):
    tensors[name_of(tensors, "weight")].view(-1)[0] = float("nan")


def of_another_seed(tensors, about):
    about["config"] = json.dumps(json.loads(about["config"]) | {"seed": 7})


CHANGES = {
    narrow("weight"): "must be a float32 tensor of shape",
    narrow(".exp_avg"): "must be a float32 tensor of shape",
    halve: "got a float16 tensor",
    forget_optimisers: "is missing",
    forget_one_moment: "exp_avg_sq is missing",
    add_a_moment: "999.exp_avg is unknown",
    break_a_weight: "is not finite",
    of_another_seed: "it has seed = 7, the run has 0",
    lambda tensors, about: about.update(iteration="2"): "it is of iteration 2",
}
BYTES = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "foreign": lambda whole: b"x" * 1000,
    "a bit of a tensor": lambda whole: flipped(whole, 8 * len(whole) - 30),
    "zeros at the end": lambda whole: whole[:-512] + bytes(512),
}


def refused_and_unchanged(run, *more) -> str:
    before = tree(run)
    said = refusal("train", "--resume", "--out", run, "--steps", 5, *more)
    assert tree(run) == before
    return said


@EITHER
def test_a_checkpoint_that_is_not_whole_is_named_with_a_good_one_to_go_on_from(run, straight, part, unseen):
    newest, oldest = run / part / NEWEST, run / part / OLDEST
    whole = newest.read_bytes()
    for damage in BYTES.values():
        newest.write_bytes(damage(whole))
        said = refused_and_unchanged(run)
        assert f"the checkpoint {newest} " in said
        assert f"; {oldest} is good: remove the newer ones to go on from there" in said
        assert str(newest) in refusal("sample", run, "--n", 1)
        assert str(newest) in refusal("evaluate", run)
    oldest_whole = oldest.read_bytes()
    oldest.write_bytes(b"")
    assert "is good" not in refused_and_unchanged(run)
    oldest.write_bytes(oldest_whole)
    for path in (run / part / "checkpoints").glob("*[1-9].safetensors"):
        path.unlink()
    assert hatebm("train", "--resume", "--out", run, "--steps", 3).code == 0
    assert same(state(run / part), state(straight["hat-refine"] / part))
    assert [row["step"] for row in Run.open(run / part).metrics()] == [1, 2, 3]


@EITHER
def test_a_checkpoint_that_does_not_fit_is_named(run, part):
    newest = run / part / NEWEST
    whole = newest.read_bytes()
    for change, message in CHANGES.items():
        rewritten(newest, change)
        said = refused_and_unchanged(run)
        assert f"the checkpoint {newest} does not fit the run: " in said
        assert message in said
        newest.write_bytes(whole)


def test_any_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "00000001.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.zeros(0, 2)}
    checkpoints.write(path, tensors, {"iteration": "1", "config": "{}"})
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 5):  # every byte, and in turn each of its bits
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(UsageError, match="00000001"):
            checkpoints.load(path)
    path.write_bytes(whole)
    assert same(checkpoints.load(path)[0], tensors)


def test_another_generator_than_the_one_learned_on_is_refused(run):
    rewritten(run / "generator" / NEWEST, lambda tensors, about: tensors["generator_average.module.conv.bias"].add_(1))
    assert f"it learned on another generator than that in {run / 'generator'}" in refused_and_unchanged(run)


ROWS = {
    "half a row": (lambda rows: [rows[0], b'{"step": 2, "ene\n', rows[2]], 2),
    "a number": (lambda rows: [b"3\n", *rows], 1),
    "zeros": (lambda rows: [bytes(40) + b"\n", *rows], 1),
    "an empty line": (lambda rows: [b"\n", *rows], 1),
    "no step": (lambda rows: [b"{}\n", *rows], 1),
    "a missing row": (lambda rows: [rows[0], rows[2]], 2),
    "the first row lost": (lambda rows: rows[1:], 1),
    "the last row lost": (lambda rows: rows[:2], 3),
    "the end of the last row lost": (lambda rows: [*rows[:2], rows[2][:-1]], 3),
    "a row twice": (lambda rows: [rows[0], rows[0], *rows[1:]], 2),
    "rows in another order": (lambda rows: [rows[1], rows[0], rows[2]], 1),
    "a number that is none": (lambda rows: [rows[0], rows[1].replace(b": ", b": NaN, \"x\": ", 1), rows[2]], 2),
    "a metric lost": (lambda rows: [rows[0], b'{"step": 2}\n', rows[2]], 2),
    "no text": (lambda rows: [rows[0], b"\xff\xfe\n", rows[2]], 2),
}  # fmt: skip


@EITHER
def test_metrics_that_are_not_whole_are_named_with_the_checkpoint_that_they_reach(run, part):
    metrics = run / part / "metrics.jsonl"
    rows = metrics.read_bytes().splitlines(keepends=True)
    for damage, line in ROWS.values():
        metrics.write_bytes(b"".join(damage(rows)))
        said = refused_and_unchanged(run)
        assert f"{metrics}, line {line}: wanted the row of iteration {line}, got " in said
        assert f"remove the checkpoints after {run / part / OLDEST} to go on from there" in said
    metrics.unlink()
    if part == ".":
        assert f"{metrics}, line 1: wanted the row of iteration 1, got no file" in refused_and_unchanged(run)


def test_what_follows_the_row_of_the_checkpoint_is_cut(run, straight, tmp_path, unseen):
    assert hatebm("train", "--resume", "--out", run, "--steps", 4).code == 0
    wanted = state(run)
    for rubbish in (b'{"step": 4, "ene', b"\0" * 99, b"3\n{\n\n", b'{"step": 3}\n{"step": 9}\n'):
        again = shutil.copytree(straight["hat-refine"], tmp_path / "again", dirs_exist_ok=True)
        with (again / "metrics.jsonl").open("ab") as metrics:
            metrics.write(rubbish)
        assert hatebm("train", "--resume", "--out", again, "--steps", 4).code == 0
        rows = (again / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4]
        assert same(state(again), wanted)
        shutil.rmtree(again)


@EITHER
def test_rows_without_a_checkpoint_are_not_begun_anew_in_silence(run, part):
    shutil.rmtree(run / part / "checkpoints")
    said = refused_and_unchanged(run)
    assert f"{run / part / 'metrics.jsonl'} has rows, but {run / part / 'checkpoints'} holds no checkpoint" in said


@EITHER
def test_other_files_beside_checkpoints_are_nobodys(run, part, unseen):
    strays = ("._00000003.safetensors", "best.safetensors", "00000009 (1).safetensors", "9.safetensors", "notes.txt")
    for stray in strays:
        (run / part / "checkpoints" / stray).write_bytes(b"anything")
    (run / part / "checkpoints" / "00000008.safetensors").mkdir()
    assert hatebm("train", "--resume", "--out", run, "--steps", 5).code == 0
    assert all((run / part / "checkpoints" / stray).read_bytes() == b"anything" for stray in strays)


CONFIGS = {
    "a missing number": (lambda values: values["config"].pop("batch"), "it has no 'config.batch'"),
    "a missing key": (lambda values: values.pop("fingerprint"), "it has no 'fingerprint'"),
    "no precision": (lambda values: values.pop("precision"), "it has no 'precision'"),
    "another precision": (lambda values: values.update(precision=32), "precision must be a word, got 32"),
    "no versions": (lambda values: values.pop("versions"), "it has no 'versions'"),
    "an unknown key": (lambda values: values.update(speed=3), "unknown keys ['speed']"),
    "a later format": (
        lambda values: values.update(format=FORMAT + 1),
        f"it has format {FORMAT + 1} of a later version of hatebm",
    ),
    "no format": (lambda values: values.update(format="new"), "format must be a whole number, got 'new'"),
    "another fingerprint": (lambda values: values["fingerprint"].update(sample="zz"), "fingerprint must be two shapes"),
    "true": (lambda values: values.update(train_images=True), "train_images must be a whole number, got True"),
}


@EITHER
def test_a_configuration_that_is_not_whole_is_named(run, part):
    file = run / part / "config.json"
    whole = file.read_text()
    for change, message in CONFIGS.values():
        values = json.loads(whole)
        change(values)
        file.write_text(json.dumps(values))
        said = refused_and_unchanged(run)
        assert f"{file} is not the configuration of a run: " in said
        assert message in said
    for text in ("", "[]", whole[:100], "[" * 100_000):
        file.write_text(text)
        assert str(file) in refused_and_unchanged(run)


def test_what_a_generator_from_a_file_says_of_itself_is_checked(straight, data, tmp_path, unseen):
    from safetensors.torch import save_file
    from shell import train

    network = {name: t.clone() for name, t in state(straight["hat-synthesis"]).items() if name.startswith("generator.")}
    save_file({name.removeprefix("generator."): tensor for name, tensor in network.items()}, tmp_path / "g.safetensors")
    run = tmp_path / "run"
    assert hatebm(*train("hat-refine", data, run, "--generator", tmp_path / "g.safetensors")).code == 0
    about = run / "generator" / "generator.json"
    whole = about.read_text()
    for text in ("", "3", "{}", '{"module": 3}', '{"file": "a", "output_scale": "b"}', '{"file": "a"}'):
        about.write_text(text)
        assert str(about.parent) in refused_and_unchanged(run)
    about.write_text(whole)
    weights = run / "generator" / "weights.safetensors"
    weights.write_bytes(flipped(weights.read_bytes(), 8 * weights.stat().st_size - 9))
    assert f"the checkpoint {weights} is damaged" in refused_and_unchanged(run)
    weights.unlink()
    assert str(weights) in refused_and_unchanged(run)


def test_other_refusals_change_nothing(run):
    for more in (
        ["--seed", 5],
        ["--data", "mnist"],
        ["--data", run / "nowhere"],
        ["--batch", 3],
        ["--set", "generator.batch=9"],
    ):
        refused_and_unchanged(run, *more)
