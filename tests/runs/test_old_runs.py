"""Run folders of version 0.1.0, which knew no format, no checksum and no fingerprint, go on."""
# ruff: noqa: F811 (fixtures by import)

import json
import shutil
from pathlib import Path

import pytest
from run_folders import flipped, tree
from shell import hatebm, refusal, same, state
from tiny import one_thread  # noqa: F401
from two_stages import unseen  # noqa: F401

from hatebm.runs import checkpoints, config_json
from hatebm.runs.folder import Run
from hatebm.systems.hat import SynthesisConfig

KEPT = Path(__file__).parent / "runs_of_0.1.0"
EACH = pytest.mark.parametrize("name", ["hat-synthesis", "hat-refine", "hat-refine/generator"])


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(KEPT, tmp_path / "runs")


@EACH
def test_it_resumes_and_is_of_this_version_from_then_on(old, unseen, name):
    run, checkpoint = old / name, "checkpoints/00000003.safetensors"
    values = json.loads((run / "config.json").read_text())
    assert "format" not in values
    assert Run.open(run).fingerprint is Run.open(run).precision is None
    before = checkpoints.load(run / checkpoint)
    assert "checksum" not in (run / checkpoint).read_bytes().decode("latin1")
    first_rows = (run / "metrics.jsonl").read_text()
    assert hatebm("train", "--resume", "--out", run, "--steps", 5, "--threads", 1).code == 0
    now = json.loads((run / "config.json").read_text())
    assert now["format"] == config_json.FORMAT
    assert now["config"] == values["config"] | {"iterations": 5}
    assert now["precision"].startswith("as torch is set (")
    assert Run.open(run).fingerprint.train == (1297, 1, 8, 8)
    assert (run / "metrics.jsonl").read_text().startswith(first_rows)
    assert [row["step"] for row in Run.open(run).metrics()] == [1, 2, 3, 4, 5]
    assert same(checkpoints.load(run / checkpoint)[0], before[0])
    assert "checksum" in (run / checkpoint).read_bytes().decode("latin1")
    assert not same(state(run), before[0])


@EACH
def test_it_is_sampled_and_stays_as_it_was(old, name, tmp_path):
    before = tree(old)
    assert hatebm("sample", old / name, "--n", 2, "--out", tmp_path / "a.png").code == 0
    assert tree(old) == before


@EACH
def test_a_refused_resume_changes_nothing(old, name):
    newest = old / name / "checkpoints" / "00000003.safetensors"
    whole, before = newest.read_bytes(), tree(old)
    for more in (["--seed", 5], ["--steps", 2]):
        refusal("train", "--resume", "--out", old / name, *more)
        assert tree(old) == before
    newest.write_bytes(flipped(whole, 8 * 9 + 1))
    before = tree(old)
    assert str(newest) in refusal("train", "--resume", "--out", old / name, "--steps", 5)
    assert tree(old) == before


def test_keys_younger_than_the_format_are_filled_with_what_was_done_before(monkeypatch):
    young = {"wide_chains": (1, 3), "batch": (2, 64)}
    monkeypatch.setattr(config_json, "SINCE", {f"config.{key}": value for key, value in young.items()})
    values = json.loads((KEPT / "hat-synthesis" / "config.json").read_text())["config"]
    whole = config_json.config_from_json(SynthesisConfig, values, 0)
    assert (whole.wide_chains, whole.batch) == (values["wide_chains"], values["batch"])
    del values["wide_chains"], values["batch"], values["bank_size"]
    with pytest.raises(ValueError, match=r"it has no 'config\.bank_size'"):
        config_json.config_from_json(SynthesisConfig, values, 0)
    values["bank_size"] = 99
    filled = config_json.config_from_json(SynthesisConfig, values, 0)
    assert (filled.wide_chains, filled.batch) == (3, 64)
    with pytest.raises(ValueError, match=r"it has no 'config\.wide_chains'"):
        config_json.config_from_json(SynthesisConfig, values, 1)
    with pytest.raises(ValueError, match=r"it has no 'config\.batch'"):
        config_json.config_from_json(SynthesisConfig, values | {"wide_chains": 1}, 2)
