"""What kernels are handed is what tensors say: negative views, expanded starts, layouts, addresses, types."""

import re

import pytest
import torch
from torch import nn

import hatebm
from hatebm import _C
from hatebm.energies.perceptron import layers_of
from hatebm.engine.prepare.activations import values_and_slopes
from hatebm.engine.prepare.direct import Direct
from hatebm.engine.prepare.winograd import Filter
from hatebm.ops.backend import module_for
from hatebm.ops.native.extension import address, readable

BACKENDS = [name for name in ("reference", "cpu") if hatebm.backends()[name] is True]
EACH = pytest.mark.parametrize("backend", BACKENDS)


def strided(v):
    """The same numbers as the imaginary part of a conjugate: their negatives lie in memory, two apart."""
    return torch.complex(-v, -v).conj().imag


def dense(v):
    """The same one after the other."""
    return torch._neg_view(-v)


VIEWS = pytest.mark.parametrize("view", [strided, dense])


def rows(seed=0):
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


def energy(x):
    return x.square().flatten(1).sum(1) / 2


@EACH
@VIEWS
@pytest.mark.parametrize("name", ["x", "grad", "noise", "gz", "image"])
def test_a_negative_view_in_a_step(name, view, backend):
    outcomes = []
    for shown in (view, torch.clone):
        operands = {k: rows(i) for i, k in enumerate(("x", "grad", "noise", "gz", "image"))}
        operands[name] = shown(operands[name])
        got = hatebm.ops.langevin_step_(
            **operands, step_size=0.1, noise_std=0.3, clip=("norm", 1.0), seed=0, step=0, backend=backend
        )
        assert got is operands["x"]
        outcomes.append((got, operands["image"]))
    assert outcomes[0][0].is_neg() is (name == "x")
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0, atol=0)


@VIEWS
def test_a_registered_step_of_negative_views(view):
    x, grad = view(rows()), view(rows(1))
    torch.ops.hatebm.langevin_step_(x, grad, step_size=0.1, noise_std=0.3, seed=0, step=0)
    want = hatebm.ops.langevin_step_(rows(), rows(1), step_size=0.1, noise_std=0.3, seed=0, step=0)
    assert torch.equal(x, want)


@EACH
@VIEWS
def test_negative_views_in_the_other_ops(view, backend):
    u = torch.linspace(-2, 0, 6, dtype=torch.float64)
    calls = [
        lambda v: hatebm.ops.residual_add(rows(), v(rows(1)), backend=backend),
        lambda v: hatebm.ops.residual_add(v(rows()), rows(1), backend=backend),
        lambda v: hatebm.ops.metropolis(v(u), seed=0, step=0, backend=backend),
        *(
            lambda v, k=k: hatebm.ops.langevin_ratio(
                *[v(rows(i)) if i == k else rows(i) for i in range(4)], step_size=0.1, noise_std=0.3, backend=backend
            )
            for k in range(4)
        ),
    ]
    for call in calls:
        assert torch.equal(call(view), call(torch.clone))


