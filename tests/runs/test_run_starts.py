"""Starts that are killed, folders that are held, disks that are full."""
# ruff: noqa: F811 (fixtures by import)

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
import torch
from run_folders import room_for, tree
from shell import hatebm, refusal, same, settings, state, train
from tiny import one_thread  # noqa: F401
from two_stages import data, rows_seen, straight, unseen  # noqa: F401

from hatebm.errors import CannotWrite, UsageError
from hatebm.runs import files
from hatebm.runs.folder import Run

TRAIN = ["train", "--steps", 2, *tiny.SETTINGS, "--out"]
LEFT = {
    "nothing": [],
    "half of its configuration": ["partial-7-config.json"],
    "a lock": ["lock"],
    "all but its configuration": ["partial-7-config.json", "lock", "generator/config.json"],
    "what version 0.1.0 left": ["config.json.partial"],
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["again", "resumed"])
def test_what_a_killed_start_left_is_no_dead_end(tmp_path, unseen, left, resume):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{")
    assert hatebm(*TRAIN, folder, *resume).code == 0
    assert [row["step"] for row in Run.open(folder).metrics()] == [1, 2]
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "config.json", "lock", "metrics.jsonl"]


def test_a_run_says_in_which_precision_its_chains_run(tmp_path, unseen):
    here = ["--out", tmp_path / "run", "--device", "cpu"]
    torch.set_float32_matmul_precision("medium")
    assert hatebm(*TRAIN[:-1], *here).code == 0
    assert Run.open(tmp_path / "run").precision == "as torch is set (products bf16)"
    torch.set_float32_matmul_precision("highest")
    assert hatebm("train", "--resume", "--steps", 3, *here).code == 0
    assert Run.open(tmp_path / "run").precision == "as torch is set (float32, IEEE)"


@pytest.mark.parametrize("name", ["notes.txt", "generator/weights", "partial", "metrics.jsonl"])
def test_a_folder_with_anything_else_is_not_begun_in(tmp_path, name):
    folder = tmp_path / "run"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    before = tree(folder)
    assert "exists already; add --resume" in refusal(*TRAIN, folder)
    assert tree(folder) == before


def test_trainings_that_are_killed_go_on_bit_for_bit_from_wherever_they_died(tmp_path):
    words = ["hat-refine", "--data", "digits", "--steps", "3", "--threads", "1"]
    own = ("energy_widths=(4,6)", "langevin_steps=2", "sample_steps=2", "batch=4")
    first = (
        "generator_widths=(6,4)",
        "discriminator_widths=(4,6)",
        "latent_dim=5",
        "discriminator_updates=1",
        "batch=4",
    )
    words += [*settings(own), *settings(first, "generator.")]
    script = Path(__file__).with_name("killed_runs.py")
    command = [sys.executable, script, tmp_path, "4,20", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr


def test_one_training_at_a_time_works_in_a_folder_whatever_way_leads_there(straight, tmp_path, monkeypatch, unseen):
    run = shutil.copytree(straight["hat-synthesis"], tmp_path / "run")
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    ways = (run, "run", "link", "link/../run")
    with Run.open(run).held():
        before = tree(run)
        for way in ways:
            said = refusal("train", "--resume", "--out", way, "--steps", 5)
            assert f"another training is at work in {way}" in said
        assert tree(run) == before
        assert hatebm("sample", "link", "--n", 1, "--out", tmp_path / "a.png").code == 0
        assert hatebm("evaluate", "run").code == 0
    assert hatebm("train", "--resume", "--out", "link", "--steps", 5).code == 0


def test_a_training_holds_its_folder_and_that_of_its_first_stage(data, tmp_path, monkeypatch, unseen):
    run, said = tmp_path / "run", []

    def try_both() -> None:
        said.extend(refusal("train", "--resume", "--out", folder, "--steps", 9) for folder in (run, run / "generator"))
        said.append(refusal(*train("hat-refine", data, run)))

    with rows_seen(monkeypatch, 3, try_both):
        assert hatebm(*train("hat-refine", data, run)).code == 0
    assert f"another training is at work in {run};" in said[0]
    assert f"another training is at work in {run / 'generator'};" in said[1]
    assert "exists already" in said[2]


def test_a_start_beside_a_start_is_refused_and_leaves_it_alone(tmp_path, unseen):
    folder = tmp_path / "run"
    folder.mkdir()
    with files.held(folder):
        before = tree(folder)
        assert "another training is at work" in refusal(*TRAIN, folder)
        assert tree(folder)["lock"] == before["lock"]
        assert sorted(tree(folder)) == [".", "lock"]


@pytest.mark.parametrize("size", [100, 3000])  # no room for config.json, then for a checkpoint
def test_a_disk_that_is_full_from_the_start_is_named(tmp_path, unseen, size):
    folder = tmp_path / "run"
    with room_for(size):
        said = refusal(*TRAIN, folder)
    file = folder / ("config.json" if size == 100 else "checkpoints/00000000.safetensors")
    assert f"cannot write {file} (File too large); make room" in said
    assert not list(tmp_path.rglob("partial*"))
    if size == 100:
        assert not folder.exists()
    else:
        assert f"go on with hatebm train hat-synthesis --out {folder} --resume" in said
        assert not list((folder / "checkpoints").iterdir())
        assert hatebm("train", "--resume", "--out", folder).code == 0
    again = [] if folder.exists() else TRAIN
    assert not again or hatebm(*again, folder).code == 0


def test_a_disk_that_fills_up_costs_no_row_and_no_checkpoint(straight, data, tmp_path, monkeypatch, unseen):
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"
    with pytest.MonkeyPatch.context() as patch, room_for(1 << 30):
        import resource

        def fill() -> None:
            limit = metrics.stat().st_size + 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

        with rows_seen(patch, 3, fill):
            said = refusal(*train("hat-synthesis", data, run))
    assert f"cannot write {metrics} (File too large); make room, then go on with" in said
    assert [path.stem for path in (run / "checkpoints").iterdir()] == ["00000000"]
    assert len(metrics.read_bytes().splitlines()) == 2
    assert metrics.read_bytes().endswith(b"\n")
    assert hatebm("train", "--resume", "--out", run).code == 0
    assert same(state(run), state(straight["hat-synthesis"]))


def test_results_and_pictures_that_find_no_room_stay_as_they_were(straight, tmp_path):
    run = shutil.copytree(straight["hat-synthesis"], tmp_path / "run")
    assert hatebm("evaluate", run).code == 0
    before = tree(run)
    for size, name in ((100, "results.json"), (3000, "samples.png")):
        with room_for(size):
            assert f"cannot write {run / name} (File too large); make room" in refusal("evaluate", run)
        assert tree(run)["samples.png"] == before["samples.png"]
        assert tree(run).keys() == before.keys()
    with room_for(100):
        assert f"cannot write {tmp_path / 'a.png'} (File too large)" in refusal(
            "sample", run, "--out", tmp_path / "a.png"
        )
    assert not (tmp_path / "a.png").exists()


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path, link = tmp_path / "a.txt", tmp_path / "link"
    files.write_text(path, "old")
    link.symlink_to(path)
    with suppress(KeyError), files.whole(path) as partial:
        partial.write_text("half")
        raise KeyError
    with pytest.raises(CannotWrite, match=r"cannot write .*a\.txt \(No such file or directory\)"), files.whole(path):
        pass
    assert path.read_text() == "old"
    files.write_text(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [path, link]
    with files.whole(Path(os.devnull)) as direct:
        assert direct == Path(os.devnull)
    with files.held(tmp_path), pytest.raises(UsageError, match="another training is at work"), files.held(tmp_path):
        pass
