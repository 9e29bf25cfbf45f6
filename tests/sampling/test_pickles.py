"""A chain that was copied, pickled or saved whole goes on as the chain does."""

import copy
import io
import pickle

import pytest
import torch
from small import small_net
from torch import nn

import hatebm


def weighted(x, a=1.0):
    return a * x.square().flatten(1).sum(1)


def gradient(x):
    return 2 * x


def falling(t):
    return 0.1 / (1 + t)


def arguments(t):
    return {"a": 1.0 + t}


def given(t):
    return torch.full((3, 4), 0.1 * t)


def perceptron():
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))


def filters():
    """Large enough to be prepared."""
    layers = nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 1))


X = torch.linspace(-1, 1, 12).view(3, 4)
IMAGES = torch.linspace(0, 1, 16 * 3 * 256).view(16, 3, 16, 16)
MASK = torch.tensor([True, False, True, True])
CHAINS = {
    "plain": lambda: (perceptron(), X, {}),
    "a loop": lambda: (perceptron(), X, {"compile": "off"}),
    "mala": lambda: (perceptron(), X, {"correct": "mala"}),
    "friction": lambda: (perceptron(), X, {"friction": 1.0}),
    "hmc": lambda: (perceptron(), X, {"leapfrog_steps": 2}),
    "convolutions": lambda: (filters(), IMAGES, {}),
    "bfloat16": lambda: (filters(), IMAGES, {"precision": "bfloat16"}),
    "small convolutions": lambda: (small_net(), torch.ones(3, 1, 6, 6), {}),
    "MLP": lambda: (hatebm.energies.MLP((4, 8)), X, {}),
    "Gaussian": lambda: (hatebm.energies.Gaussian(torch.zeros(4), torch.ones(4)), X, {}),
    "DoubleWell": lambda: (hatebm.energies.DoubleWell(), X, {}),
    "product": lambda: (hatebm.product(perceptron(), weighted), X, {}),
    "hat": lambda: (hatebm.HatEnergy(weighted, nn.Linear(4, 2)), (X, X[:, :2]), {"blocks": "sequential"}),
    "arguments": lambda: (weighted, X, {"energy_kwargs": {"a": 2.0}}),
    "arguments of the step": lambda: (weighted, X, {"energy_kwargs": arguments}),
    "gradient": lambda: (None, X, {"grad_fn": gradient}),
    "schedule": lambda: (weighted, X, {"eps": falling}),
    "noise": lambda: (weighted, X, {"noise": given}),
    "mask": lambda: (weighted, X, {"mask": MASK}),
}


def saved(chain):
    file = io.BytesIO()
    torch.save(chain, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"copied": copy.deepcopy, "pickled": lambda chain: pickle.loads(pickle.dumps(chain)), "saved": saved}


@pytest.mark.parametrize("kind", CHAINS)
def test_a_twin_goes_on_as_the_chain_does(kind):
    torch.manual_seed(0)
    energy, x, law = CHAINS[kind]()
    chain = hatebm.Chain(energy, x, **{"eps": 0.1, "seed": 3} | law)
    chain.run(2)
    twins = {how: make(chain) for how, make in COPIES.items()}
    want, told = chain.run(3, return_info=True)
    for how, twin in twins.items():
        got, info = twin.run(3, return_info=True)
        same = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
        assert all(torch.equal(a, b) for a, b in same), how
        assert all(torch.equal(info[name], told[name]) for name in told), how


def test_a_run_that_broke_leaves_a_chain_that_can_be_pickled():
    torch.manual_seed(0)
    broken = IMAGES.clone()
    broken[1] = torch.nan
    chain = hatebm.Chain(filters(), broken, eps=0.1, seed=0)
    with pytest.raises(hatebm.ChainDiverged, match="chain 1"):
        chain.run(3)
    torch.testing.assert_close(pickle.loads(pickle.dumps(chain)).state, broken, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize("energy", [weighted, perceptron()], ids=["function", "module"])
def test_an_energy_that_is_compiled_is_compiled_again(energy):
    chain = hatebm.Chain(energy, X, eps=0.1, seed=0, compile="max")
    twin = pickle.loads(pickle.dumps(chain))
    torch.testing.assert_close(twin.run(2), chain.run(2))
