"""Living with PyTorch: compiled callers and energies, transforms, autocast, wrapped modules, tensors without data."""

import math

import pytest
import torch
from small import images, small_net
from targets import quadratic
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import hatebm

LAWS = {
    "plain": {"eps": 0.1},
    "noise first": {"step_size": 0.1, "noise_std": 0.05, "noise_at": "before", "clamp": (0, 1)},
    "capped": {"eps": [0.1, 0.2, 0.3], "temperature": 0.5, "clip": ("norm", 0.1), "prior_precision": 0.3},
    "adjusted": {"eps": 0.1, "correct": "mala"},
    "underdamped": {"eps": 0.1, "friction": 2.0, "reflect": (0, 1)},
    "held": {"eps": 0.1, "mask": torch.arange(36).view(6, 6) < 18},
}


pytestmark = [  # what PyTorch warns itself of
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def forget_compiled():
    torch.compiler.reset()


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_compiled_caller_gets_the_same_chain_in_one_graph(law):
    net = small_net()

    def sample(x):
        return hatebm.langevin(net, x, 3, seed=5, **law)

    want = sample(images())
    got = torch.compile(sample, fullgraph=True, backend="aot_eager")(images())
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert not got.requires_grad
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_a_compiled_caller_sees_info_and_hears_of_a_divergence():
    def sample(x, scale):
        energy = lambda x, scale: (scale * x).square().flatten(1).sum(1)  # noqa: E731
        return hatebm.langevin(
            energy, x, 3, eps=0.1, seed=5, first_step=7, energy_kwargs={"scale": scale}, return_info=True
        )

    compiled = torch.compile(sample, fullgraph=True, backend="aot_eager")
    scale = torch.ones(())
    (want, facts), (got, found) = sample(images(), scale), compiled(images(), scale)
    torch.testing.assert_close(got, want)
    assert found.keys() == facts.keys()
    for name in facts:
        torch.testing.assert_close(found[name], facts[name])
    with pytest.raises(hatebm.ChainDiverged, match="step 7 in chains 0, 1"):
        compiled(images(), scale * math.nan)


def test_inductor_runs_the_chain_without_a_seed():
    x = images()
    sample = torch.compile(lambda x: hatebm.langevin(quadratic, x, 2, eps=0.1), fullgraph=True)
    one, two = sample(x), sample(x)
    assert not torch.equal(one, two)
    assert one.isfinite().all()


@pytest.mark.parametrize("wrap", [torch.compile, lambda net: torch.compile(net, fullgraph=True)])
def test_a_compiled_energy(wrap):
    net = small_net()
    want = hatebm.langevin(net, images(), 3, eps=0.1, seed=0)
    torch.testing.assert_close(hatebm.langevin(wrap(net), images(), 3, eps=0.1, seed=0), want, rtol=1e-5, atol=1e-6)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("level", ["auto", "off", False, "max", True])
def test_compile_levels_agree_to_rounding(level):
    net = small_net()
    want = hatebm.langevin(net, images(), 3, eps=0.1, seed=0)
    got = hatebm.langevin(net, images(), 3, eps=0.1, seed=0, compile=level)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_energies_may_be_made_of_transforms():
    one = lambda x: (x * x * torch.linspace(0.5, 2, 36).view(1, 6, 6)).sum()  # noqa: E731
    want = hatebm.langevin(quadratic, images(), 3, eps=0.1, seed=0)
    torch.testing.assert_close(hatebm.langevin(torch.vmap(one), images(), 3, eps=0.1, seed=0), want)
    score = torch.vmap(torch.func.grad(one))
    torch.testing.assert_close(hatebm.langevin(None, images(), 3, grad_fn=score, eps=0.1, seed=0), want)
    net = small_net().eval()
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    functional = lambda x: torch.func.functional_call(net, parameters, (x,))  # noqa: E731
    want = hatebm.langevin(net, images(), 3, eps=0.1, seed=0)
    assert torch.equal(hatebm.langevin(functional, images(), 3, eps=0.1, seed=0), want)


@pytest.mark.parametrize(
    "transformed",
    [
        torch.vmap(lambda x: hatebm.langevin(quadratic, x, 2, eps=0.1, seed=0)),
        torch.func.grad(lambda x: hatebm.langevin(quadratic, x[0], 2, eps=0.1, seed=0).sum()),
    ],
    ids=["vmap", "grad"],
)
def test_transforms_of_a_chain_are_refused(transformed):
    with pytest.raises(ValueError, match="x must be a tensor outside"):
        transformed(images()[None])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_reaches_the_energy_and_not_the_state(dtype):
    net = small_net()
    want = hatebm.langevin(net, images(), 3, eps=0.1, seed=0)
    with torch.autocast("cpu", dtype=dtype):
        got = hatebm.langevin(net, images(), 3, eps=0.1, seed=0)
    assert got.dtype == torch.float32
    assert not torch.equal(got, want)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-3)


