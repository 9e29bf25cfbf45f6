"""Steps that are made ready for a run have the bits of those that go one by one."""

import pytest
import torch

import hatebm
from hatebm.dynamics.blocks import Blocks

N, STEPS = 5, 6
EACH = hatebm.per_chain(torch.arange(1.0, N + 1, dtype=torch.float32, device="cpu") / 9)
LAWS = {
    "before": {"step_size": 0.3, "noise_std": 0.2, "noise_at": "before", "clip": ("value", 0.1), "clamp": (0.2, 0.8)},
    "walls": {"step_size": 0.3, "noise_std": 0.5, "noise_at": "before", "clamp": (0.2, 0.8), "clamp_at": "noise+step"},
    "final": {"step_size": 0.3, "noise_std": 0.5, "noise_at": "before", "clamp": (0.2, 0.8), "clamp_at": "final"},
    "schedule": {"step_size": 0.3, "noise_std": [0.5, 0.0, 0.4, 0.0, 0.0, 0.1], "noise_at": "before"},
    "chains": {"step_size": EACH, "noise_std": 0.1, "noise_at": "before"},
    "noise of chains": {
        "step_size": 0.3,
        "noise_std": EACH,
        "noise_at": "before",
    },
    "prior": {"step_size": 0.3, "noise_std": 0.1, "noise_at": "before", "prior_precision": 0.5, "temperature": 0.3},
    "after": {"step_size": 0.3, "noise_std": 0.5, "clamp": (0.2, 0.8)},
}


@pytest.mark.parametrize("law", LAWS)
def test_a_step_that_is_ready_has_the_bits_of_one_alone(law, monkeypatch):
    x = torch.rand(N, 7, generator=torch.Generator().manual_seed(0))
    energy = lambda x: (1 + x.square().sum(1)).sqrt()  # noqa: E731
    alone, _ = hatebm.langevin(energy, x, STEPS, **LAWS[law], seed=3, backend="reference", return_info=True)
    made, ready = [], Blocks.ready
    monkeypatch.setattr(Blocks, "ready", lambda *given: made.append(ready(*given)) or made[-1])
    ran = hatebm.langevin(energy, x, STEPS, **LAWS[law], seed=3)
    assert len(made) == 1
    if hatebm.backends()["cpu"] is True:
        assert made[0] is not None
    assert torch.equal(ran, alone)
