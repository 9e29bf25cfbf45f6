"""The terminal: Ctrl-C before torch is there, readers that leave, names that it cannot write, ~."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from PIL import Image
from tiny import one_thread  # noqa: F401

from hatebm.cli import main, parser
from hatebm.commands import words
from hatebm.runs.progress import progress

COMMAND = "import sys\nfrom hatebm.cli import main\nsys.exit(main())\n"
SLOW = """
import signal, sys, time
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
time.sleep(60)
"""


@pytest.fixture
def slow(tmp_path):
    """A folder with scripts that are the command or call it, and a torch that takes a minute to import."""
    (tmp_path / "torch.py").write_text(SLOW)
    for name in ("hatebm", "mine.py"):
        (tmp_path / name).write_text(COMMAND)
    return tmp_path


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent as POSIX systems do")
@pytest.mark.parametrize("words", [["hatebm"], ["-m", "hatebm"], ["-mhatebm"]], ids=" ".join)
def test_ctrl_c_while_torch_is_imported_ends_the_command_in_one_line(slow, words):
    with subprocess.Popen(
        [sys.executable, *words, "info"], cwd=slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout.readline() == "False\n"
        command.send_signal(signal.SIGINT)
        _, complained = command.communicate(timeout=30)
    assert (command.returncode, complained) == (130, "hatebm: interrupted\n")


def test_scripts_that_import_hatebm_keep_their_ctrl_c(slow):
    with subprocess.Popen([sys.executable, "mine.py", "info"], cwd=slow, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout.readline() == "True\n"
        script.kill()


def test_the_command_answers_ctrl_c_as_ever_once_it_runs(monkeypatch, capsys):
    from hatebm import terminal

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/hatebm", "info"])
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        terminal.answer_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert main(["info"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup sets it
        terminal.answer_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr("hatebm.cli.report", lambda: signal.raise_signal(signal.SIGINT))
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "hatebm: interrupted\n"


@pytest.mark.parametrize("arguments", [["info"], ["--help"], ["sample", "--help"], ["--version"]], ids=" ".join)
def test_a_reader_that_leaves_ends_the_command_without_a_word(monkeypatch, capfd, arguments):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(arguments) == 141
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_an_output_that_is_full_is_named_once(monkeypatch, capfd):
    with open("/dev/full", "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["info"]) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_a_reader_of_complaints_that_leaves_changes_no_exit_code(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    output = open(write, "w", buffering=1)  # noqa: SIM115 - closing it would try to write once more
    monkeypatch.setattr(sys, "stderr", output)
    assert main(["paint"]) == 2
    os.dup2(os.open(os.devnull, os.O_WRONLY), write)
    output.close()


class Output:
    """A terminal of some encoding that is strict, in place of standard output."""

    def __init__(self, monkeypatch, encoding):
        self.stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", write_through=True)
        monkeypatch.setattr(sys, "stdout", self.stream)

    def read(self) -> bytes:
        return self.stream.buffer.getvalue()


def test_names_that_the_terminal_cannot_write_are_written_otherwise(tmp_path, monkeypatch, capfd):
    data, run = tmp_path / "λ\udcff", tmp_path / "ρ"
    try:
        data.mkdir()
    except OSError:
        pytest.skip("this file system takes text alone")
    for i in range(3):
        Image.new("RGB", (8, 8), (40 * i, 0, 99)).save(data / f"é\udcfe{i}.png")
    (data / "bad\udcfd.png").touch()
    output = Output(monkeypatch, "ascii")
    assert main(["train", "--data", str(data), "--size", "8", "--steps", "1", "--out", str(run), *tiny.SETTINGS]) == 0
    assert rb"\u03c1/curves.png: " in output.read()
    assert main(["evaluate", str(run), "--ood", str(data)]) == 0
    assert rb"\u03bb\udcff" in output.read()
    assert main(["sample", str(data)]) == 2
    assert main(["train", "--data", "no\udcffδ"]) == 2
    assert output.stream.errors == "strict"
    for encoding in ("utf-8", "latin-1", "ascii"):
        output = Output(monkeypatch, encoding)
        assert main(["sample", str(run), "--n", "2", "--out", str(tmp_path / "σ\udcfc.png")]) == 0
        assert "σ\udcfc.png: 2 images after".encode(encoding, "backslashreplace") in output.read()
    monkeypatch.setattr("hatebm.commands.train.report", lambda *_: None)
    assert main(["train", "--out", str(run), "--resume", "--steps", "2"]) == 0
    assert "Traceback" not in capfd.readouterr().err


PATHS = {
    "train --data": "data",
    "train --data-root": "data_root",
    "train --out": "out",
    "train --generator": "generator",
    "sample run --out": "out",
    "evaluate run --weights": "weights",
    "evaluate run --data-root": "data_root",
    "evaluate run --ood": "ood",
    "bench --csv": "csv",
    "bench --plot": "plot",
    "sample": "run",
    "evaluate": "run",
}


@pytest.mark.parametrize("option", PATHS)
def test_a_tilde_is_home_and_no_path_is_refused(tmp_path, monkeypatch, capsys, option):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    glued = [[*option.split()[:-1], f"{option.split()[-1]}=~/a"]] if " --" in option and "ood" not in option else []
    for given in ([*option.split(), "~/a"], *glued):
        found = getattr(parser().parse_args(given), PATHS[option])
        assert [str(path) for path in (found if isinstance(found, list) else [found])] == [str(tmp_path / "a")]
    for given in ("", "~nobody-of-this-name/a"):
        assert main([*option.split(), given]) == 2
        complained = capsys.readouterr().err
        assert complained.count("\n") == 1
        assert ("got ''" if not given else "no home folder ~nobody-of-this-name/a is known; write ./~") in complained


def test_paths_that_are_not_at_home_stay_as_they_are_typed():
    assert words.source("./mnist") == "./mnist"  # no name of a data set
    assert words.source("a/~/b") == "a/~/b"


def test_version_is_that_of_the_installed_package(capsys):
    from importlib import metadata

    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hatebm {metadata.version('hatebm')}\n"


def test_what_is_said_above_the_bar_keeps_the_brackets_of_names(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich a terminal
    monkeypatch.setenv("COLUMNS", "200")
    with progress(10, 0, []) as (_, say):
        say("the checkpoint runs/[a]/x is damaged")
    assert "runs/[a]/x is" in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().out)
