import pytest

from hatebm import native


@pytest.fixture(params=native._C.instruction_sets())
def instruction_set(request):
    """Runs a test once for each set of CPU kernels that this machine has."""
    native._C.use_instruction_set(request.param)
    yield request.param
    native._C.use_instruction_set(native._C.instruction_sets()[0])
