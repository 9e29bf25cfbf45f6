"""The command line: `hatebm train`, `hatebm sample`, `hatebm evaluate`, `hatebm bench`, `hatebm info`."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import torch

from hatebm import data
from hatebm.commands import words
from hatebm.commands.begin import DEFAULT
from hatebm.commands.bench import TABLES, bench
from hatebm.commands.evaluate import evaluate
from hatebm.commands.info import report, version_of
from hatebm.commands.sample import sample
from hatebm.commands.train import train
from hatebm.dynamics.health import ChainDiverged
from hatebm.errors import UsageError
from hatebm.runs.training import TrainingDiverged
from hatebm.systems.catalogue import SYSTEMS
from hatebm.terminal import any_name_written, leave_ctrl_c, one_line, write_out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0; 1 when a training diverged; 2 for bad input; 130 when interrupted; 141 when the reader of the output has left.
    """
    if "" not in sys.path:
        sys.path.append("")  # modules named by import path may lie in the current folder
    with any_name_written():
        try:
            leave_ctrl_c()
            try:
                options = parser().parse_args(arguments)
                return _run(options)
            finally:
                write_out()
        except UsageError as error:
            return _complain(error, 2)
        except BrokenPipeError:
            return 141  # as of those whom SIGPIPE ends
        except OSError as error:
            return _complain(error, 2)
        except (ChainDiverged, TrainingDiverged) as error:
            return _complain(error, 1)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in ("", "hatebm"):
                raise
            return _complain(f'{package} is not installed; pip install "hatebm[train]" brings it', 2)
        except (MemoryError, RuntimeError) as error:
            if not _is_lack_of_memory(error):
                raise
            return _complain(f"not enough memory: {error}", 2)
        except KeyboardInterrupt:
            return _complain("interrupted", 130)


def info(options: argparse.Namespace) -> int:
    """`hatebm info`: what this machine and this installation offer."""
    print(report())
    return 0


def _run(options: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        _show_skipped_files()
        try:
            return options.command(options)
        except SystemExit as left:
            raise UsageError(f"imported code called sys.exit({left.code!r})") from left


def _show_skipped_files() -> None:
    show = warnings.showwarning

    def show_in_one_line(message, category, *place, **more):
        if issubclass(category, data.SkippedFile):
            print(f"hatebm: warning: {one_line(message)}", file=sys.stderr)
        else:
            show(message, category, *place, **more)

    warnings.simplefilter("always", data.SkippedFile)
    warnings.showwarning = show_in_one_line


def _is_lack_of_memory(error: Exception) -> bool:
    cpu = ("DefaultCPUAllocator", "Storage size calculation overflowed")  # torch's words: a plain RuntimeError
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in cpu)


