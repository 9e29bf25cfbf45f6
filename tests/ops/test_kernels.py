"""Runs the interpreted_*.py where Triton interprets: the variable must be set before anything imports Triton."""

import os
import subprocess
import sys

import pytest
from places import TESTS, matching

pytest.importorskip("triton", reason="the kernels need Triton")


@pytest.mark.parametrize("path", matching(TESTS, "interpreted_*.py"), ids=lambda path: path.name)
def test_triton_kernels_have_the_bits_of_the_others(path):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
