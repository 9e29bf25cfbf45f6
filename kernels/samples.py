"""How Triton programs share out samples: streams of quads, whole samples, or pieces of long ones."""

import triton
import triton.language as tl

from hatebm.kernels.quads import program
from hatebm.kernels.tree import RUN, RUN_LEVELS, quads_by_run

ON_CHIP = 8192  # elements that a program holds: a longer sample is measured in one pass and moved in a second


@triton.jit
def quads_of_program(
    n, d, pieces, PASS: tl.constexpr, RUNS: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr
):  # fmt: skip
    """Which sample and quad of it a lane takes, where that is among all quads, and whether it exists."""
    quads = (d + 3) // 4
    if PASS == "stream":
        flat = program(WIDE) * QUADS + tl.arange(0, QUADS)
        sample, quad = flat // quads, flat % quads
    else:
        quad = program(WIDE) % pieces * QUADS + quads_by_run(RUNS, QUADS)
        sample = program(WIDE) // pieces + quad * 0
        flat = sample * quads + quad
    return sample, quad, flat, (sample < n) & (quad < quads)


def sharing(kind: str, elements: int, pieces: int = 1) -> dict[str, str | int]:
    """How a program of so many elements shares out its work."""
    quads = max(triton.next_power_of_2(triton.cdiv(elements, 4)), 1)
    runs = triton.cdiv(4 * quads, RUN)
    levels = {"LEVELS": min((4 * quads).bit_length() - 1, RUN_LEVELS), "RUNS_LEVELS": runs.bit_length() - 1}
    warps = 4 if kind == "stream" else runs
    return {"PASS": kind, "QUADS": quads, "RUNS": runs, "pieces": pieces, **levels, "num_warps": warps}
