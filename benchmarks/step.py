"""One Langevin step of a float32 state: hatebm beside eager PyTorch, torch.compile and torchebm.

python benchmarks/step.py [--threads 1 2] [--numel 393216 ...] [--csv FILE]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from timing import interleave, print_table, write_csv

import hatebm

STEP_SIZE, NOISE_STD, LOW, HIGH = 0.125, 0.5, -3.0, 3.0  # step_size = noise_std^2 / 2: the law that torchebm runs
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def fused(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The fused step."""
    box = (LOW, HIGH)
    return hatebm.ops.langevin_step_(x, grad, step_size=STEP_SIZE, noise_std=NOISE_STD, seed=0, step=7, clamp=box)


def floor(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The same pass over memory without noise: what any step costs at least."""
    return hatebm.ops.langevin_step_(x, grad, step_size=STEP_SIZE, noise_std=0.0, clamp=(LOW, HIGH))


def naive(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The idiom people write."""
    return (x - STEP_SIZE * grad + NOISE_STD * torch.randn_like(x)).clamp(LOW, HIGH)


def in_place(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Eager PyTorch at its best."""
    return x.add_(grad, alpha=-STEP_SIZE).add_(torch.randn_like(x), alpha=NOISE_STD).clamp_(LOW, HIGH)


def torchebm_step() -> Step | None:
    """The step of torchebm's sampler, where it is installed."""
    try:
        from torchebm.integrators import EulerMaruyamaIntegrator
    except ImportError:
        return None
    integrator = EulerMaruyamaIntegrator()
    scale = {"step_size": torch.tensor(STEP_SIZE), "noise_scale": torch.tensor(1.0)}

    def step(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        return integrator.step({"x": x}, drift=lambda _, t: -grad, **scale)["x"].clamp_(LOW, HIGH)

    return step


def contenders() -> dict[str, Step]:
    """Everyone who can run here."""
    steps = {
        "in-place eager": in_place,
        "hatebm": fused,
        "hatebm, no noise": floor,
        "naive eager": naive,
        "torch.compile": torch.compile(in_place),
        "torchebm": torchebm_step(),
    }
    return {name: step for name, step in steps.items() if step is not None}


def check(name: str, step: Step) -> None:
    """Raise unless a step moves by the drift and by noise of the law's size, inside the box."""
    x, grad = torch.full((64, 4096), 0.25), torch.full((64, 4096), 2.0)
    moved = step(x.clone(), grad)
    std = 0.0 if name == "hatebm, no noise" else NOISE_STD
    mean, spread = float(moved.mean()), float(moved.std())
    ok = abs(mean - (0.25 - 2 * STEP_SIZE)) < 0.01 and abs(spread - std) < 0.01 and moved.abs().max() <= HIGH
    if not ok:
        raise AssertionError(f"{name}: mean {mean:.4f} and standard deviation {spread:.4f} are not the law's")


def measure(numel: int, threads: int, seconds: float) -> list[dict[str, object]]:
    """One row for each contender at a size."""
    torch.set_num_threads(threads)
    shape = (128, 3, 32, 32) if numel == 393216 else (numel // 4096, 4096)
    steps = contenders()
    for name, step in steps.items():
        check(name, step)
    x, grad = torch.randn(shape), torch.randn(shape)
    marks = interleave({name: lambda s=step: s(x, grad) for name, step in steps.items()}, seconds)
    base = marks["in-place eager"][1]
    rows = []
    for name, (low, median, high) in marks.items():
        per_element = [f"{t / numel * 1e9:.3f}" for t in (median, low, high)]
        figures = dict(zip(("ns per element", "20 %", "80 %"), per_element, strict=True))
        rows.append({"numel": numel, "threads": threads, "step": name, **figures, "ratio": f"{base / median:.2f}"})
    return rows


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--numel", type=int, nargs="+", default=[393216, 3145728, 67108864])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contender and size")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = [
        row
        for numel in options.numel
        for threads in options.threads
        for row in measure(numel, threads, options.seconds)
    ]
    print_table(rows)
    if options.csv:
        write_csv(options.csv, rows)


if __name__ == "__main__":
    main()
