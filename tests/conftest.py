import fcntl
import gc
import shutil
from collections import Counter

import cuda_on_cpu
import pytest
import torch
from hypothesis import settings

from hatebm import _C

settings.register_profile("repeatable", derandomize=True)  # the same examples at every run: pytest --hypothesis-profile


# Long files of few tests: begun first, so that no worker of pytest -n is left with one (--no-loadscope-reorder).
LONGEST = "kernels cuda_code pytorch mlp_cuda_source drop_in bench symptoms run_starts triton_code whole_triton_code"
LONGEST += " evaluate_command cli per_chain_traced whole_cuda_source abuse run_damage"


def pytest_collection_modifyitems(items):
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST.split())}
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: (ranks.get(item.path.stem, len(ranks)), -sizes[item.path], item.path))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish():
    """Spares garbage collections, of which each measurement starts one, what stays: modules and thousands of tests."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Let what stayed be collected at the end, as modules that count their objects expect."""
    gc.unfreeze()


@pytest.fixture(params=_C.instruction_sets())
def instruction_set(request):
    """Runs a test once for each set of CPU kernels that this machine has."""
    _C.use_instruction_set(request.param)
    yield request.param
    _C.use_instruction_set(_C.instruction_sets()[0])


@pytest.fixture(scope="session")
def made_once(request, tmp_path_factory):
    """``made_once(name, make)``: a folder that ``make(folder)`` fills once for all workers of pytest -n."""
    alone = not hasattr(request.config, "workerinput")
    base = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent

    def made_once(name, make):
        folder, done = base / name, base / f"{name}.done"
        with open(base / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made_once


@pytest.fixture(scope="session")
def cuda(made_once):
    """``_C.cuda``, compiled for the CPU."""
    return cuda_on_cpu.loaded(made_once("cuda_on_cpu", cuda_on_cpu.compile_into))
