"""Parameters and multiply-accumulates of the published networks, counted by hand and by running them without data."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hatebm.nets import (
    Decoder,
    Discriminator,
    Encoder,
    ResidualEnergy,
    ResidualGenerator,
    SpectralConvNet,
    SpectralResNet,
)


def halving_blocks(size: int, channels: int, widths: Sequence[int], pooled: Container[int], plain: bool) -> int:
    """Multiply-accumulates of an energy's blocks.

    The plain form convolves, then pools, but for the stem's shortcut. The exact algebra makes conv3 and pool one 4x4
    convolution at the low resolution and pools before every 1x1.
    """
    macs, side = 0, size
    for i, (a, b) in enumerate(pairwise((channels, *widths))):
        low = side // 2 if i in pooled else side
        macs += 9 * a * b * side**2
        macs += 16 * b * b * low**2 if low < side and not plain else 9 * b * b * side**2
        if low < side or a != b:
            macs += a * b * (side if plain and i > 0 else low) ** 2
        side = low
    return macs


def doubling_blocks(side: int, widths: Sequence[int], doubled: Container[int], plain: bool) -> int:
    """Multiply-accumulates of a generator's blocks; the plain form has its 1x1 convolutions after the upsampling."""
    macs = 0
    for i, (a, b) in enumerate(pairwise(widths)):
        high = 2 * side if i in doubled else side
        macs += 9 * (a + b) * b * high**2
        if high > side or a != b:
            macs += a * b * (high if plain else side) ** 2
        side = high
    return macs


def energy(size: int, widths: Sequence[int], pools: int, plain: bool) -> int:
    return halving_blocks(size, 3, widths, range(pools), plain) + widths[-1]


def generator(size: int, widths: Sequence[int], plain: bool) -> int:
    blocks = doubling_blocks(4, widths, range(len(widths) - 1), plain)
    return 128 * widths[0] * 4**2 + blocks + 9 * widths[-1] * 3 * size**2


def encoder(widths: Sequence[int], plain: bool) -> int:
    return halving_blocks(32, 3, widths, {1}, plain) + 9 * widths[-1] * 16**2


def decoder(widths: Sequence[int], plain: bool) -> int:
    return doubling_blocks(16, (1, *widths), {1}, plain) + 9 * widths[-1] * 3 * 32**2


@dataclass(frozen=True)
class Published:
    """A network, its hand count of multiply-accumulates, and the published figures: parameters in M, MAC in G."""

    make: Callable[[], nn.Module]
    by_hand: Callable[[bool], int]
    inputs: tuple[int, ...]
    params: float
    macs: float | None = None


def published_energy(size: int, widths: Sequence[int], pools: int, params: float, macs: float) -> Published:
    make, by_hand = lambda: ResidualEnergy(size, 3, widths, pools), lambda plain: energy(size, widths, pools, plain)
    return Published(make, by_hand, (3, size, size), params, macs)


def published_generator(size: int, widths: Sequence[int], params: float, macs: float) -> Published:
    make, by_hand = lambda: ResidualGenerator(size, 3, 128, widths), lambda plain: generator(size, widths, plain)
    return Published(make, by_hand, (128,), params, macs)


PUBLISHED = {
    "energy32": published_energy(32, (256,) * 4, 2, 4.20, 1.08),
    "energy64": published_energy(64, (64, 128, 256, 512, 1024), 5, 19.5, 1.10),
    "energy128": published_energy(128, (64, 128, 256, 512, 1024, 1024), 5, 38.4, 4.69),
    "energy128-large": published_energy(128, (128, 256, 512, 1024, 2048, 2048), 5, 153.7, 18.7),
    "generator32": published_generator(32, (256,) * 4, 4.28, 1.68),
    "generator64": published_generator(64, (1024, 512, 256, 128, 64), 12.2, 1.95),
    "generator128": published_generator(128, (1024, 1024, 512, 256, 128, 64), 32.2, 9.09),
    "generator128-large": published_generator(128, (2048, 2048, 1024, 512, 256, 128), 124, 36.3),
    "encoder": Published(
        lambda: Encoder(32, 3, 16, (256,) * 4), lambda plain: encoder((256,) * 4, plain), (3, 32, 32), 4.2
    ),
    "decoder": Published(
        lambda: Decoder(32, 3, 16, (256,) * 4), lambda plain: decoder((256,) * 4, plain), (1, 16, 16), 4.21, 3.85
    ),
}
each_net = pytest.mark.parametrize("net", PUBLISHED.values(), ids=PUBLISHED.keys())


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def macs_per_image(net: nn.Module, inputs: tuple[int, ...]) -> int:
    """What a second image adds: preparing the weights does not count."""

    def macs(images: int) -> int:
        labels = [torch.empty(images, dtype=torch.int64, device="meta")] if getattr(net, "classes", 0) else []
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(images, *inputs, device="meta"), *labels)
        return counter.get_total_flops() // 2

    return macs(2) - macs(1)


