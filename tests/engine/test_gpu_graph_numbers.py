"""CUDA graphs on a GPU read the law's numbers from a table: of every step, of every chain, and of other laws."""

import pytest
import torch
from graph_runs import D, N, Net, assert_same_run, chains

import hatebm
from hatebm.engine.graphs import runs

pytestmark = pytest.mark.gpu


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().cuda()


@pytest.fixture
def x():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1)).cuda()


OTHER = {
    "list": {"eps": [0.3] * 30 + [0.1] * 50},
    "function": {"eps": lambda t: 0.1 + 0.001 * t, "temperature": 0.5},
    "each chain's": {"eps": hatebm.per_chain(torch.linspace(0.0, 0.4, N))},
    "each step's and chain's": {"temperature": hatebm.per_chain(torch.rand(80, N) + 0.5)},
    "a bound of each": {"clip": ("norm", hatebm.per_chain(torch.linspace(0.1, 2.0, N)))},
}


@pytest.mark.parametrize("law", OTHER.values(), ids=OTHER)
def test_replays_read_the_numbers_of_every_step_and_chain(law, net, x):
    pair = chains(net, x, **law)
    assert assert_same_run(pair) == "CUDA graph: 37 steps replayed"
    assert assert_same_run(pair) == "CUDA graph: 40 steps replayed"


def test_other_numbers_capture_nothing_anew(net, x):
    for k, eps in enumerate((0.1, 0.2, 0.3)):
        assert assert_same_run(chains(net, x, eps=eps)) == f"CUDA graph: {40 if k else 37} steps replayed"
    assert len(runs._kept[net]) == 1
    for k in range(3):
        temperature = hatebm.per_chain(torch.rand(N, device="cuda") + 0.5)
        told = assert_same_run(chains(net, x, temperature=temperature))
        assert told == f"CUDA graph: {40 if k else 37} steps replayed"
    assert len(runs._kept[net]) == 2


def test_a_schedule_longer_than_its_table_is_read_in_parts(net, x):
    pair = chains(net, x, eps=lambda t: 0.1 + 0.0001 * t)
    assert assert_same_run(pair, 600) == "CUDA graph: 597 steps replayed"
