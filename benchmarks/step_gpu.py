"""One Langevin step of a float32 state on a GPU: hatebm's kernels beside eager PyTorch, torch.compile and a plain copy.

python benchmarks/step_gpu.py [--numel 393216 ...] [--calls 20] [--csv FILE]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from step import NOISE_STD, STEP_SIZE, in_place
from timing import print_table, write_csv

import hatebm

DEVICE = "cuda"
Call = Callable[[], object]


def contenders(x: torch.Tensor, grad: torch.Tensor) -> dict[str, tuple[Call, int]]:
    """Each with the bytes that it must move for an element."""
    law = {"step_size": STEP_SIZE, "noise_std": NOISE_STD, "seed": 0, "step": 7, "clamp": (-3.0, 3.0)}
    half, gz, image, norms = grad.bfloat16(), torch.randn_like(x), torch.empty_like(x), x.new_empty(len(x))
    compiled = torch.compile(in_place)
    calls: dict[str, tuple[Call, int]] = {
        "copy": (lambda: image.copy_(gz), 8),
        "in-place eager": (lambda: in_place(x, grad), 12),
        "torch.compile": (lambda: compiled(x, grad), 12),
    }
    for name in ("cuda", "triton"):
        if hatebm.backends()[name] is not True:
            raise SystemExit(f"step_gpu: backend {name!r} cannot run here: {hatebm.backends()[name]}")
        fixed = law | {"backend": name}
        calls |= {
            name: (lambda fixed=fixed: hatebm.ops.langevin_step_(x, grad, **fixed), 12),
            f"{name}, no noise": (
                lambda fixed=fixed: hatebm.ops.langevin_step_(x, grad, **fixed | {"noise_std": 0.0}),
                12,
            ),
            f"{name}, bfloat16 gradient": (lambda fixed=fixed: hatebm.ops.langevin_step_(x, half, **fixed), 10),
            f"{name}, G(z) + y": (
                lambda fixed=fixed: hatebm.ops.langevin_step_(x, grad, gz=gz, image=image, **fixed),
                20,
            ),
            f"{name}, norm clip": (
                lambda fixed=fixed: hatebm.ops.langevin_step_(x, grad, clip=("norm", 1e3), displacement=norms, **fixed),
                12,
            ),
        }
    return calls


def seconds_per_call(call: Call, calls: int, rounds: int = 15) -> float:
    """Median over rounds of back-to-back calls between two events."""
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return sorted(times)[rounds // 2]


def measure(numel: int, calls: int) -> list[dict[str, object]]:
    """One row for each contender at a size."""
    shape = (numel // 3072, 3, 32, 32)
    x, grad = torch.randn(shape, device=DEVICE), torch.randn(shape, device=DEVICE)
    seconds = {name: (seconds_per_call(call, calls), size) for name, (call, size) in contenders(x, grad).items()}
    base = seconds["in-place eager"][0]
    return [
        {
            "numel": x.numel(),
            "step": name,
            "microseconds": f"{time * 1e6:.2f}",
            "GB/s": f"{size * x.numel() / time / 1e9:.0f}",
            "ratio": f"{base / time:.2f}",
        }
        for name, (time, size) in seconds.items()
    ]


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numel", type=int, nargs="+", default=[393216, 3145728, 201326592])
    parser.add_argument("--calls", type=int, default=20, help="back to back in one timing")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = [row for numel in options.numel for row in measure(numel, options.calls)]
    print_table(rows)
    if options.csv:
        write_csv(options.csv, rows)


if __name__ == "__main__":
    main()