@VIEWS
def test_negative_views_in_chains(view):
    x, seeds = rows(), {"eps": 0.1, "seed": 0}
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.SiLU(), nn.Linear(8, 1))
    mean, precision = rows(2)[0], torch.ones(5)
    buffer = {}

    def replayed(v):
        buffer[v] = hatebm.ReplayBuffer(8, (5,), storage=torch.float32, seed=0)
        buffer[v].push(v(x), 0)
        return buffer[v].draw(6, 1, reinit=0)[0]

    def of_weights(v):
        net[0].weight.data = v(net[0].weight.detach().clone())
        return hatebm.langevin(net, x, 3, **seeds)

    calls = {
        "start": lambda v: hatebm.langevin(energy, v(x), 3, **seeds),
        "start of a formula": lambda v: hatebm.langevin(hatebm.energies.DoubleWell(), v(x), 3, **seeds),
        "noise": lambda v: hatebm.langevin(energy, x, 3, **seeds, noise=lambda t: v(rows(t))),
        "score": lambda v: hatebm.langevin(None, x, 3, **seeds, grad_fn=lambda x: v(2 * x)),
        "score, one step at a time": lambda v: hatebm.langevin(
            None, x, 3, **seeds, grad_fn=lambda x: v(2 * x), return_info=True
        )[0],
        "score, mala": lambda v: hatebm.langevin(energy, x, 3, **seeds, grad_fn=lambda x: v(x.clone()), correct="mala"),
        "score, friction": lambda v: hatebm.langevin(None, x, 3, **seeds, grad_fn=lambda x: v(2 * x), friction=1.0),
        "autograd": lambda v: hatebm.langevin(lambda x: energy(v(x.sin())), x, 3, **seeds),
        "last steps": lambda v: hatebm.langevin(
            energy, x.clone().requires_grad_(), 2, **seeds, noise=lambda t: v(rows(t)), grad_steps=2
        ).detach(),
        "looks": lambda v: hatebm.energies.Gaussian(mean, precision)(v(x)),
        "numbers": lambda v: hatebm.langevin(hatebm.energies.Gaussian(v(mean), v(precision)), x, 3, **seeds),
        "weights": of_weights,
        "replay": replayed,
    }
    wrong = [name for name, call in calls.items() if not torch.equal(call(view), call(torch.clone))]
    assert not wrong


def test_negative_views_in_the_engines_kernels():
    pictures, weight, bias = torch.randn(2, 16, 8, 8), torch.randn(16, 16, 3, 3), torch.randn(16)
    lying = lambda v: readable(v, torch.channels_last)  # noqa: E731
    for view in (strided, dense):
        assert torch.equal(readable(view(rows())), rows())
        assert torch.equal(lying(view(pictures)), pictures)
        assert torch.equal(Filter(view(weight), view(bias), 1)(view(pictures)), Filter(weight, bias, 1)(pictures))
        for inputs in (3, 16):
            thin = weight[:, :inputs], pictures[:, :inputs]
            want = Direct(thin[0], bias, 2, 1)(thin[1])
            assert torch.equal(Direct(view(thin[0]), view(bias), 2, 1)(view(thin[1])), want)
        for got, want in zip(
            values_and_slopes(view(rows()), "silu", 0.0), values_and_slopes(rows(), "silu", 0.0), strict=True
        ):
            assert torch.equal(got, want)


START = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
CHAINS = {
    "langevin": lambda x: hatebm.langevin(energy, x, 3, eps=0.1, seed=0),
    "no steps": lambda x: hatebm.langevin(energy, x, 0, eps=0.1, seed=0),
    "mala": lambda x: hatebm.langevin(energy, x, 3, eps=0.1, seed=0, correct="mala"),
    "hmc": lambda x: hatebm.hmc(energy, x, 3, eps=0.1, leapfrog_steps=2, seed=0),
    "formula": lambda x: hatebm.langevin(hatebm.energies.DoubleWell(), x, 3, eps=0.1, seed=0),
    "blocks": lambda x: hatebm.langevin(lambda a, b: energy(a + b), (x, x), 3, eps=0.1, seed=0)[1],
    "graph": lambda x: hatebm.langevin(energy, x.detach().requires_grad_(), 2, eps=0.1, seed=0, grad_steps=2).detach(),
    "tempering": lambda x: hatebm.tempering(energy, x, 3, temperatures=[1, 2], eps=0.1, seed=0),
    "ais": lambda x: hatebm.ais(energy, x, bridges=3, eps=0.1, seed=0).states,
}


@pytest.mark.parametrize("run", CHAINS.values(), ids=CHAINS)
def test_one_start_for_all_chains(run):
    assert torch.equal(run(START.expand(5, 3, 4)), run(START.repeat(5, 1, 1)))
    assert torch.equal(run(START[:, :1].expand(5, 3, 4)), run(START[:, :1].repeat(5, 3, 1)))


