"""Chains of every form that graphs take, with others beside them that go step by step; what both are to agree in."""

import torch
from torch import nn

import hatebm

N, D, E, Z = 6, 5, 3, 4


class Net(nn.Module):
    """Of one block or two, with a shift of what is hidden and a factor."""

    def __init__(self, d=D):
        super().__init__()
        self.inner = nn.Linear(d, 4)

    def forward(self, *state, shift=None, factor=1.0):
        hidden = self.inner(torch.cat(state, 1)) + (0 if shift is None else shift)
        return torch.tanh(hidden).square().sum(1) * factor + sum(x.square().sum(1) for x in state) / 2


class Parts(Net):
    """An energy told in parts."""

    def forward(self, *state):
        return {"net": super().forward(*state), "waves": sum(x.cos().sum(1) for x in state)}


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(Z, D)

    def forward(self, z):
        return torch.tanh(self.layer(z))


EACH = hatebm.per_chain(torch.linspace(0.1, 0.5, N))
ROWS = hatebm.per_chain(torch.linspace(0.1, 0.4, 60 * N).view(60, N))
TURNS = "sequential"
CORRECTED = {"mala": {"correct": "mala"}, "hmc": {"leapfrog_steps": 2}}
FORMS = {
    "mala": {"correct": "mala", "clamp": (-1.5, 1.5), "prior_precision": 0.5, "temperature": lambda t: 1 + t / 40},
    "mala, of each": {"correct": "mala", "eps": ROWS, "clip": ("norm", EACH), "clip_on": "update", "blocks": TURNS},
    "hmc": {"leapfrog_steps": 3, "temperature": 0.7, "reflect": (-1.0, 1.0), "blocks": TURNS},
    "hmc, friction": {"leapfrog_steps": 2, "friction": 0.7, "eps": lambda t: 0.3 - t / 500, "prior_precision": EACH},
    "friction": {"friction": 0.7, "eps": EACH, "clip": ("norm", 1.5), "reflect": (-0.8, 0.8)},
    "overdamped": {"noise_at": "before", "clamp": (-1, 1), "blocks": TURNS, "eps": [0.2] * 30 + [0.1] * 30},
}
TOLD = {
    "overdamped": {"eps": EACH, "prior_precision": 0.3},
    "mala": {"correct": "mala", "clamp": (-2, 2), "temperature": lambda t: 1 + t / 40},
    "hmc, friction": {"leapfrog_steps": 2, "friction": 0.7, "prior_precision": EACH, "blocks": TURNS},
    "friction": {"friction": 0.7, "reflect": (-0.8, 0.8)},
    "before": {"noise_at": "before", "clamp": (-1, 1), "eps": (0.0, 0.2)},
}


def drawn(seed, *shape, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def two_blocks(device="cpu"):
    """A state of two blocks, and a mask on the first."""
    return (drawn(1, N, D, device=device), drawn(2, N, E, device=device)), (drawn(3, N, D, device=device) > -0.4, None)


def chains(energy, x, **law):
    return [hatebm.Chain(energy, x, compile=how, **{"eps": 0.2, "seed": 3} | law) for how in ("auto", "off")]


def assert_same_run(pair, n_steps=20):
    """The line of a report on graphs, after a run with replays and one without, of the same bits."""
    one, other = (chain.run(n_steps) for chain in pair)
    assert all(map(torch.equal, blocks_of(one), blocks_of(other)))
    assert all(map(torch.equal, *(chain.state_dict().get("velocity", ()) for chain in pair)))
    return told_of_graphs(pair[0])


def assert_same_told(pair, n_steps, **how):
    """The same for runs that tell of their steps."""
    infos = []
    for chain in pair:
        state, info = chain.run(n_steps, return_info=True, **how)
        infos.append({"state": torch.cat(blocks_of(state), 1), **info.pop("energy_parts", {}), **info})
    assert infos[0].keys() == infos[1].keys()
    for name, values in infos[0].items():
        assert torch.equal(values, infos[1][name]), name
    return told_of_graphs(pair[0])


def blocks_of(state):
    return state if isinstance(state, tuple) else (state,)


def told_of_graphs(chain):
    return next((line for line in chain.report().splitlines() if line.startswith("CUDA graph")), "")
