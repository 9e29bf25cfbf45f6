"""The command line as a person meets it: what it writes, how it refuses, how it stops."""

import json
import signal
import subprocess
import sys
import time

import pytest
import tiny
import torch
from PIL import Image
from shell import hatebm, refusal
from tiny import one_thread  # noqa: F401

from hatebm.cli import main
from hatebm.runs import checkpoints
from hatebm.runs.folder import Run

PICTURES = ("samples.png", "path.gif", "path.png", "curves.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    said = hatebm("train", "--steps", 4, "--out", folder, *tiny.SETTINGS)
    assert said.code == 0, said.err
    return folder, said.out


def test_train_writes_everything_and_ends_with_the_table_and_the_pictures(trained):
    folder, said = trained
    for name in PICTURES:
        with Image.open(folder / name) as picture:
            picture.load()
        assert str(folder / name) in said
    with Image.open(folder / "path.gif") as film:
        assert film.n_frames == tiny.CONFIG.sample_steps + 1
    for row in ("G(z) alone", "3 Langevin steps", "6 Langevin steps", "500 held-out images"):
        assert row in said
    scores = json.loads((folder / "results.json").read_text())
    assert scores[0]["feature_frechet"] < 5 < scores[1]["feature_frechet"]
    assert scores[0]["classes_covered"] == 10
    written = json.loads((folder / "config.json").read_text())
    assert (written["data"], written["config"]["iterations"]) == ("digits", 4)


def test_sample_draws_a_grid_that_the_seed_determines(trained, tmp_path, capsys):
    folder, _ = trained
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = ["--out", str(tmp_path / f"{name}.png")]
        assert main(["sample", str(folder), "--n", "7", "--steps", "2", "--seed", seed, *out]) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert "7 images after 2 steps" in capsys.readouterr().out
    assert main(["sample", str(folder), "--steps", "0", "--n", "1"]) == 0


def test_ctrl_c_saves_says_how_to_go_on_and_the_resumed_run_equals_the_straight_one(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    arguments = [sys.executable, "-m", "hatebm", "train", "--steps", "100000", "--out", str(folder), *tiny.SETTINGS]
    training = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        training.send_signal(signal.SIGINT)
        said, complained = training.communicate(timeout=60)
    finally:
        training.kill()
    assert training.returncode == 130, complained
    assert complained == ""
    assert f"hatebm train hat-synthesis --out {folder} --resume" in said
    run = Run.open(folder)
    done = int(run.last_checkpoint().stem)
    assert done == len(run.metrics()) > 0

    monkeypatch.setattr("hatebm.commands.train.report", lambda *_: None)
    goal = str(done + 2)
    assert main(["train", "--out", str(folder), "--resume", "--steps", goal, "--threads", "1"]) == 0
    straight = tmp_path / "straight"
    assert main(["train", "--out", str(straight), "--steps", goal, *tiny.SETTINGS]) == 0
    ours, theirs = (checkpoints.load(Run.open(f).last_checkpoint())[0] for f in (folder, straight))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_small_folder_of_pictures_trains_and_names_what_it_skips(tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.new("RGBA", (20 + i, 30), (80 * i, 0, 200, 255)).save(pictures / f"{i}.png")
    (pictures / "broken.jpg").write_bytes(b"no picture")
    settings = ["--set", "langevin_steps=2", "--set", "bank_size=8", "--batch", "8", "--threads", "1"]
    arguments = ["train", "--data", str(pictures), "--size", "16", "--steps", "2", "--out", str(tmp_path / "run")]
    assert main([*arguments, *settings]) == 0
    said, complained = capsys.readouterr()
    assert complained.count("broken.jpg") == 1
    assert "the 3 training images" in said
    assert "classes" not in said
    assert Run.open(tmp_path / "run").config.channels == 3


REFUSED = [
    pytest.param(["train", "--data", "letters"], "or the path of a folder of images, got 'letters'", id="unknown-data"),
    pytest.param(["train", "--steps", "-3"], "argument --steps: wanted a whole number of at least 1", id="steps"),
    pytest.param(["train", "--steps", "many"], "got 'many'", id="steps-word"),
    pytest.param(["train", "--seed", "9" * 30], "argument --seed: wanted a whole number of 64 bits", id="seed"),
    pytest.param(["train", "stylegan"], "stylegan", id="unknown-system"),
    pytest.param(["train", "--set", "speed=3"], "unknown key 'speed'; known are size, channels", id="unknown-key"),
    pytest.param(["train", "--set", "batch"], "wanted key=value, got 'batch'", id="no-value"),
    pytest.param(["train", "--set", "batch=2.5"], "batch wants a whole number, got '2.5'", id="wrong-type"),
    pytest.param(["train", "--set", "eps=-1"], "eps must be positive, got -1.0", id="out-of-range"),
    pytest.param(["train", "--set", "channels=3"], "channels must be 1 like the data, got 3", id="channels"),
    pytest.param(["train", "--set", "energy_pools=5"], "pools must be 1 to 2", id="network"),
    pytest.param(["train", "--size", "13"], "--size: wanted a multiple of 8", id="size"),
    pytest.param(["train", "--set", "batch={[]:1}"], "batch wants a whole number, got '{[]:1}'", id="odd-value"),
    pytest.param(["train", "--fast"], "unrecognized arguments: --fast", id="unknown-flag"),
    pytest.param(["train", "--conditional"], "hat-synthesis learns no classes, wanted one of igebm", id="conditional"),
    pytest.param(["train", "--resume"], "is not the folder of a run", id="nothing-to-resume"),
    pytest.param(["train", "--threads", "9" * 14], "argument --threads: wanted a whole number from 1 to", id="threads"),
    pytest.param(["train", "--batch", "9" * 40], "wanted a whole number of at least 1 and at most 2^40", id="batch"),
    pytest.param(["train", "--steps", "9" * 5000], "got '" + "9" * 37 + "'...", id="steps-huge"),
    pytest.param(
        ["train", "--size", "100000"], "--size: 1797 images of 100000 x 100000 take 16735 GiB", id="size-huge"
    ),
    pytest.param(
        ["train", "--set", f"latent_dim={1 << 70}"], "latent_dim wants whole numbers of at most 2^40", id="2^70"
    ),
    pytest.param(
        ["train", "--set", f"energy_widths=(4,{1 << 70})"], "energy_widths wants whole numbers", id="2^70-deep"
    ),
    pytest.param(["train", "--set", f"bank_size={1 << 40}"], "not enough memory: ", id="memory"),
    pytest.param(["train", "--set", f"energy_widths=({1 << 39},{1 << 39})"], "not enough memory: ", id="overflow"),
    pytest.param(["train", "--seed", "9" * 5000], "wanted a whole number of 64 bits, got '" + "9" * 37, id="seed-huge"),
    pytest.param(
        ["sample", "run", "--n", str(1 << 40)],
        "argument --n: wanted a whole number of at least 1 and at most 2^24",
        id="n",
    ),
    pytest.param(["sample", "run", "--steps", str(1 << 50)], "not negative and at most 2^40, got", id="chain-steps"),
    pytest.param(["evaluate", "run", "--fid", "--n", str(1 << 40)], "argument --n: wanted a whole", id="fid-n"),
    pytest.param(["bench", "--seconds", "1e999"], "wanted a number above 0, got '1e999'", id="seconds"),
    pytest.param(["train", "--steps", "²"], "got '²'", id="superscript"),
    pytest.param(["paint"], "paint", id="unknown-command"),
    pytest.param([], "required: COMMAND", id="no-command"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_input_gets_one_line_and_leaves_no_folder(tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    assert main([*arguments, "--out", str(out)] if arguments[:1] == ["train"] else arguments) == 2
    said, complained = capsys.readouterr()
    assert said == ""
    assert message in complained
    assert complained.count("\n") == 1
    assert not out.exists()


def test_other_refusals(trained, tmp_path, capsys):
    folder, _ = trained
    (tmp_path / "file").touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        (["train", "--out", str(folder)], "exists already; add --resume"),
        (["train", "--out", str(tmp_path / "file" / "run")], "cannot make the folder"),
        (["train", "--out", str(tmp_path / "run"), "--data", str(empty)], "no readable image in the folder"),
        (["train", "--out", str(folder), "--resume", "--seed", "5"], "has seed = 0 and keeps it, got 5"),
        (
            ["train", "--out", str(folder), "--resume", "--conditional"],
            "hat-synthesis learns no classes, wanted one of",
        ),
        (["sample", str(folder), "--label", "3"], f"--label: {folder} draws of no classes"),
        (["train", "--resume"], "say with --out which run"),
        (["sample", str(empty)], "is not the folder of a run"),
        (["sample", str(folder), "--n", "0"], "argument --n: wanted a whole number of at least 1"),
        (["sample", str(folder), "--steps", "-1"], "argument --steps: wanted a whole number, not negative"),
        (["sample", str(folder), "--out", str(tmp_path / "file" / "a.png")], "cannot write the picture"),
        (["sample", str(folder), "--out", str(tmp_path / "a.xyz")], "cannot write the picture"),
    ):
        assert main(arguments) == 2
        complained = capsys.readouterr().err
        assert message in complained
        assert complained.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_broken_checkpoint_gets_one_line(trained, tmp_path):
    folder, _ = trained
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "checkpoints" / "00000004.safetensors").write_bytes(b"broken")
    assert refusal("sample", tmp_path).startswith("hatebm: error: the checkpoint")


def test_a_training_that_diverges_ends_with_one_line(tmp_path):
    done = hatebm("train", "--out", tmp_path / "run", "--steps", 50, "--set", "energy_lr=1e30", *tiny.SETTINGS)
    assert done.code == 1
    assert "training diverged in iteration" in done.err
    assert done.err.count("\n") == 1


def test_a_missing_package_of_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["train", "--out", str(tmp_path / "run")]) == 2
    assert 'rich is not installed; pip install "hatebm[train]" brings it' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_a_command_does_not_use_need_not_be_there(tmp_path, monkeypatch, capsys):
    for name in ("pooch", "torchmetrics"):
        monkeypatch.setitem(sys.modules, name, None)
    small, pictures = ["--size", "8", "--steps", "1", *tiny.SETTINGS], tmp_path / "pictures"
    pictures.mkdir()
    Image.new("L", (8, 8)).save(pictures / "0.png")
    with monkeypatch.context() as patch:
        patch.setattr("hatebm.commands.train.report", lambda *_: None)
        assert main(["train", "--out", str(tmp_path / "digits"), *small]) == 0
        patch.setitem(sys.modules, "sklearn.datasets", None)
        assert main(["train", "--data", str(pictures), "--out", str(tmp_path / "run"), *small]) == 0
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    for missing, words in (
        ("pooch", ["train", "--data", "mnist", "--data-root", str(tmp_path), "--out", str(tmp_path / "no")]),
        ("sklearn", ["train", "--data", "digits", "--out", str(tmp_path / "no")]),
        ("torchmetrics", ["evaluate", str(tmp_path / "run"), "--fid"]),
    ):
        assert main(words) == 2
        said = f'hatebm: error: {missing} is not installed; pip install "hatebm[train]" brings it\n'
        assert capsys.readouterr().err == said
    assert not (tmp_path / "no").exists()


def test_more_images_than_memory_holds_are_refused(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hatebm.commands.words.SAMPLES", 1 << 60)
    assert main(["sample", str(trained[0]), "--n", str(1 << 40), "--out", str(tmp_path / "a.png")]) == 2
    assert "--n: 1099511627776 images of 48 x 48 take" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in ("train", "sample", "evaluate"))])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "usage: hatebm" in capsys.readouterr().out
