"""Numbers for each chain where nobody can look at them: under torch.compile, and in tensors without data."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import hatebm

X = torch.linspace(-1, 1, 12).view(4, 3)
EACH = [0.1, 0.2, 0.3, 0.4]


def test_tensors_without_data_have_numbers_without_data():
    with FakeTensorMode() as mode:
        x, each = mode.from_tensor(X), mode.from_tensor(torch.tensor(EACH))
        energy = lambda x: x.square().sum(1)  # noqa: E731
        for how in ({}, {"correct": "mala"}, {"friction": 1.0}, {"keep": "steps"}):
            got = hatebm.langevin(energy, x, 2, eps=hatebm.per_chain(each), seed=0, **how)
            assert (got[-1] if "keep" in how else got).shape == X.shape
        assert hatebm.ops.langevin_step_(x, x, step_size=hatebm.per_chain(each), seed=0, step=0) is x


COMPILED = {
    "step": {"step_size": 1.0},
    "temperature, bound": {"eps": 0.1, "temperature": 1.0, "clip": ("norm", 1.0)},
    "noise first": {"step_size": 0.1, "noise_std": 1.0, "noise_at": "before", "clamp": (-1, 1)},
    "mala": {"eps": 1.0, "correct": "mala"},
    "friction": {"eps": 1.0, "friction": 1.0},
}


@pytest.mark.parametrize("law", COMPILED.values(), ids=COMPILED)
def test_a_compiled_caller_gets_the_same_chains_in_one_graph(law):
    """1.0 stands for the numbers of the chains, which the compiled function is given."""

    def sample(x, each):
        held = hatebm.per_chain(each)
        own = {name: held if v == 1.0 and name != "friction" else v for name, v in law.items()}
        own |= {"clip": ("norm", held)} if "clip" in law else {}
        return hatebm.langevin(lambda x: (x * x * x).sin().sum(1), x, 3, seed=5, **own)

    torch.compiler.reset()
    compiled = torch.compile(sample, fullgraph=True, backend="aot_eager")
    for each in (torch.tensor(EACH), torch.tensor(EACH) / 2):
        torch.testing.assert_close(compiled(X, each), sample(X, each), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # PyTorch warns itself of it
def test_a_compiled_caller_learns():
    def loss(x, step):
        states = hatebm.langevin(
            lambda x: (x * x * x).sin().sum(1), x, 3, step_size=step, noise_std=0.1, seed=5, keep="steps"
        )
        return torch.stack(states).square().sum()

    torch.compiler.reset()
    step = torch.tensor(0.1, requires_grad=True)
    (want,) = torch.autograd.grad(loss(X, step), step)
    (got,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(X, step), step)
    torch.testing.assert_close(got, want)
    assert want.abs() > 0
