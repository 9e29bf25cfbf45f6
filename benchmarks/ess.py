"""Effective samples per second on small targets: hatebm beside torchebm and blackjax, where they are installed.

python benchmarks/ess.py [--threads 1] [--chains 64 1024] [--quick] [--csv FILE]

Targets: a Gaussian in 50 dimensions with standard deviations log-spaced from 0.3 to 1, and the double well
E = 2 sum (x^2 - 1)^2 in 2 dimensions. Everyone gets the energy alone (gradients by autodiff), float32, the same
number of chains and of steps, and one step size for a sampler and target: Langevin's makes the largest bias of a
stationary variance 1 %, MALA's accepts 57 % and HMC's 75 % of the proposals. HMC takes 5 leapfrog steps of the size
times a factor of the trajectory's own, uniform in 0.8 to 1.2 (Neal 2011): one length for all would bring some
coordinate of the Gaussian back to where it started, or to its mirror image. torchebm has no MALA; its HMC with one
leapfrog step is the same law. blackjax's Langevin is SGLD with exact gradients; its loops are lax.scan over jax.vmap,
compiled before the clock starts ("set up").

Chains start at x = 1 and go on from run to run. The first run is burnt; the second must agree with the means of x,
x^2 and E under the law (Langevin's own, biased one) within 5 standard errors, taken from the spread between chains, or
nothing is timed. A timed run returns its states (of Langevin every 20th), kept as each library does it; their cost is
in its time.

The ESS is the smallest bulk ESS of a coordinate over all timed runs (every 4th state of MALA, the first 128 chains of
the Gaussian), for each step of a chain. It depends on the law alone: what differs between contenders is its own error.
(Of chains a dozen correlation times long, as Langevin's on the Gaussian are, it is a third low, for everyone alike.)
Steps count chains: n chains that step once took n steps; a step of HMC is a trajectory. On Linux the process keeps to
as many cores as threads, which bounds XLA's threads too.
"""

import argparse
import math
import os
import time
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ess_samplers import CONTENDERS, SAMPLERS, Sampler, law
from ess_targets import TARGETS, Target
from torch import Tensor

import hatebm
from hatebm.bench.report import print_table, write_csv
from hatebm.bench.timing import interleave
from hatebm.diagnostics import ess

ERRORS, ESS_NUMBERS = 5.0, 6400


@cache
def tuned(label: str, sampler: str) -> float:
    """The step size by the rule of the sampler: 12 halvings of a range of sizes, in ratio."""
    target, run = TARGETS[label], SAMPLERS[sampler]
    exact = target.moments(0.0)[0]

    def too_long(size: float) -> bool:
        if run.acceptance is None:
            return bool((target.moments(size)[0] / exact - 1).abs().max() > 0.01)
        chain = hatebm.Chain(target.energy(torch.tensor), torch.ones(256, len(exact)), seed=1, **law(sampler, size))
        chain.run(200)
        return bool(chain.run(100, return_info=True)[1]["accept"].mean() < run.acceptance)

    low, high = 1e-4, 1.0
    for _ in range(12):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if too_long(middle) else (middle, high)
    return math.sqrt(low * high)


def off(draws: Tensor, target: Target, step_size: float) -> float:
    """How many standard errors the worst moment is off: of x, x^2 and E; chains are independent."""
    draws = draws.double()
    energy = target.energy(torch.tensor)(draws)[..., None]
    moments = torch.cat([draws.mean(0), draws.square().mean(0), energy.mean(0)], 1)
    variance, mean_energy = target.moments(step_size)
    truth = torch.cat([torch.zeros_like(variance), variance, mean_energy[None]])
    return float(((moments.mean(0) - truth) / (moments.std(0) / math.sqrt(len(moments)))).abs().max())


def measure(names: list[str], label: str, sampler: str, n: int, threads: int, seconds: float) -> list[dict[str, Any]]:
    """One row for each contender."""
    target, run = TARGETS[label], SAMPLERS[sampler]
    size, d = tuned(label, sampler), len(target.moments(0.0)[0])
    chains, rows, draws = {}, {}, {}
    for name in names:
        since = time.perf_counter()
        chains[name] = CONTENDERS[name](target, sampler, size, torch.ones(n, d))
        row = {"target": label, "sampler": sampler, "contender": name, "chains": n, "threads": threads}
        row |= {"step size": f"{size:.4g}", "set up (s)": f"{time.perf_counter() - since:.2f}"}
        chains[name]()
        seen = chains[name]()
        errors, moved = (
            off(seen, target, 0.0 if run.acceptance else size),
            float((seen[1:] != seen[:-1]).any(2).double().mean()),
        )
        row |= {"agrees": f"{'yes' if errors <= ERRORS else 'NO'}: {errors:.1f} errors off"}
        rows[name] = row | {"acceptance": f"{moved:.2f}" if run.acceptance else ""}
        if errors <= ERRORS:
            draws[name] = []
    part = (slice(None, None, run.ess_every // run.every), slice(ESS_NUMBERS // d))
    calls = {name: lambda name=name: draws[name].append(chains[name]()[part].clone()) for name in draws}
    marks = interleave(calls, seconds) if calls else {}
    figures = {name: summary(torch.cat(draws[name]), run, n, marks[name]) for name in draws}
    missing = dict.fromkeys(("ESS per step", "steps/s", "20 %", "80 %", "ESS/s"), "")
    base = figures.get("hatebm", missing)["ESS/s"]
    for name, row in rows.items():
        row |= figures.get(name, missing)
        row["hatebm / it"] = f"{float(base) / float(row['ESS/s']):.3g}" if base and row["ESS/s"] else ""
    return list(rows.values())


def summary(draws: Tensor, run: Sampler, n: int, marks: tuple[float, ...]) -> dict[str, str]:
    """What the timed states say, and the clock."""
    per_step = float(ess(draws).min()) / (draws.shape[0] * draws.shape[1] * run.ess_every)
    fast, median, slow = (n * run.steps / seconds for seconds in marks)
    return {
        "ESS per step": f"{per_step:.3g}",
        **dict(zip(("steps/s", "20 %", "80 %"), (f"{rate:.3g}" for rate in (median, slow, fast)), strict=True)),
        "ESS/s": f"{per_step * median:.3g}",
    }


def installed() -> dict[str, str]:
    """Who can run here, with the version; says who cannot."""
    found = {}
    for name in CONTENDERS:
        try:
            import_module(name)
            found[name] = version(name)
        except ImportError as error:
            print(f"left out: {name} ({error})")
    return found


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--chains", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--seconds", type=float, default=0.0, help="for each contender and row; five runs at least")
    parser.add_argument("--quick", action="store_true", help="64 chains alone")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    versions = installed()
    if "blackjax" in versions:
        versions["jax"] = version("jax")
    print(f"{options.threads} threads, torch {torch.__version__}, {versions}", flush=True)
    names, rows = [name for name in CONTENDERS if name in versions], []
    for label in TARGETS:
        for n in [64] if options.quick else options.chains:
            for sampler in SAMPLERS:
                rows += measure(names, label, sampler, n, options.threads, options.seconds)
    print_table(rows)
    if options.csv:
        write_csv(
            options.csv,
            [row | {name: versions.get(name, "") for name in ("blackjax", "jax")} for row in rows],
            torch.device("cpu"),
        )


if __name__ == "__main__":
    main()
