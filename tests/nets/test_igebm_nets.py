"""The networks of IGEBM: norms against singular values, blocks by hand, gradients against finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import hatebm
from hatebm.errors import UsageError
from hatebm.nets import SpectralConvNet, SpectralResNet
from hatebm.nets.igebm import SpectralBlock
from hatebm.nets.spectral import SpectralConv, SpectralLayer, SpectralLinear, iterate_power


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def resnet(classes: int = 0, activation: str = "leaky") -> SpectralResNet:
    return scattered(SpectralResNet(8, 2, (4, 6), (2, 1), classes, activation, stem=3))


def convnet(classes: int = 0, activation: str = "leaky") -> SpectralConvNet:
    return scattered(SpectralConvNet(7, 2, (3, 4, 5), 6, classes, activation))


def scattered(net: nn.Module) -> nn.Module:
    """The net in float64, its weights of every size, so that each gain, bias and cap plays a part."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) / 4)
    iterate_power(net.double())
    return net


NETS = pytest.mark.parametrize(("make", "size"), [(resnet, 8), (convnet, 7)], ids=["resnet", "convnet"])


def norm(layer: SpectralLayer) -> float:
    return torch.linalg.matrix_norm(layer.normalised().detach().flatten(1), 2).item()


LAYERS = {
    "convolution": lambda: SpectralConv(5, 9),
    "halving": lambda: SpectralConv(5, 9, kernel=4, stride=2),
    "capped": lambda: SpectralConv(5, 9, capped=True),
    "dense": lambda: SpectralLinear(30, 20),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_iterations_bring_the_largest_singular_value_to_one(make):
    layer = make()
    assert norm(layer) > 1.01
    for _ in range(300):
        layer.iterate_power()
    assert norm(layer) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("std", [1e-10, 0.05])
def test_a_cap_leaves_a_smaller_norm_alone(std):
    layer = SpectralConv(5, 9, std=std, capped=True)
    for _ in range(300):
        layer.iterate_power()
    assert torch.equal(layer.normalised(), layer.weight)
    assert 0 < norm(layer) < 1
    assert layer.u.norm().item() == pytest.approx(1)


def test_averaged_weights_have_norm_one_whatever_the_length_of_averaged_vectors():
    layer = SpectralConv(5, 9)
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=True)
    shortest = 1.0
    for _ in range(100):
        with torch.no_grad():
            layer.weight.mul_(0.95).add_(0.3 * torch.randn_like(layer.weight))
        layer.iterate_power()
        iterate_power(average)
        average.update_parameters(layer)
        shortest = min(shortest, average.module.u.norm().item() * average.module.v.norm().item())
    assert norm(average.module) == pytest.approx(1, abs=0.03)
    assert shortest < 0.97
    average.module.u.mul_(0.3)
    average.module.v.mul_(0.6)
    assert norm(average.module) == pytest.approx(1, abs=0.03)


def test_a_gradient_flows_through_the_norm():
    for make in LAYERS.values():
        layer = make().double()
        if layer.capped:
            layer.weight.data /= 100
        weight = layer.weight.detach().clone().requires_grad_()
        normalised = lambda w, layer=layer: functional_call(Normalised(layer), {"layer.weight": w}, ())  # noqa: E731
        assert torch.autograd.gradcheck(normalised, weight, fast_mode=True)
        (grad,) = torch.autograd.grad(normalised(weight).square().sum(), weight)
        along = (grad * weight).sum().item()  # of W / s none: it does not feel the size of W
        assert (along > 0.01) if layer.capped else (abs(along) < 1e-9)


class Normalised(nn.Module):
    """What a layer makes of its weight."""

    def __init__(self, layer: SpectralLayer):
        super().__init__()
        self.layer = layer

    def forward(self):
        return self.layer.normalised()


def test_sides_are_halved_as_tensorflow_pads_them():
    for side, before, after in ((8, 1, 1), (7, 1, 2)):
        conv = SpectralConv(2, 3, kernel=4, stride=2, odd=side % 2 == 1)
        x = torch.randn(2, 2, side, side)
        padded = F.pad(x, (before, after, before, after))
        assert conv(x).shape[-1] == 4
        torch.testing.assert_close(conv(x), F.conv2d(padded, conv.normalised(), stride=2))


