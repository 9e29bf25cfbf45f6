"""Tempering with all replicas in one chain beside a chain for each replica, at 8 temperatures.

python benchmarks/tempering.py [--threads 1] [--chains 64 1024] [--seconds 3] [--csv FILE]

Each call is 100 steps of `hatebm.tempering` from start to end, with an exchange every 10th, at temperatures 1, sqrt 2,
2, ... The double well E = sum (x^2 - 1)^2 in 2 dimensions is given as a formula, whose chains run in one kernel, and as
a function; the perceptron (16-64-64-1, SiLU) runs in one kernel too; the convolutions (1-16-32 channels, SiLU, on 16 x
16 pixels) by autograd. "Chosen" says which form hatebm takes by itself. Both must end in the same states, to 1e-3 where
a network rounds, or are not timed; they take turns on the clock.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hatebm
from hatebm.bench.report import machine, print_table, write_csv
from hatebm.bench.timing import interleave
from hatebm.sampling import placement

TEMPERATURES = [2 ** (i / 2) for i in range(8)]
STEPS = 100
FORMS = {"one chain": lambda *_: True, "a chain each": lambda *_: False}
ALLOWS = placement.allows_one_chain


def double_well(x: Tensor) -> Tensor:
    """E = sum (x^2 - 1)^2."""
    return (x.square() - 1).square().sum(1)


def perceptron() -> nn.Module:
    """Of the usual size in two layers."""
    return nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1), nn.Flatten(0))


def convolutions() -> nn.Module:
    """Two of them, each of which halves the picture."""
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 1), nn.Flatten(0))


ENERGIES: dict[str, tuple[Callable[[], Callable[[Tensor], Tensor]], tuple[int, ...]]] = {
    "double well, a formula": (hatebm.energies.DoubleWell, (2,)),
    "double well, a function": (lambda: double_well, (2,)),
    "perceptron": (perceptron, (16,)),
    "convolutions": (convolutions, (1, 16, 16)),
}


@contextmanager
def placed(allows: Callable[..., bool]) -> Iterator[None]:
    """Replicas in one chain where ``allows`` says so."""
    placement.allows_one_chain = allows
    try:
        yield
    finally:
        placement.allows_one_chain = ALLOWS


def tempered(allows: Callable[..., bool], energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """One call."""
    with placed(allows):
        return hatebm.tempering(energy, x, STEPS, temperatures=TEMPERATURES, eps=0.1, seed=0)


def chosen(energy: Callable[[Tensor], Tensor], x: Tensor) -> str:
    """The form that hatebm takes by itself."""
    answers = []
    tempered(lambda *asked: answers.append(ALLOWS(*asked)) or answers[-1], energy, x)
    return "one chain" if answers == [True] else "a chain each"


def measure(label: str, n: int, threads: int, seconds: float) -> list[dict[str, Any]]:
    """One row for each form."""
    torch.manual_seed(0)
    made, shape = ENERGIES[label]
    energy, x = made(), torch.randn(n, *shape)
    calls = {form: partial(tempered, allows, energy, x) for form, allows in FORMS.items()}
    ours = chosen(energy, x)
    one, each = (call() for call in calls.values())
    agrees = torch.allclose(one, each, rtol=0, atol=1e-3)
    verdict = (
        "yes, bits"
        if torch.equal(one, each)
        else f"{'yes' if agrees else 'NO'}, to {float((one - each).abs().max()):.0e}"
    )
    marks = interleave(calls, seconds) if agrees else {}
    rows = []
    for form in FORMS:
        row = {
            "energy": label,
            "chains": n,
            "threads": threads,
            "form": form,
            "chosen": "yes" if form == ours else "",
            "agrees": verdict,
        }
        fast, median, slow = (STEPS / took for took in marks[form]) if marks else ("", "", "")
        row |= {"steps/s": median, "20 %": slow, "80 %": fast}
        row["one chain / it"] = marks[form][1] / marks["one chain"][1] if marks else ""
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--chains", type=int, nargs="+", default=[16, 64, 1024])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each form and row")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, {machine(torch.device('cpu'))}", flush=True)
    rows = [
        row for label in ENERGIES for n in options.chains for row in measure(label, n, options.threads, options.seconds)
    ]
    print_table(rows)
    if options.csv:
        write_csv(options.csv, rows, torch.device("cpu"))


if __name__ == "__main__":
    main()
