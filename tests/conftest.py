import pytest
from hypothesis import settings

from hatebm import native

settings.register_profile("repeatable", derandomize=True)  # the same examples at every run: pytest --hypothesis-profile


@pytest.fixture(params=native._C.instruction_sets())
def instruction_set(request):
    """Runs a test once for each set of CPU kernels that this machine has."""
    native._C.use_instruction_set(request.param)
    yield request.param
    native._C.use_instruction_set(native._C.instruction_sets()[0])
