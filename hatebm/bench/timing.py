"""Timing contenders fairly: interleaved in one process, medians with their 20 and 80 % marks; and their memory."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import torch

TURN = 0.01  # seconds that one contender runs before the next: nobody pays for caches that the one before it left
MOST_CALLS, ROUNDS, ROUNDS_OF_SLOW, SLOW = 1000, 5, 3, 5.0
STATUS, CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def interleave(contenders: dict[str, Callable[[], object]], seconds: float = 2.0) -> dict[str, tuple[float, ...]]:
    """Seconds per call as (20 %, median, 80 %) of each contender, in turns.

    Args:
        contenders: name -> call, each called before.
        seconds: of each contender; five rounds at least, three where a round takes over five seconds.
    """
    end = time.perf_counter() + seconds * len(contenders)
    first = {name: _seconds(call, 1) for name, call in contenders.items()}
    slow = sum(first.values()) > SLOW
    first = {name: took if took > TURN else _seconds(contenders[name], 3) for name, took in first.items()}
    calls = {name: max(1, min(MOST_CALLS, int(TURN / took))) for name, took in first.items()}
    fewest = ROUNDS_OF_SLOW if slow else ROUNDS
    times = {name: [took] if slow else [] for name, took in first.items()}
    while time.perf_counter() < end or len(next(iter(times.values()))) < fewest:
        for name, call in contenders.items():
            times[name].append(_seconds(call, calls[name]))
    marks = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64, device="cpu")
    return {name: tuple(torch.quantile(marks.new_tensor(values), marks).tolist()) for name, values in times.items()}


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """MiB by which one call raises the memory in use at its highest; None where the system does not tell.

    On a GPU by torch's allocator; on the CPU by the resident memory of the process (Linux), after the heap that is free
    went back to the system. Call it once before: what stays allocated from then on is not counted.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR_PEAK.write_text("5")
        before = _resident("VmRSS")
    except (OSError, AttributeError, TypeError):
        return None
    call()
    return max(0, _resident("VmHWM") - before) / 2**10


def memory_is(device: torch.device) -> str:
    """What `peak_memory` counts there, in words."""
    if device.type == "cuda":
        return "growth of torch.cuda.max_memory_allocated in one call"
    return "growth of the process's peak resident memory in one call"


def _resident(name: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name))


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count
