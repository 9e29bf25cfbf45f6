"""Convolutions of few channels: those of torch in float64, to rounding, and the same bits in any company."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hatebm.engine.prepare.direct import Direct, can_convolve
from hatebm.engine.prepare.nodes import Convolution, padding_of
from hatebm.ops.native.extension import _C, has_vectors

pytestmark = pytest.mark.skipif(_C is None or not has_vectors(), reason="no SIMD build of the kernels")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(a, b):
    return float((a.double() - b).norm() / b.norm())


def grad_of(function, x, g):
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, g)[0]


@settings(max_examples=100, deadline=None)
@given(
    n=st.sampled_from([1, 2, 3, 4, 9]),
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    inputs=st.sampled_from([1, 2, 3, 4, 16, 32]),
    groups=st.integers(1, 4),
    kind=st.tuples(st.integers(3, 7), st.integers(1, 2), st.integers(0, 6)),
    has_bias=st.booleans(),
    rectified=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_convolution_and_its_gradient_are_those_of_torch(n, sides, inputs, groups, kind, has_bias, rectified, seed):
    side, stride, padding = kind[0], kind[1], min(kind[2], kind[0] - 1)
    assume(min(sides) + 2 * padding >= side)
    weight, bias = normal(16 * groups, inputs, side, side, seed=1), normal(16 * groups, seed=2) if has_bias else None
    x = normal(n, inputs, *sides, seed=seed)
    rounding = (side**2 * max(inputs, 16 * groups) + 1) * 2.0**-24  # relative: each term of a sum may be off by one
    wide = None if bias is None else bias.double()

    def exact(v):
        v = F.relu(v.double()) if rectified else v.double()
        return F.conv2d(v, weight.double(), wide, stride=stride, padding=padding)

    def own(v):
        return Direct(weight, bias, stride, padding)(F.relu(v) if rectified else v)

    assert ((own(x) - exact(x)).abs() <= rounding * (1 + exact(x).abs().max())).all()
    g = normal(*exact(x).shape, seed=seed + 1)
    if exact(x).abs().max() > 0:
        got, want = grad_of(own, x, g), grad_of(exact, x, g.double()).double()
        assert float((got - want).norm()) <= rounding * float(want.norm())


@pytest.mark.parametrize(
    ("kind", "sides"),
    [
        *(((3, 3, 1, 1), (9, 11)), ((3, 5, 2, 4), (9, 11)), ((16, 3, 2, 1), (9, 11))),
        *(((32, 4, 2, 1), (4, 5)), ((16, 6, 1, 2), (4, 3)), ((16, 5, 2, 1), (6, 4))),  # a row of results fills no tile
    ],
)
def test_the_bits_depend_on_neither_company_nor_threads_nor_instruction_set_nor_layout(kind, sides):
    inputs, side, stride, padding = kind
    made = Direct(normal(32, inputs, side, side, seed=1), normal(32, seed=2), stride, padding)
    x = normal(13, inputs, *sides)
    threads, chosen = torch.get_num_threads(), _C.instruction_set()
    g = normal(*made(x).shape, seed=3)

    def run(x, g=g):
        return made(x), grad_of(made, x, g)

    whole = run(x)
    apart = [run(x[i : i + 2], g[i : i + 2]) for i in range(0, 13, 2)]
    others = [tuple(torch.cat(pieces) for pieces in zip(*apart, strict=True))]
    others.append(run(x.contiguous(memory_format=torch.channels_last)))
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
        assert all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


def test_what_is_left_to_torch():
    assert can_convolve((32, 1, 3, 3), 1, 1)
    assert can_convolve((48, 4, 3, 3), 2, 0)
    assert can_convolve((16, 1, 5, 5), 2, 4)
    assert can_convolve((128, 128, 3, 3), 2, 1)
    assert not any(can_convolve(shape, 1, 1) for shape in [(32, 5, 3, 3), (24, 3, 3, 3), (32, 3, 3, 5), (32, 3, 1, 1)])
    assert not any(can_convolve(shape, 2, 1) for shape in [(32, 24, 3, 3), (256, 128, 3, 3)])
    assert not can_convolve((32, 3, 3, 3), 3, 1)
    assert not can_convolve((32, 3, 3, 3), 1, 3)
    assert not can_convolve((32, 32, 3, 3), 1, 1)
    assert padding_of(Convolution((16, 3, 4, 4), (1, 1), "same", 1, True)) is None