@pytest.mark.parametrize("activation", ["leaky", "swish"])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("width", [3, 4])
def test_a_block_starts_as_its_shortcut(width, halves, activation):
    block, x, y = SpectralBlock(3, width, 2, activation, halves=halves), torch.randn(5, 3, 6, 6), torch.arange(5) % 2
    assert isinstance(block.shortcut, SpectralConv) == (width != 3)
    act = F.silu if activation == "swish" else (lambda h: F.leaky_relu(h, 0.2))
    shortcut = block.shortcut(x)
    want = act(F.avg_pool2d(shortcut, 2) if halves else shortcut)
    torch.testing.assert_close(block(x, y), want, rtol=0, atol=1e-6)


def test_a_block_is_the_published_one():
    block = scattered(SpectralBlock(3, 4, 2, "leaky", halves=True))
    x, y, kept = torch.randn(5, 3, 6, 6).double(), torch.arange(5) % 2, 2.0 * (torch.rand(5, 4, 6, 6).double() < 0.5)
    conv = lambda layer, h: F.conv2d(h, layer.weight * scale(layer), padding=1)  # noqa: E731
    of_class = lambda numbers: numbers.values[y][:, :, None, None]  # noqa: E731
    h = F.leaky_relu(conv(block.conv1, x + of_class(block.bias1)) * kept, 0.2)
    h = conv(block.conv2, h + of_class(block.bias2)) * of_class(block.gain) + conv(block.shortcut, x)
    torch.testing.assert_close(block(x, y, kept), F.leaky_relu(F.avg_pool2d(h, 2), 0.2), rtol=1e-12, atol=1e-12)


def scale(layer: SpectralLayer) -> torch.Tensor:
    sigma = torch.einsum("o,oikl,ikl", layer.u, layer.weight, layer.v.view_as(layer.weight[0]))
    return 1 / (sigma.clamp_min(1) if layer.capped else sigma)


@NETS
def test_classes_that_are_all_the_same_are_none(make, size):
    conditional, x, y = make(classes=3), torch.rand(6, 2, size, size).double(), torch.arange(6) % 3
    assert (conditional(x, y) - conditional(x, (y + 1) % 3)).abs().min() > 1e-6
    saved = conditional.state_dict()
    of_class = [key for key in saved if key.endswith(".values")]
    for key in of_class:
        saved[key] = saved[key][:1].expand(3, -1)
    conditional.load_state_dict(saved)
    plain = make()
    plain.load_state_dict(saved | {key: saved[key][:1] for key in of_class})
    torch.testing.assert_close(conditional(x, y), plain(x), rtol=1e-12, atol=1e-12)


@NETS
@pytest.mark.parametrize("activation", ["leaky", "swish"])
def test_gradients_are_finite_differences(make, size, activation):
    net = make(2, activation)
    x, y = torch.rand(2, 2, size, size, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1])
    kept = {name: 2 * (torch.rand(2, *shape).double() < 0.5) for name, shape in getattr(net, "units", {}).items()}
    names, weights = zip(*net.named_parameters(), strict=True)

    def energy(x, *weights):
        return functional_call(net, dict(zip(names, weights, strict=True)), (x, y), kept)

    assert torch.autograd.gradcheck(energy, (x, *weights), fast_mode=True)


@NETS
def test_between_two_power_iterations_it_is_one_function(make, size):
    net, x, y = make(classes=2).float().train(), torch.rand(4, 2, size, size), torch.arange(4) % 2
    before = {name: tensor.clone() for name, tensor in net.named_buffers()}
    law = {"step_size": 10.0, "noise_std": 0.005, "noise_at": "before", "clip": ("value", 0.01), "clamp": (0, 1)}
    energy = net(x, y)
    chain = hatebm.Chain(net, x, energy_kwargs={"labels": y}, mode="train", seed=0, **law)
    chain.run(3, return_info=True)
    chain.report()
    energy.sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.named_buffers())
    assert torch.equal(net(x, y), energy)
    iterate_power(net)
    assert len(before) == 2 * sum(isinstance(layer, SpectralLayer) for layer in net.modules())
    assert not any(torch.equal(tensor, before[name]) for name, tensor in net.named_buffers())


