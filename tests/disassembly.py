"""Machine code of GPU kernels, disassembled by what Triton brings along."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton compiles its kernels here and brings the disassembler")

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ARCHITECTURES = (80, 90, 100)
FMAS_A_QUAD = 2 * 17  # of Box-Muller
FMAS_OF_ADD = 4 * 2  # of add="fma"
FMAS_OF_LOG = 9
PRODUCTS_OF_RATIO = 4  # of an element, in float64
PRODUCTS_A_QUAD = 2 * 6 + 4 * 4  # of Box-Muller, and of a sequential step with a prior
SUMS_A_QUAD = 2 + 4 * 5  # the same, gz + x, and grad - grad, which is 0 where it is finite
MULTIPLIES_A_QUAD = 20  # 32 x 32 -> 64 bits, of one Philox call
MARKS = [
    pytest.mark.skipif(sys.platform != "linux", reason="the disassembler comes with Triton for Linux"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton"),
]


def instructions(sass):
    """How often each instruction stands in a disassembly."""
    return Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", sass))


def count(counts, pattern):
    return sum(times for opcode, times in counts.items() if re.fullmatch(pattern, opcode))


def assert_no_spill(counts):
    assert sum(counts.values()) > 10, "the disassembly was not understood"
    assert count(counts, r"(LDL|STL).*") == 0


def assert_vectorised(counts, quads, numbers=0):
    """16 bytes a load and store of float32 but for some numbers, and one Philox call a quad."""
    assert_no_spill(counts)
    assert count(counts, r"LDG\.E\.128.*") >= quads
    assert count(counts, r"STG\.E\.128.*") >= quads
    assert count(counts, r"LDG\.E(\.U16)?") == numbers
    multiplies = count(counts, r"IMAD\.(WIDE|HI)\.U32(\.X)?")
    assert 0.8 * MULTIPLIES_A_QUAD * quads <= multiplies <= 1.5 * MULTIPLIES_A_QUAD * quads


def tool(name, *arguments):
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout
