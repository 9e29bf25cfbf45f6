"""Activations of the MLP kernel against float64, and their bits on every instruction set."""

import pytest
import torch
from torch.nn import functional as F

from hatebm import _C
from hatebm.engine.prepare.activations import values_and_slopes
from hatebm.ops.native.chains import ACTIVATIONS

FUNCTIONS = {
    "relu": (F.relu, 0.0),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), 0.2),
    "silu": (F.silu, 0.0),
    "softplus": (F.softplus, 0.0),
    "tanh": (torch.tanh, 0.0),
    "gelu": (F.gelu, 0.0),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), 0.0),
    "elu": (lambda x: F.elu(x, 0.7), 0.7),
}
ULP = 2.0**-23


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_and_slopes_are_within_four_ulp(name, instruction_set):
    function, parameter = FUNCTIONS[name]
    wide = torch.randn(20_000) * 10 ** torch.empty(20_000).uniform_(-6, 1.5)
    x = torch.cat([torch.linspace(-30, 30, 60_001), wide, torch.tensor([0.0, -0.0, 1e3, -1e3])])
    values, slopes = torch.empty_like(x), torch.empty_like(x)
    kind = ACTIVATIONS.index(name)
    _C.activation(kind, parameter, len(x), *(v.data_ptr() for v in (x, values, slopes)), 1)
    leaf = x.double().requires_grad_()
    exact = function(leaf)
    slope = torch.autograd.grad(exact.sum(), leaf)[0]
    for got, want in ((values, exact.detach()), (slopes, slope)):
        assert ((got - want).abs() <= 4 * ULP * want.abs().clamp(min=1)).all()
    if name in ("silu", "softplus", "tanh", "elu"):  # down to the smallest, as long as e^x is a normal number
        near = x.abs() < 80
        assert ((values - exact).abs() <= 4 * ULP * exact.abs() + 1e-37)[near].all()


@pytest.mark.parametrize("rows", [(1, 5), (5, 1), (None, 1), (5, None)], ids=str)
@pytest.mark.parametrize("channels", [16, 48])
def test_gains_and_shifts_of_channels_are_those_of_three_steps(rows, channels, instruction_set):
    x = torch.randn(5, channels, 7, 13).contiguous(memory_format=torch.channels_last)
    gain, shift = (None if n is None else torch.randn(n, channels, 1, 1) for n in rows)
    gained = x if gain is None else x * gain
    values, slopes = values_and_slopes(gained.contiguous(), "leaky_relu", 0.2)
    got = values_and_slopes(x, "leaky_relu", 0.2, gain, shift)
    assert torch.equal(got[0], values if shift is None else values + shift)
    assert torch.equal(got[1], slopes if gain is None else slopes * gain)
    others = (v.contiguous() for v in values_and_slopes(x.contiguous(), "leaky_relu", 0.2, gain, shift))
    assert all(map(torch.equal, got, others))


def test_no_images_have_no_values(instruction_set):
    x, numbers = torch.empty(0, 32, 4, 4), torch.ones(1, 32, 1, 1)
    for gain, shift in ((numbers, None), (None, numbers), (numbers[:0], numbers)):
        assert [v.shape for v in values_and_slopes(x, "silu", 0.0, gain, shift)] == [x.shape] * 2


def test_an_activation_has_the_same_bits_on_every_instruction_set():
    x = torch.randn(5000) * 10
    seen = {}
    for isa in _C.instruction_sets():
        _C.use_instruction_set(isa)
        for name, (_, parameter) in FUNCTIONS.items():
            values, slopes = torch.empty_like(x), torch.empty_like(x)
            kind = ACTIVATIONS.index(name)
            _C.activation(kind, parameter, len(x), *(v.data_ptr() for v in (x, values, slopes)), 1)
            values, slopes = values.view(torch.int32), slopes.view(torch.int32)
            first = seen.setdefault(name, (values, slopes))
            assert torch.equal(values, first[0]), (isa, name)
            assert torch.equal(slopes, first[1]), (isa, name)
    _C.use_instruction_set(_C.instruction_sets()[0])