@each_net
def test_networks_have_the_published_number_of_parameters(net):
    with torch.device("meta"):
        built = net.make()
    assert parameters(built) / 1e6 == pytest.approx(net.params, rel=4e-3)


@each_net
def test_the_plain_form_has_the_published_number_of_multiplications(net):
    if net.macs is not None:
        assert net.by_hand(True) / 1e9 == pytest.approx(net.macs, rel=6e-3)


@each_net
def test_our_form_has_the_multiplications_that_exact_algebra_leaves(net):
    with torch.device("meta"):
        built = net.make()
    assert macs_per_image(built, net.inputs) == net.by_hand(False) < net.by_hand(True)


def test_generators_of_every_size_begin_at_4x4():
    with torch.device("meta"):
        assert {net.make().side for name, net in PUBLISHED.items() if name.startswith("generator")} == {4}


def test_a_discriminator_costs_what_the_energy_of_its_widths_costs():
    with torch.device("meta"):
        discriminator, twin = Discriminator(32, 3, (128,) * 4, 2), ResidualEnergy(32, 3, (128,) * 4, 2)
    assert parameters(discriminator) == parameters(twin) + 1
    assert macs_per_image(discriminator.eval(), (3, 32, 32)) == energy(32, (128,) * 4, 2, plain=False)


def spectral_resnet(size, channels, stem, widths, depths, classes) -> tuple[int, int, int]:
    """Parameters and multiply-accumulates, plain and by exact algebra.

    A stem, then blocks of two or, where they widen, three 3x3 convolutions. Where a block halves, the last of these and
    the pool are 4x4 convolutions at the low resolution.
    """
    side, a, params, plain, ours = size, stem, 9 * channels * stem, 0, 0
    for width, depth in zip(widths, depths, strict=True):
        for i in range(depth):
            first, last, low = 9 * a * width, width * (width + (a if a != width else 0)), side // 2 if i == 0 else side
            params += first + 9 * last + max(classes, 1) * (a + width + width)
            plain += (first + 9 * last) * side**2
            ours += first * side**2 + (16 if i == 0 else 9) * last * low**2
            a, side = width, low
    others = 9 * channels * stem * size**2 + a
    return params + a + 1, plain + others, ours + others


def spectral_convnet(size, channels, widths, hidden, classes) -> tuple[int, int, int]:
    """The same of a 3x3 convolution, 4x4 ones that halve, and two dense layers."""
    side, params, macs = size, 0, 0
    for i, (a, b) in enumerate(pairwise((channels, *widths))):
        kernel, side = (16, -(-side // 2)) if i else (9, side)
        params += kernel * a * b + max(classes, 1) * (a + b)
        macs += kernel * a * b * side**2
    flat = widths[-1] * side**2
    return params + flat * hidden + hidden + hidden + 1, *[macs + flat * hidden + hidden] * 2


def resnet(size, channels, stem, widths, depths, classes):
    """The network without data, the shape of its images, its parameters and multiply-accumulates."""
    with torch.device("meta"):
        net = SpectralResNet(size, channels, widths, depths, classes, stem=stem)
    return net, (channels, size, size), spectral_resnet(size, channels, stem, widths, depths, classes)


def convnet(size, channels, widths, hidden, classes):
    """The same of the other kind."""
    with torch.device("meta"):
        net = SpectralConvNet(size, channels, widths, hidden, classes)
    return net, (channels, size, size), spectral_convnet(size, channels, widths, hidden, classes)


# Published are MNIST's alone, of 1.25 M parameters and 28.6 M multiply-accumulates; the others by hand: in millions.
SPECTRAL = {
    "mnist": (lambda: convnet(28, 1, (64, 64, 128, 256), 128, 0), 1.25, 28.6),
    "small": (lambda: convnet(28, 1, (16, 16, 32, 64), 32, 10), 0.080, 1.87),
    "dsprites": (lambda: convnet(64, 1, (32, 64, 128, 128, 128), 128, 3), 0.953, 89.5),
    "resnet32": (lambda: resnet(32, 3, 128, (128, 256, 256), (2, 2, 2), 10), 5.35, 853),
    "large": (lambda: resnet(32, 3, 128, (128, 256, 512), (3, 3, 3), 0), 18.6, 1362),
    "wider": (lambda: resnet(32, 3, 128, (256, 512, 1024), (3, 3, 3), 1000), 89.6, 5439),
    "resnet128": (lambda: resnet(128, 3, 64, (64, 128, 256, 512, 512), (1, 1, 1, 1, 2), 1000), 21.2, 5238),
}


@pytest.mark.parametrize(("make", "params", "macs"), SPECTRAL.values(), ids=SPECTRAL)
def test_an_igebm_costs_what_its_layers_do(make, params, macs):
    net, inputs, (params_by_hand, plain, ours) = make()
    assert parameters(net) == params_by_hand == pytest.approx(params * 1e6, rel=6e-3)
    assert macs_per_image(net, inputs) == ours
    assert plain == pytest.approx(macs * 1e6, rel=6e-3)
