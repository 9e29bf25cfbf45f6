"""The terminal of the command: Ctrl-C while torch is imported, names it cannot spell, readers that leave."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path


def answer_ctrl_c() -> None:
    """Let Ctrl-C end this process in a line, if it is the command `hatebm`, until `leave_ctrl_c`.

    To import torch takes seconds, before anything can be caught; and what is raised in an import others may catch.
    """
    answered = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if _is_the_command() and not answered and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _end)


def leave_ctrl_c() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    with suppress(OSError):
        os.write(2, b"hatebm: interrupted\n")
    os._exit(130)


def _is_the_command() -> bool:
    """Whether the script that runs is called hatebm, or Python was started with -m hatebm and looks for it."""
    (script, *_) = getattr(sys, "argv", None) or [""]
    if script == "-m":
        return ("-m", "hatebm") in pairwise(sys.orig_argv) or "-mhatebm" in sys.orig_argv
    return Path(script).stem == "hatebm"


@contextmanager
def any_name_written() -> Iterator[None]:
    """Escape what the encoding of the output lacks, as names of files may hold anything, and put the streams back."""
    streams = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure") and s.errors == "strict"]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream in streams:
            with suppress(OSError, ValueError):  # it may be closed by now
                stream.reconfigure(errors="strict")


def write_out() -> None:
    """Write what was printed; where nobody takes it, let it go, or Python would try again when it ends, and raise."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise


def one_line(message: object) -> str:
    """A message as one line."""
    return " ".join(part.strip() for part in str(message).splitlines())


def spelled(name: str) -> str:
    """A name with what no encoding has, such as bytes of a file name that are no text, escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
