"""One Langevin step of a float32 state at several sizes and numbers of threads: what `hatebm bench step` measures.

python benchmarks/step.py [--threads 1 2] [--numel 393216 ...] [--csv FILE]
"""

import argparse
from pathlib import Path

import torch

from hatebm.bench import step
from hatebm.bench.contest import contest
from hatebm.bench.report import print_table, write_csv


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--numel", type=int, nargs="+", default=list(step.NUMELS.values()))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contender and size")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    device, rows = torch.device("cpu"), []
    for numel in options.numel:
        for threads in options.threads:
            torch.set_num_threads(threads)
            rows += contest(step.case(f"step-{numel}", numel, device), options.seconds, device)
    print_table(rows)
    if options.csv:
        write_csv(options.csv, rows, device)


if __name__ == "__main__":
    main()
