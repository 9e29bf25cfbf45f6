"""The fused step's variants on a GPU, for each backend, beside a plain copy: microseconds and bandwidth.

python benchmarks/step_gpu.py [--numel 393216 ...] [--seconds 0.3] [--csv FILE]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

import hatebm
from hatebm.bench.report import print_table, write_csv
from hatebm.bench.step import LAW, in_place
from hatebm.bench.timing import interleave

DEVICE = torch.device("cuda")
Call = Callable[[], object]


def contenders(x: torch.Tensor, grad: torch.Tensor) -> dict[str, tuple[Call, int]]:
    """Each with the bytes that it must move for an element."""
    law = {"step_size": LAW.step_size, "noise_std": LAW.noise_std, "seed": 0, "step": 7, "clamp": LAW.clamp}
    half, gz, image, norms = grad.bfloat16(), torch.randn_like(x), torch.empty_like(x), x.new_empty(len(x))
    compiled = torch.compile(in_place)
    calls: dict[str, tuple[Call, int]] = {
        "copy": (lambda: image.copy_(gz), 8),
        "in-place eager": (lambda: in_place(x, grad, LAW), 12),
        "torch.compile": (lambda: compiled(x, grad, LAW), 12),
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


def measure(numel: int, seconds: float) -> list[dict[str, object]]:
    """One row for each contender at a size."""
    shape = (numel // 3072, 3, 32, 32)
    x, grad = torch.randn(shape, device=DEVICE), torch.randn(shape, device=DEVICE)
    found = contenders(x, grad)
    marks = interleave({name: call for name, (call, _) in found.items()}, seconds)
    base = marks["in-place eager"][1]
    return [
        {
            "numel": x.numel(),
            "step": name,
            "microseconds": f"{median * 1e6:.2f}",
            "20 %": f"{low * 1e6:.2f}",
            "80 %": f"{high * 1e6:.2f}",
            "GB/s": f"{found[name][1] * x.numel() / median / 1e9:.0f}",
            "ratio": f"{base / median:.2f}",
        }
        for name, (low, median, high) in marks.items()
    ]


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numel", type=int, nargs="+", default=[393216, 3145728, 201326592])
    parser.add_argument("--seconds", type=float, default=0.3, help="for each contender and size")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = [row for numel in options.numel for row in measure(numel, options.seconds)]
    print_table(rows)
    if options.csv:
        write_csv(options.csv, rows, DEVICE)


if __name__ == "__main__":
    main()