@pytest.mark.parametrize("correct", [None, "mala"])
def test_energies_in_half_precision(correct):
    law = {"eps": 0.1, "seed": 0, "correct": correct}
    got = hatebm.langevin(lambda x: quadratic(x).bfloat16(), images(), 3, **law)
    torch.testing.assert_close(got, hatebm.langevin(quadratic, images(), 3, **law), rtol=0, atol=2e-3)


def test_every_shape_of_an_energy_is_the_same_chain():
    want = hatebm.langevin(quadratic, images(), 3, eps=0.1, seed=0)
    for form in (lambda e: e.sum(), lambda e: e[:, None]):
        assert torch.equal(hatebm.langevin(lambda x, f=form: f(quadratic(x)), images(), 3, eps=0.1, seed=0), want)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("unused", [False, True])
def test_a_module_wrapped_for_distributed_training(process_group, unused):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.SiLU(), nn.Linear(8, 1))
    want = hatebm.langevin(net, images(), 3, eps=0.1, seed=0)
    grads = torch.autograd.grad(net(images()).sum(), list(net.parameters()))
    wrapped = nn.parallel.DistributedDataParallel(net, find_unused_parameters=unused)
    for _ in range(2):
        assert torch.equal(hatebm.langevin(wrapped, images(), 3, eps=0.1, seed=0), want)
        wrapped.zero_grad()
        wrapped(images()).sum().backward()
        torch.testing.assert_close([p.grad for p in wrapped.parameters()], list(grads))


class Marked(torch.Tensor):
    """A subclass without a mind of its own."""


def test_subclasses_of_tensor():
    want = hatebm.langevin(quadratic, images(), 3, eps=0.1, seed=0, clip=("norm", 1.0))
    got = hatebm.langevin(quadratic, images().as_subclass(Marked), 3, eps=0.1, seed=0, clip=("norm", 1.0))
    assert torch.equal(got.as_subclass(torch.Tensor), want)
    parameter = nn.Parameter(images())
    got = hatebm.langevin(quadratic, parameter, 3, eps=0.1, seed=0, clip=("norm", 1.0))
    assert torch.equal(got, want)
    assert not got.requires_grad


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_meta_and_fake_tensors_give_shapes(law):
    mask = law.get("mask")
    meta = law | ({} if mask is None else {"mask": mask.to("meta")})
    out, info = hatebm.langevin(quadratic_of(torch.device("meta")), images().to("meta"), 3, return_info=True, **meta)
    assert (out.shape, out.device.type) == ((6, 1, 6, 6), "meta")
    assert info["energy"].shape == (3, 6)
    with FakeTensorMode() as mode:
        fake = law | ({} if mask is None else {"mask": mode.from_tensor(mask)})
        out = hatebm.langevin(quadratic, mode.from_tensor(images()), 3, **fake)
        assert out.shape == (6, 1, 6, 6)


def quadratic_of(device):
    return lambda x: (x * x * torch.linspace(0.5, 2, 36, device=device).view(6, 6)).flatten(1).sum(1)


def test_deterministic_algorithms_change_nothing():
    want = [hatebm.langevin(quadratic, images(), 3, seed=5, **law) for law in LAWS.values()]
    torch.use_deterministic_algorithms(True)
    try:
        got = [hatebm.langevin(quadratic, images(), 3, seed=5, **law) for law in LAWS.values()]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_inference_mode(law):
    net = small_net()
    want = hatebm.langevin(net, images(), 3, seed=0, **law)
    with torch.inference_mode():
        assert torch.equal(hatebm.langevin(net, images(), 3, seed=0, **law), want)


def test_a_compiled_caller_trains_through_the_last_steps():
    net = small_net().eval()

    def loss(x):
        return hatebm.langevin(net, x, 3, eps=0.1, seed=0, clip=("value", 0.05), grad_steps=2).square().sum()

    parameters = [p for p in net.parameters() if p.dim() > 1]
    want = torch.autograd.grad(loss(images()), parameters)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(images()), parameters), want, rtol=1e-4, atol=1e-6)