@pytest.mark.parametrize(("activation", "end"), [("leaky", F.relu), ("swish", F.silu)])
def test_the_energy_sums_the_last_units_over_space(activation, end):
    net, last = resnet(activation=activation), []
    net.blocks[-1].register_forward_hook(lambda block, inputs, output: last.append(output))
    energy = net(torch.randn(3, 2, 8, 8).double())
    assert last[0].shape == (3, 6, 2, 2)
    torch.testing.assert_close(energy, end(last[0]).sum((2, 3)) @ net.head.weight[0] + net.head.bias)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, "meta"], ids=str)
def test_the_default_dtype_and_device_do_not_matter_to_weights_made_on_a_device(default):
    with torch.device("cpu"):
        torch.manual_seed(1)
        want = SpectralResNet(8, 1, (4,), (1,), 2).state_dict()
    try:
        torch.set_default_dtype(torch.float32 if default == "meta" else default)
        with torch.device("meta" if default == "meta" else "cpu"):
            torch.manual_seed(1)
            got = SpectralResNet(8, 1, (4,), (1,), 2).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, tensor in want.items():
        assert (got[name].dtype, got[name].shape) == (torch.float32, tensor.shape)
        assert got[name].is_meta == (default == "meta")
        assert default == "meta" or torch.equal(got[name], tensor)


IMAGES, LABELS = torch.zeros(4, 2, 8, 8), torch.zeros(4, dtype=torch.int64)
WANTED = r"labels must be int64 \(n,\), a class below 3 for each image, got"
FORWARDS = [
    (3, {}, TypeError, rf"SpectralResNet: {WANTED} None"),
    (3, {"labels": LABELS.int()}, TypeError, rf"SpectralResNet: {WANTED} a int32 tensor"),
    (3, {"labels": LABELS[:1]}, TypeError, rf"SpectralResNet: {WANTED} a int64 tensor of shape \(1,\)"),
    (3, {"labels": [0, 1, 2, 0]}, TypeError, rf"SpectralResNet: {WANTED} \[0, 1, 2, 0\]"),
    (3, {"labels": LABELS + 3}, IndexError, "index out of range"),
    (3, {"labels": LABELS - 1}, IndexError, "index out of range"),
    (0, {"labels": LABELS}, TypeError, "SpectralResNet: labels must be None, there are no classes, got"),
    (
        0,
        {"kept0": IMAGES},
        TypeError,
        r"SpectralResNet: kept must be masks of kept0, kept1, kept2 or none, got \['kept0",
    ),
]


@pytest.mark.parametrize(("classes", "arguments", "error", "message"), FORWARDS)
def test_what_a_network_cannot_take_is_refused(classes, arguments, error, message):
    net = resnet(classes).float()
    with pytest.raises(error, match=message):
        net(IMAGES, **arguments)
    with pytest.raises(error, match=message):
        hatebm.langevin(net, IMAGES, 1, eps=0.1, energy_kwargs=arguments, seed=0)


def test_the_other_network_refuses_the_same_labels():
    with pytest.raises(TypeError, match=f"SpectralConvNet: {WANTED} None"):
        convnet(3)(IMAGES[:, :, 1:, 1:].double())


@pytest.mark.parametrize(
    ("size", "widths", "depths", "message"),
    [
        (12, (4, 4, 4), (1, 1, 1), "SpectralResNet: size must be a multiple of 8 .* got 12"),
        (0, (4,), (1,), "SpectralResNet: size must be a multiple of 2 .* got 0"),
        (8, (4, 4), (1,), r"SpectralResNet: depths must be a number of blocks for each of \(4, 4\), got \(1,\)"),
        (8, (), (), r"SpectralResNet: depths must be"),
    ],
)
def test_what_does_not_fit_together_is_refused(size, widths, depths, message):
    with pytest.raises(UsageError, match=message):
        SpectralResNet(size, 1, widths, depths)
