"""Modules of other kinds: lazy ones, frozen TorchScript, and tensors that were made under inference mode."""

import pytest
import torch
from torch import nn

import hatebm
from hatebm.evaluation.ood import energy_score

STATE = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
PICTURES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LAW = {"eps": 0.1, "seed": 0}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


def rows():
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.SiLU(), nn.Dropout(0.5), nn.LazyLinear(1))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.SiLU(), nn.LazyLinear(1))


def convolutions():
    layers = (nn.LazyConv2d(64, 3, padding=1), nn.ReLU(), nn.LazyConv2d(64, 3, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(1))


class Unused(nn.Module):
    """A lazy part that no call reaches."""

    def __init__(self):
        super().__init__()
        self.late, self.last = nn.LazyLinear(3), nn.LazyLinear(1)

    def forward(self, x):
        return self.last(x)[:, 0]


def langevin(energy, x=STATE, steps=3, **more):
    return hatebm.langevin(energy, x, steps, **LAW | more)


RUNS = {
    "perceptron": (perceptron, langevin),
    "convolutions": (convolutions, lambda net: langevin(net, PICTURES)),
    "batch norm": (rows, langevin),
    "unused": (Unused, langevin),
    "as it is": (rows, lambda net: langevin(net, compile="off")),
    "mala": (rows, lambda net: langevin(net, correct="mala")),
    "hmc": (rows, lambda net: hatebm.hmc(net, STATE, 3, **LAW)),
    "last steps": (rows, lambda net: langevin(net, grad_steps=2).detach()),
    "info": (rows, lambda net: langevin(net, return_info=True)[0]),
    "bfloat16": (rows, lambda net: langevin(net, precision="bfloat16")),
    "inference mode": (rows, torch.inference_mode()(langevin)),
    "behind a lambda": (rows, lambda net: langevin(lambda x: net(x)[:, 0])),
    "a keyword argument": (rows, lambda net: langevin(lambda x, net: net(x)[:, 0], energy_kwargs={"net": net})),
    "a score": (rows, lambda net: langevin(None, grad_fn=lambda x: net(x).expand(4, 3))),
    "an energy beside a score": (rows, lambda net: langevin(net, grad_fn=lambda x: 2 * x, correct="mala")),
    "a product": (rows, lambda net: langevin(hatebm.product(lambda x: x.square().sum(1), lambda x: net(x)[:, 0]))),
    "tempering": (rows, lambda net: hatebm.tempering(net, STATE, 4, temperatures=[1, 2], swap_every=2, **LAW)),
    "an exchange first": (
        rows,
        lambda net: hatebm.tempering(net, STATE, 2, temperatures=[1, 2], swap_every=2, first_step=2, **LAW),
    ),
    "ais": (rows, lambda net: hatebm.ais(net, (4, 3), bridges=3, **LAW).states),
    "outliers": (rows, lambda net: energy_score(net, STATE)),
}


@pytest.mark.parametrize(("make", "run"), RUNS.values(), ids=RUNS)
def test_a_lazy_energy_is_the_one_that_a_first_call_makes(make, run):
    torch.manual_seed(0)
    net = make()
    got = run(net)
    torch.manual_seed(0)
    twin = make().eval()
    with torch.no_grad():
        twin(PICTURES if make is convolutions else STATE)
    assert torch.equal(got, run(twin))
    assert all(part.training for part in net.modules())
    settled = [p for name, p in net.named_parameters() if not name.startswith("late")]
    assert all(p.requires_grad and not p.is_inference() for p in settled)
    assert all(map(torch.equal, net.buffers(), twin.buffers()))


@pytest.mark.parametrize("mode", ["train", "keep"])
def test_the_first_call_moves_no_statistics(mode):
    torch.manual_seed(0)
    net = rows()
    torch.manual_seed(1)
    langevin(net, mode=mode, steps=2)
    assert net[1].num_batches_tracked == 2


def test_a_first_call_that_fails_leaves_the_modes():
    net = nn.Sequential(rows(), nn.Linear(7, 1))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        langevin(net)
    assert all(part.training for part in net.modules())


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Dropout(0.5), nn.Linear(8, 1)).eval()


