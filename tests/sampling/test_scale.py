"""Chains of any length cost the memory of one step."""

import gc
from contextlib import suppress

import pytest
import torch

from hatebm import Chain


@pytest.fixture(autouse=True)
def only_what_is_new():
    """What lives before a test is passed over by the collector: the modules of a whole suite take it a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def living_bytes() -> int:
    """Bytes of all new tensors that Python holds, each storage once; wrappers, as those of torch.func, have none."""
    gc.collect()
    storages = {}
    for x in gc.get_objects():
        if type(x) is torch.Tensor:
            with suppress(RuntimeError):
                storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
    return sum(storages.values())


KINDS = {
    "plain": {},
    "the loop's own autograd": {"compile": "off"},
    "corrected": {"correct": "mala"},
    "leapfrog": {"leapfrog_steps": 3},
    "underdamped": {"friction": 1.0},
    "masked": {"mask": torch.arange(64) < 32},
    "reflected": {"reflect": (-2.0, 2.0)},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_memory_does_not_grow_with_steps(kind):
    seen, calls = [], 0
    torch.manual_seed(0)
    weight = torch.randn(64, 64) / 8

    def energy(x):
        nonlocal calls
        calls += 1
        if calls % 256 == 0:  # energies are looked at 256 at a time
            seen.append(living_bytes())
        return (x @ weight).square().sum(1) + x.square().sum(1) / 2

    chain = Chain(energy, torch.zeros(16, 64), eps=0.1, seed=0, **kind)
    chain.run(2048 // kind.get("leapfrog_steps", 1) + 16)
    assert len(seen) >= 8
    assert max(seen[2:]) <= max(seen[:2])


def test_a_chain_with_info_keeps_what_was_asked_for_and_no_more():
    chain = Chain(lambda x: x.square().sum(1), torch.zeros(16, 64), eps=0.1, seed=0)
    chain.run(1)  # what a chain keeps from run to run
    before = living_bytes()
    _, info = chain.run(999, return_info=True, every=100)
    kept = sum(x.untyped_storage().nbytes() for x in info.values())
    assert {len(x) for x in info.values()} == {9}
    assert living_bytes() <= before + kept + 16 * 64 * 4
