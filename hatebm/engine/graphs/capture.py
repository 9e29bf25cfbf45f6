"""CUDA graphs of a device: captured into memory that they share, and replayed one after another."""

import contextlib
import gc
import threading
from collections.abc import Callable

import torch

HELD_BACK = 32  # a step that allocates more than this share of the device's memory is no matter of launches
_recorders: dict[torch.device, "Recorder"] = {}
_failed: list[torch.cuda.CUDAGraph] = []  # torch's allocators go on pointing at a graph whose capture failed


class Recorder:
    """Captures steps and replays them, on one device.

    All graphs allocate from one pool that lives as long as the process: none leaves anything in it from one replay to
    the next, and no two run at once, so they may lie over one another, and a new capture finds its memory there. Their
    stream serves captures alone, so that the workspaces of cuBLAS, which torch keeps for each stream, lie in the pool
    too and outlive every graph that knows their address. Its high priority keeps it apart from the streams that
    ``torch.cuda.Stream()`` hands round.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.lock, self.done = device, threading.Lock(), torch.cuda.Event()
        self.stream = torch.cuda.Stream(device, priority=-1)
        self.pool = torch.cuda.graph_pool_handle()
        # a pool ends with its last graph
        self.anchor = self.captured(lambda: torch.zeros(1, dtype=torch.float32, device=device))

    def captured(self, step: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """The graph of a step, which does not run.

        Raises whatever the step raises, and RuntimeError where it did what no graph can hold.
        """
        graph = torch.cuda.CUDAGraph()
        collects = gc.isenabled()
        gc.disable()  # what a collection frees may not be freed during a capture
        try:
            with self.lock, torch.cuda.device(self.device):
                self.stream.wait_stream(torch.cuda.current_stream(self.device))
                with torch.cuda.stream(self.stream):
                    try:
                        graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                        step()
                    finally:
                        self._end(graph)
        finally:
            if collects:
                gc.enable()
        return graph

    def replay(self, graph: torch.cuda.CUDAGraph, times: int) -> None:
        """Replay a graph in the current stream, after whatever another stream replays."""
        with self.lock, torch.cuda.device(self.device):
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(self.done)
            try:
                for _ in range(times):
                    graph.replay()
            finally:
                self.done.record(stream)

    def _end(self, graph: torch.cuda.CUDAGraph) -> None:
        try:
            graph.capture_end()
        except RuntimeError:
            _failed.append(graph)
            _recorders.pop(self.device, None)
            self._mend()
            raise

    def _mend(self) -> None:
        """After a capture that failed: torch's allocator and its random numbers still wait for its end."""
        with contextlib.suppress(RuntimeError):  # where torch has done it itself
            torch._C._cuda_endAllocateToPool(self.device.index, self.pool)
        blank, number = torch.cuda.CUDAGraph(), torch.zeros(1, dtype=torch.float32, device=self.device)
        with torch.cuda.stream(torch.cuda.Stream(self.device)):
            blank.capture_begin(capture_error_mode="thread_local")
            number.zero_()
            blank.capture_end()


def recorder_of(device: torch.device) -> Recorder:
    """The recorder of a CUDA device."""
    if device not in _recorders:
        _recorders[device] = Recorder(device)
    return _recorders[device]


def allocated(device: torch.device) -> int:
    """Bytes that were ever allocated on a device."""
    return torch.cuda.memory_stats_as_nested_dict(device)["allocated_bytes"]["all"]["allocated"]


def room(device: torch.device) -> int:
    """Bytes that a step may allocate to be captured."""
    return torch.cuda.get_device_properties(device).total_memory // HELD_BACK