def _complain(message: object, code: int) -> int:
    with suppress(OSError):  # nobody reads it
        print(f"hatebm: {'error: ' if code != 130 else ''}{one_line(message)}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The arguments of every command; the chosen one's function stands in `command`."""
    root = _Parser(prog="hatebm", description="Train and sample energy-based models.")
    root.add_argument("--version", action="version", version=f"hatebm {version_of('hatebm')}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "train",
        help="train a system; with nothing else, a Hat EBM on scikit-learn's digits in about two minutes",
        description="Train a system, evaluate it and draw its pictures. With no arguments: a Hat EBM on the digits "
        "that scikit-learn ships, in about two minutes on two CPU cores. Ctrl-C saves and says how to go on.",
    )
    command.set_defaults(command=train)
    command.add_argument("system", nargs="?", choices=tuple(SYSTEMS), metavar="SYSTEM",
                         help=f"one of: {', '.join(SYSTEMS)} (default: {DEFAULT})")  # fmt: skip
    command.add_argument("--data", type=words.source, metavar="NAME",
                         help=f"{', '.join(data.NAMES)}, or a folder of images (default: digits)")  # fmt: skip
    command.add_argument(
        "--data-root",
        type=words.source,
        metavar="DIR",
        help="where data sets are found, or downloaded to (default: here)",
    )
    command.add_argument(
        "--conditional", action="store_true", help="for igebm: learn each class of the data's labels (subfolders)"
    )
    command.add_argument("--preset", metavar="NAME", help="a published configuration: "
                         + "; ".join(f"{', '.join(s.published)} ({name})" for name, s in SYSTEMS.items()))  # fmt: skip
    command.add_argument("--generator", type=words.source, metavar="SOURCE",
                         help="for hat-refine and hat-retrofit: a run, a file of weights or package.module:attribute "
                         "(default: one is trained first)")  # fmt: skip
    command.add_argument(
        "--out", type=words.path, metavar="DIR", help="folder of the run (default: a new one below runs/)"
    )
    command.add_argument("--resume", action="store_true", help="go on with the run in --out, bit for bit")
    command.add_argument("--steps", type=words.positive, metavar="N", help="training iterations")
    command.add_argument("--size", type=words.positive, metavar="PIXELS",
                         help="side of the square images (default: 8 for digits, 32 for a folder)")  # fmt: skip
    command.add_argument("--batch", type=words.positive, metavar="N", help="images and chains in one iteration")
    command.add_argument("--seed", type=words.seed, metavar="N", help="decides every random number (default: 0)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                         help="set any value of the configuration, with generator.KEY=VALUE one of the stage before; "
                         "may be given again")  # fmt: skip
    _add_machine(command)

    command = commands.add_parser(
        "sample",
        help="draw images from a trained run",
        description="Draw a grid of images from the newest checkpoint of a run.",
    )
    command.set_defaults(command=sample)
    command.add_argument("run", type=words.path, metavar="RUN", help="folder of a run")
    command.add_argument("--n", type=words.samples, metavar="N", help="number of images (default: 64, with --path 8; "
                         "with --label as many or fewer, for whole rows)")  # fmt: skip
    command.add_argument("--steps", type=words.natural, metavar="K",
                         help="Langevin steps, any number; 0 is where chains begin, such as G(z) alone "
                         "(default: those of the evaluation)")  # fmt: skip
    command.add_argument("--label", type=words.classes, metavar="A,B,...", help="draw these classes, by their "
                         "numbers, of a conditional run (default: all in turn)")  # fmt: skip
    command.add_argument("--method", choices=("langevin", "ddls"), help="langevin: the run's own chain; ddls: "
                         "discriminator-driven latent sampling on its SN-GAN (default: the run's own)")  # fmt: skip
    command.add_argument("--path", action="store_true", help="draw chains on their way, a row for each")
    command.add_argument("--seed", type=words.seed, default=0, metavar="N", help="which images (default: 0)")
    command.add_argument("--out", type=words.path, metavar="FILE", help="picture to write (default: in RUN)")
    _add_machine(command)

    command = commands.add_parser(
        "evaluate",
        help="judge a trained run: its samples, at how many steps, and its scores on outliers",
        description="Print the table and draw the pictures that end a training; with --fid or --ood, those instead.",
    )
    command.set_defaults(command=evaluate)
    command.add_argument("run", type=words.path, metavar="RUN", help="folder of a run")
    command.add_argument("--fid", action="store_true", help="Frechet distance and KID after growing numbers of steps")
    command.add_argument("--n", type=words.samples, metavar="N", help="samples for --fid (default: 50,000)")
    command.add_argument("--weights", type=words.source, metavar="FILE",
                         help="for --fid: Inception's weights (default: downloaded; for "
                         "labelled images up to 16 pixels a small classifier, fitted on the spot)")  # fmt: skip
    command.add_argument("--features", metavar="MODULE:NAME", help="for --fid: any feature module, by import path")
    command.add_argument("--ood", nargs="*", type=words.source, metavar="DATA",
                         help="AUROC, AUPRC and FPR80 of every score against permuted, random and constant images, "
                         "letters, mirrored and inverted data, and each data set or folder named")  # fmt: skip
    command.add_argument(
        "--data", type=words.source, metavar="DIR", help="where the run's images are now, if their folder has moved"
    )
    command.add_argument("--data-root", type=words.source, metavar="DIR",
                         help="where those of --ood are found (default: here); without --ood, where the files of the "
                         "run's own data set are now")  # fmt: skip
    _add_machine(command)

    command = commands.add_parser(
        "bench",
        help="measure steps, chains and training beside the loops that people write",
        description="Langevin steps, whole chains and training iterations a second, beside a naive loop, in-place "
        "eager PyTorch, torch.compile, torchebm and the official Hat EBM code; and habits, chains as people call them: "
        "functions, labels, info, callbacks, two blocks, short runs. Contenders that agree on the same work "
        "take turns; one that does not is named and not timed. Everything takes some minutes on two CPU cores.",
    )
    command.set_defaults(command=bench)
    command.add_argument("table", nargs="?", choices=(*TABLES, "all"), default="all", metavar="TABLE",
                         help=f"one of: {', '.join(TABLES)}, all (default: all)")  # fmt: skip
    command.add_argument("--only", metavar="NAME", help="only cases with this in their name")
    command.add_argument("--seconds", type=words.seconds, default=1.0, metavar="S",
                         help="for each contender and case, five turns at least (default: 1)")  # fmt: skip
    command.add_argument("--csv", type=words.path, metavar="FILE", help="write every row, with the machine beside it")
    command.add_argument("--plot", type=words.path, metavar="FILE",
                         help="draw bars, and curves of how the cost of chains grows, measured for it")  # fmt: skip
    command.add_argument("--markdown", action="store_true", help="print tables for a README instead")
    command.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    command.add_argument("--threads", type=words.threads, metavar="N", help="CPU threads (default: as torch chooses)")

    command = commands.add_parser("info", help="versions, CPU features, devices and backends")
    command.set_defaults(command=info)
    return root


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    command.add_argument(
        "--threads",
        type=words.threads,
        metavar="N",
        help="CPU threads (default: 1 for 8 pixels, else as torch chooses)",
    )