def test_a_saved_state_may_be_expanded_and_a_step_in_place_refuses():
    chain = hatebm.Chain(energy, START.repeat(5, 1, 1), eps=0.1, seed=0)
    saved = chain.state_dict()
    want = chain.run(2)
    chain.load_state_dict(saved | {"state": START.expand(5, 3, 4)})
    assert torch.equal(chain.run(2), want)
    with pytest.raises(ValueError, match=r"^langevin_step_: x must be a tensor whose elements do not overlap"):
        hatebm.ops.langevin_step_(START.expand(5, 3, 4), torch.zeros(5, 3, 4), step_size=0.1, seed=0, step=0)


LAYOUTS = {"sparse": torch.Tensor.to_sparse, "mkldnn": torch.Tensor.to_mkldnn}


@pytest.mark.parametrize("made", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_that_are_not_dense_are_named(made):
    x = rows()
    step = lambda **more: hatebm.ops.langevin_step_(  # noqa: E731
        **{"x": rows(), "grad": rows(1), "step_size": 0.1, "seed": 0, "step": 0} | more
    )
    run = lambda x=x, **more: hatebm.langevin(energy, x, 2, eps=0.1, seed=0, **more)  # noqa: E731
    calls = {
        "langevin_step_: x": lambda: step(x=made(x)),
        "langevin_step_: grad": lambda: step(grad=made(x)),
        "langevin_step_: noise": lambda: step(noise=made(x)),
        "langevin: x": lambda: run(made(x)),
        "langevin: noise": lambda: run(noise=lambda t: made(x)),
        "langevin: grad_fn's result": lambda: run(grad_fn=lambda x: made(x)),
        "residual_add: y": lambda: hatebm.ops.residual_add(x, made(x)),
        "langevin_ratio: x": lambda: hatebm.ops.langevin_ratio(made(x), x, x, x, step_size=0.1, noise_std=0.1),
        "langevin_ratio: proposal": lambda: hatebm.ops.langevin_ratio(x, x, made(x), x, step_size=0.1, noise_std=0.1),
    }
    for argument, call in calls.items():
        with pytest.raises(
            TypeError, match=rf"^{re.escape(argument)} must be a dense tensor, got a \w+ float32 tensor"
        ):
            call()


def test_steps_inside_transforms_are_refused_by_name():
    for transformed in (
        torch.vmap(lambda x: hatebm.ops.langevin_step_(x[None], None, step_size=0.1, seed=0, step=0)),
        torch.vmap(lambda x: hatebm.ops.residual_add(x, x)),
    ):
        with pytest.raises(ValueError, match=r"must be a tensor outside torch.func's transforms"):
            transformed(rows())


def test_zeros_without_memory_are_refused_not_read():
    nothing = torch._efficientzerotensor((6, 5))
    step = {"step_size": 0.1, "noise_std": 0.1, "seed": 0, "step": 0, "backend": "cpu"}
    for operands in ((nothing, rows(), None), (rows(), nothing, None), (rows(), rows(), nothing)):
        with pytest.raises((TypeError, ValueError), match=r"^hatebm: .* must "):
            hatebm.ops.langevin_step_(*operands[:2], noise=operands[2], **step)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("grad", torch.zeros(6, 5, dtype=torch.float64)),
        ("grad", torch.zeros(2, 5)),
        ("noise", torch.zeros(6, 5, dtype=torch.bfloat16)),
        ("gz", torch.zeros(6, 4)),
        ("diverged", torch.zeros(6)),
        ("grad_norm", torch.zeros(12)[::2]),
    ],
    ids=str,
)
def test_registered_ops_check_what_they_are_handed(name, wrong):
    operands = {"grad": rows(1), "gz": rows(2), "image": rows(3), name: wrong}
    with pytest.raises((TypeError, ValueError), match=rf"^langevin_step_: {name} must be "):
        torch.ops.hatebm.langevin_step_(rows(), **operands, step_size=0.1, noise_std=0.1, seed=0, step=0)


