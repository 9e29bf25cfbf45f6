"""What the engine keeps for a run of weights and keyword arguments, and when it makes it again."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_nets import ROUNDING, apart, images, seeded, small_networks_are_worth_it  # noqa: F401
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hatebm import Chain
from hatebm.engine.prepare import prepare
from hatebm.nets import SpectralConvNet
from hatebm.ops.native.extension import _C, has_vectors


class Classed(nn.Module):
    """A convolution before a pool, and numbers of a class: two look-ups."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(64, 64, 3, padding=1)
        self.gains, self.biases = (nn.Parameter(torch.randn(3, 64)) for _ in range(2))

    def forward(self, x, y):
        h = F.avg_pool2d(self.layer(x), 2)
        return self.energy(h, F.embedding(y, self.gains.tanh())[:, :, None, None], F.embedding(y, self.biases))

    def energy(self, h, gain, bias):
        return (torch.tanh(h * gain).mean((2, 3)) * bias).sum(1)


class Written(Classed):
    """Numbers of a class that are written to between two uses."""

    def energy(self, h, gain, bias):
        before = h + gain
        gain.add_(1.0)
        return super().energy(before, gain, bias)


class LookUps(TorchDispatchMode):
    """Counts the rows that are looked up."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.embedding.default
        return func(*args, **(kwargs or {}))


def test_numbers_of_a_class_are_looked_up_again_after_a_change_alone():
    net, x, y = seeded(Classed), images(6), torch.tensor([0, 2, 1, 1, 0, 2])
    energy = prepare(net, [x], {"y": y}).energy

    def looked_up(labels=y):
        with torch.no_grad(), LookUps() as seen:
            got = energy(x, y=labels)
            count = seen.count
            torch.testing.assert_close(got, net(x, labels), rtol=0, atol=1e-5)
        return count

    def at_a_change(labels=y):
        return looked_up(labels), looked_up(labels)

    assert at_a_change() == (2, 0)
    y[0] = 2
    assert at_a_change() == (2, 0)
    with torch.no_grad():
        net.gains.add_(1.0)
    assert at_a_change() == (2, 0)
    net.biases = nn.Parameter(torch.randn(3, 64))
    assert at_a_change() == (2, 0)
    assert at_a_change(y.roll(1)) == (2, 0)
    memory = np.zeros(6, dtype=np.int64)
    for label in range(3):  # a new tensor may lie where the last one lay, and pass for it
        memory.fill(label)
        assert looked_up(torch.from_numpy(memory)) == 2
    with torch.inference_mode():
        traceless = y.clone()
    assert at_a_change(traceless) == (2, 2)


def test_labels_and_weights_that_a_callback_writes_to_are_those_of_the_next_step():
    def moved(compile):
        net, y = seeded(Classed), torch.tensor([0, 2, 1, 1, 0, 2])

        def callback(t, _):
            y.copy_((y + 1) % 3)
            net.gains.data = net.gains.data * 1.5

        chain = Chain(net, images(6), energy_kwargs={"y": y}, eps=0.3, seed=0, compile=compile)
        end = chain.run(4, callback=callback)
        assert compile == "off" or "folded" in chain.report()
        return end

    torch.testing.assert_close(moved("auto"), moved("off"), rtol=0, atol=1e-5)


def test_numbers_that_the_network_writes_to_are_made_at_each_call():
    net, x, y = seeded(Written), images(6), torch.tensor([0, 2, 1, 1, 0, 2])
    found = prepare(net, [x], {"y": y})
    assert "left alone" not in found.notes[0]
    for _ in range(2):
        torch.testing.assert_close(found.energy(x, y=y), net(x, y), rtol=0, atol=1e-5)


@pytest.mark.skipif(_C is None or not has_vectors(), reason="no SIMD build of the kernels")
def test_a_dense_layer_reads_pixel_after_pixel():
    net, x = seeded(lambda: SpectralConvNet(8, 1, (32, 64, 64), 16, activation="swish")), images(6, 1, 8)
    found = prepare(net, [x])
    assert "1 dense layers that read pixel after pixel" in found.notes[0]
    assert apart(found.energy, net, x) < ROUNDING
    with torch.no_grad():
        net.dense.weight.mul_(torch.linspace(1, 2, net.dense.weight.shape[1]))
    assert apart(found.energy, net, x) < ROUNDING
