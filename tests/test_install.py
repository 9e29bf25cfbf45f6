"""What an installed hatebm is found by, and the versions that it is tried with."""

import re
import subprocess
import sys

from places import ROOT

LOOK = """
import importlib.util
import hatebm
print(hatebm.__file__)
print(getattr(hatebm, "mine", None) or hatebm.langevin.__name__)
print(importlib.util.find_spec("hatebm.kernels"))
"""


def seen_by_a_script_in(folder):
    folder.joinpath("script.py").write_text(LOOK)
    ran = subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_a_script_beside_the_clone_finds_the_package_and_not_the_clones_folder(tmp_path):
    tmp_path.joinpath("hatebm", "kernels").mkdir(parents=True)
    file, langevin, kernels = seen_by_a_script_in(tmp_path)
    assert not file.startswith(str(tmp_path))
    assert langevin == "langevin"
    assert "__init__.py" in kernels


def test_a_package_of_ones_own_comes_first_as_with_any_install(tmp_path):
    tmp_path.joinpath("hatebm").mkdir()
    tmp_path.joinpath("hatebm", "__init__.py").write_text("mine = 'my own'\n")
    file, mine, _ = seen_by_a_script_in(tmp_path)
    assert file == str(tmp_path / "hatebm" / "__init__.py")
    assert mine == "my own"


def test_the_oldest_torch_that_is_tried_is_the_oldest_that_the_metadata_take():
    (least,) = re.findall(r'"torch>=([\d.]+)"', ROOT.joinpath("pyproject.toml").read_text())
    (tried,) = re.findall(r"(?m)^torch==([\d.]+)$", ROOT.joinpath(".ci", "oldest.txt").read_text())
    assert tried.removesuffix(".0") == least