def test_an_address_stands_for_numbers_of_one_type_and_count_on_one_device():
    here, x = torch.device("cpu"), rows()
    assert address(x, 30, here) == x.data_ptr()
    assert address(None, 30, here) == 0
    assert address(x[:0], 0, here) == x[:0].data_ptr()
    for wrong in (x.double(), x[:5], x.to("meta"), x.bfloat16(), x.to_sparse()):
        with pytest.raises(TypeError, match=r"^hatebm: what a kernel takes must be 30 float32 numbers as they lie"):
            address(wrong, 30, here)


def test_kernels_refuse_numbers_of_another_type():
    """Where a layer, a formula or a schedule were not what their kernel takes, memory would be misread."""
    native = module_for("langevin_step_", None, torch.device("cpu"))
    layers = layers_of(nn.Sequential(nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 1)))
    formula = hatebm.energies.Gaussian(torch.zeros(5), torch.ones(5)).formula(5)
    for call in (
        lambda: native.perceptron_look(rows(), [layers[0]._replace(weight=layers[0].weight.double()), layers[1]]),
        lambda: native.perceptron_look(rows().double(), layers),
        lambda: native.look(formula._replace(where=formula.where[:4]), rows()),
        lambda: native.look(formula._replace(weight=None), rows()),
        lambda: native.look(formula, rows().half()),
        lambda: native.philox(torch.zeros(2, 4), torch.zeros(2, 2)),
        lambda: Filter(torch.zeros(16, 16, 3, 3).double(), None, 1),
        lambda: values_and_slopes(torch.zeros(4).half(), "silu", 0.0),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^hatebm: .* must "):
            call()


ONE_LAW = (0.1, 0.1, 1.0, 0.0, 0.0, 0, 0, 0)  # five numbers, and none of each chain
ONE_STEP = (1, 0, 0, 0, 0, True, False, 0, 0, False, 0.0, 0.0, False, False, 0, 0, 0, 0, 0, 0, False, (0, 0, 0, 0, 0))
NULLS = {
    "residual_add": ("out", (0, 0, 0, 5, 1)),
    "normal": ("out", (0, 4, 3, 0, 0, 0, 0, 0, 1)),
    "metropolis": ("accept|log_ratio", (0, 0, 3, 0, 0, 0, 0, 0, 1)),
    "philox": ("counter", (0, 0, 0, 2)),
    "activation": ("x", (0, 0.0, 3, 0, 0, 0, 1)),
    "filter_weight": ("weight", (0, False, 0, 16, 16, 0, 1)),
    "filter": ("x", (0, 0, 0, 0, 0, 1, (4, 4, 16), (4, 4, 16), False, 0, 0, 1)),
    "stem": ("x", (False, 0, 0, 0, 0, 1, 4, 4, 1, 16, 3, 1, 1, 1)),
    "direct": ("x", (False, 0, 0, 0, 0, 1, 4, 4, 16, 16, 3, 2, 1, 1)),
    "look": ("where", ((0, 3, 1, 0, 0, 0.0, 0.0), 0, 2, 0, 0, 1)),
    "mlp_look": ("weight", (0, 2, [(0, 0, 3, 1, 0, 0.0)], 0, 0, 1)),
    "langevin_step": (
        "x",
        (0, 0, 1, 0, 0, 0, 2, 3, *ONE_LAW, 0, 0, False, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, [], 1),
    ),
    "langevin_ratio": ("x", (0, 0, 0, 0, 1, 2, 3, 0.1, *ONE_LAW[2:], 0, False, 1.0, 0.0, 0, 0, 1)),
    "whole": (
        "where",
        ((0, 3, 1, 0, 0, 0.0, 0.0), 0, 2, ONE_STEP, 1),
    ),
    "mlp_chains": (
        "weight",
        (0, 2, [(0, 0, 3, 1, 0, 0.0)], ONE_STEP, 1),
    ),
}


@pytest.mark.parametrize("kernel", NULLS)
def test_a_null_address_is_refused(kernel):
    name, arguments = NULLS[kernel]
    with pytest.raises(ValueError, match=rf"^hatebm: ({name}) must lie in memory, got a null address for \d+ numbers$"):
        getattr(_C, kernel)(*arguments)
