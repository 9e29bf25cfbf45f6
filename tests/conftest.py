import pytest
import torch
from cuda_on_cpu import emulated
from hypothesis import settings

from hatebm import _C

settings.register_profile("repeatable", derandomize=True)  # the same examples at every run: pytest --hypothesis-profile


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=_C.instruction_sets())
def instruction_set(request):
    """Runs a test once for each set of CPU kernels that this machine has."""
    _C.use_instruction_set(request.param)
    yield request.param
    _C.use_instruction_set(_C.instruction_sets()[0])


@pytest.fixture(scope="session")
def cuda(tmp_path_factory):
    """``_C.cuda``, compiled for the CPU."""
    return emulated(tmp_path_factory.mktemp("cuda_on_cpu"))
