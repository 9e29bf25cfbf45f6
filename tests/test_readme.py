"""The README keeps its word: its Python runs, and its commands are the ones that exist."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    """The code blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_python_runs_from_top_to_bottom():
    scope = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("hatebm ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_parse(command):
    from hatebm.cli import parser

    parser().parse_args(shlex.split(command, comments=True)[1:])


def test_both_set_up_commands_pin_their_versions():
    setups = [line for block in blocks("bash") for line in block.splitlines() if "pip install" in line]
    assert [line.split(" && ")[-1] for line in setups] == ["hatebm train", "pytest"]
    assert all("-c constraints.txt" in line for line in setups)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:hatebm|csrc|kernels|benchmarks|tests)/[\w./]+)`", TEXT))))
def test_every_file_that_is_named_is_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", re.findall(r"!\[.*?\]\((.*?)\)", TEXT))
def test_every_picture_is_there(path):
    assert (ROOT / path).stat().st_size > 1000
