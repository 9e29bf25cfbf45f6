"""Runs the interpreted_*.py where Triton interprets: the variable must be set before anything imports Triton."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need Triton")
TESTS = Path(__file__).parent


@pytest.mark.parametrize("name", sorted(path.name for path in TESTS.glob("interpreted_*.py")))
def test_triton_kernels_have_the_bits_of_the_others(name):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(TESTS / name)]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