def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.Flatten())


def scripted(net):
    return torch.jit.script(net)


def frozen(net):
    return torch.jit.freeze(torch.jit.script(net.eval()))


SCRIPTS = {
    "alone": lambda f: langevin(f(layers())),
    "mala": lambda f: langevin(f(layers()), correct="mala"),
    "behind a lambda": lambda f: langevin((lambda net: lambda x: net(x)[:, 0])(f(layers()))),
    "in a product": lambda f: langevin(hatebm.product(f(layers()), lambda x: x.square().sum(1))),
    "in a hat energy": lambda f: hatebm.langevin(
        hatebm.HatEnergy(lambda x: x.square().sum(1), f(layers()[:2])),
        (STATE, torch.zeros(4, 8)),
        3,
        blocks="sequential",
        **LAW,
    )[0],
    "behind convolutions": lambda f: langevin(nn.Sequential(body(), f(layers_behind())), PICTURES),
    "in bfloat16": lambda f: langevin(f(layers()), precision="bfloat16"),
    "tempering": lambda f: hatebm.tempering(f(layers()), STATE, 3, temperatures=[1, 2], **LAW),
}


def layers_behind():
    torch.manual_seed(1)
    return nn.Linear(64 * 256, 1)


@pytest.mark.parametrize("made", [scripted, frozen])
@pytest.mark.parametrize("run", SCRIPTS.values(), ids=SCRIPTS)
def test_torchscript_is_the_network_that_it_was_made_of(run, made):
    torch.testing.assert_close(run(made), run(lambda net: net), rtol=1e-4, atol=1e-5)


class Scaled(nn.Module):
    """A number in a buffer."""

    def __init__(self, scale, multiplies=True):
        super().__init__()
        self.register_buffer("scale", scale)
        self.multiplies = multiplies

    def forward(self, x):
        return (x * self.scale if self.multiplies else x + self.scale).square().sum(1)


@torch.inference_mode()
def made_in_inference(make):
    return make()


def batch_norm():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    net[1].running_var = made_in_inference(lambda: torch.ones(3))
    return net


REFUSED = {
    "a buffer": lambda: langevin(Scaled(made_in_inference(lambda: torch.ones(3)))),
    "a closure": lambda: langevin(
        (lambda scale: lambda x: (x * scale).square().sum(1))(made_in_inference(lambda: torch.ones(3)))
    ),
    "mala": lambda: langevin(Scaled(made_in_inference(lambda: torch.ones(3))), correct="mala"),
    "statistics": lambda: langevin(nn.Sequential(batch_norm(), nn.Linear(3, 1))),
    "a generator": lambda: langevin(
        hatebm.HatEnergy(lambda x: x.square().sum(1), batch_norm()), (STATE, STATE), eps=(0.1, 0.2)
    ),
    "parameters": lambda: langevin(made_in_inference(layers)),
}


@pytest.mark.parametrize("run", REFUSED.values(), ids=REFUSED)
def test_tensors_of_inference_mode_that_no_gradient_passes_are_named(run):
    with pytest.raises(RuntimeError, match=r"^langevin: (the )?energy.* torch.inference_mode\(\)"):
        run()


def test_tensors_of_inference_mode_that_serve():
    made = made_in_inference
    pairs = {
        "a buffer": lambda m: langevin(Scaled(m(lambda: torch.ones(3)), multiplies=False)),
        "numbers": lambda m: langevin(m(lambda: hatebm.energies.Gaussian([0.0, 1.0, 2.0], [1.0, 1.0, 2.0]))),
        "start": lambda m: langevin(lambda x: x.square().sum(1), m(STATE.clone)),
        "noise": lambda m: langevin(lambda x: x.square().sum(1), noise=lambda t: m(STATE.clone)),
        "a score": lambda m: langevin(lambda x: x.sum(1), grad_fn=lambda x: m(STATE.clone), correct="mala"),
        "ais": lambda m: hatebm.ais(lambda x: x.square().sum(1), m(STATE.clone), bridges=3, **LAW).states,
    }
    wrong = [name for name, run in pairs.items() if not torch.equal(run(made), run(lambda make: make()))]
    assert not wrong
