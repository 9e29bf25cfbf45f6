"""Convolutions by minimal filtering: those of torch in float64, to rounding, and the same bits in any company."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hatebm.engine.prepare import winograd
from hatebm.engine.prepare.activations import PLAIN, RELU
from hatebm.engine.prepare.winograd import Filter
from hatebm.ops.native.extension import _C, has_vectors

# Relative, L2. The transforms take sums of up to nine products whose terms are up to 2.8 times as large as their result
# along each side: a rounding error of 6e-8 becomes one of less than 60 of these, and that of a random walk far less.
ROUNDING = 60 * 2.0**-24
SIDES = {1: 3, 2: 4}

pytestmark = pytest.mark.skipif(_C is None or not has_vectors(), reason="no SIMD build of the kernels")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(stride, inputs=32, outputs=48):
    weight = normal(outputs, inputs, SIDES[stride], SIDES[stride], seed=1)
    return weight, normal(outputs, seed=2)


def apart(a, b):
    return float((a.double() - b).norm() / b.norm())


def grad_of(function, x, g):
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, g)[0]


@pytest.mark.parametrize("stride", [1, 2])
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    sides=st.tuples(st.integers(1, 21), st.integers(1, 21)),
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    has_bias=st.booleans(),
    activation=st.sampled_from([None, RELU, ("silu", 0.0), ("elu", 0.7)]),
    seed=st.integers(0, 1000),
)
def test_a_filter_and_its_gradient_are_those_of_the_convolution(stride, n, sides, channels, has_bias, activation, seed):
    rows, columns = (max(side, stride) for side in sides)
    inputs, outputs = (16 * c for c in channels)
    weight, bias = layer(stride, inputs, outputs)
    bias = bias if has_bias else None
    x = normal(n, inputs, rows, columns, seed=seed)
    made = Filter(weight, bias, stride)
    wide = None if bias is None else bias.double()

    def exact(v):
        v = v.double() if activation is None else PLAIN[activation[0]](v.double(), activation[1])
        return F.conv2d(v, weight.double(), wide, stride=stride, padding=1)

    def own(v):
        return made(v, activation)

    assert apart(own(x), exact(x)) < ROUNDING
    g = normal(*exact(x).shape, seed=seed + 1)
    assert apart(grad_of(own, x, g), grad_of(exact, x, g.double()).double()) < ROUNDING


@pytest.mark.parametrize("stride", [1, 2])
def test_a_large_sum_over_channels_keeps_float32(stride):
    weight, bias = layer(stride, 512, 32)
    x = normal(2, 512, 8, 8)
    own = apart(Filter(weight, bias, stride)(x), F.conv2d(x.double(), weight.double(), bias.double(), stride, 1))
    assert own < 1e-5


@pytest.mark.parametrize("stride", [1, 2])
def test_the_bits_of_an_image_depend_on_nothing_else(stride):
    made, x = Filter(*layer(stride), stride), normal(7, 32, 10, 13)
    g = normal(*made(x).shape, seed=3)
    whole = made(x), grad_of(made, x, g)
    parts = [(made(x[i : i + 3]), grad_of(made, x[i : i + 3], g[i : i + 3])) for i in range(0, 7, 3)]
    alone = [(made(x[i : i + 1]), grad_of(made, x[i : i + 1], g[i : i + 1])) for i in range(7)]
    for pieces in (parts, alone):
        for k in range(2):
            assert torch.equal(torch.cat([piece[k] for piece in pieces]), whole[k])


@pytest.mark.parametrize("stride", [1, 2])
def test_the_bits_depend_on_neither_threads_nor_instruction_set_nor_layout(stride):
    weight, bias = layer(stride)
    x, threads, chosen = normal(9, 32, 12, 12), torch.get_num_threads(), _C.instruction_set()

    def run(x):
        made = Filter(weight, bias, stride)
        return made(x), grad_of(made, x, torch.ones_like(made(x)))

    first = run(x)
    others = [run(x.contiguous(memory_format=torch.channels_last)), run(x.transpose(2, 3).contiguous().transpose(2, 3))]
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            others.append(run(x))
        for name in set(_C.instruction_sets()) - {"baseline"}:
            _C.use_instruction_set(name)
            others.append(run(x))
    finally:
        torch.set_num_threads(threads)
        _C.use_instruction_set(chosen)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_nan_is_seen_and_stays_in_its_image(stride, rectified):
    made, x = Filter(*layer(stride), stride), normal(3, 32, 8, 8)
    clean = made(x, RELU if rectified else None)
    x[1, 5, 3, 3] = torch.nan
    seen = made(x, RELU if rectified else None)
    assert seen[1].isnan().any()
    assert torch.equal(seen[[0, 2]], clean[[0, 2]])


def test_weights_and_biases_of_any_layout():
    x = normal(2, 32, 8, 8)
    weight, bias = layer(1)
    turned = weight.transpose(2, 3).contiguous().transpose(2, 3)
    spread = torch.stack([bias, bias], 1)[:, 0]
    assert torch.equal(Filter(turned, spread, 1)(x), Filter(weight, bias, 1)(x))


def test_no_second_derivative_is_given_wrongly():
    made, x = Filter(*layer(1), 1), normal(1, 32, 4, 4).requires_grad_()
    first = torch.autograd.grad(made(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("weight", "stride"),
    [
        ((32, 32, 3, 3), 2),
        ((32, 32, 4, 4), 1),
        ((32, 32, 5, 5), 1),
        ((32, 24, 3, 3), 1),
        ((8, 32, 3, 3), 1),
        ((1024, 512, 3, 3), 1),
    ],
)
def test_what_has_no_filter(weight, stride):
    assert not winograd.can_filter(weight, stride)
    assert winograd.can_filter((32, 48, 3, 3), 1)
    assert winograd.can_filter((48, 32, 4, 4), 2)


def test_no_filter_without_vectors():
    chosen = _C.instruction_set()
    try:
        _C.use_instruction_set("baseline")
        assert not winograd.can_filter((32, 48, 3, 3), 1)
    finally:
        _C.use_instruction_set(chosen)


def test_filters_pay_where_tiles_waste_little():
    assert all(winograd.pays(1, side, side) for side in (4, 7, 8, 16, 32))
    assert all(winograd.pays(2, side, side) for side in (8, 14, 16, 32))
    assert not any(winograd.pays(1, side, side) for side in (1, 2))
    assert not any(winograd.pays(2, side, side) for side in (2, 4, 10))
