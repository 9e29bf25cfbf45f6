"""Convolutions of few channels: those of torch in float64, to rounding, and the same bits in any company."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hatebm.engine.prepare.stem import Stem, can_begin
from hatebm.ops.native.extension import _C, has_vectors

pytestmark = pytest.mark.skipif(_C is None or not has_vectors(), reason="no SIMD build of the kernels")
# Relative, L2: sums of at most 37 terms on the way there, of 9 * 64 in sixteen chains on the way back.
ROUNDING = 37 * 2.0**-24


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(a, b):
    return float((a.double() - b).norm() / b.norm())


def grad_of(function, x, g):
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, g)[0]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 4),
    sides=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    inputs=st.integers(1, 4),
    groups=st.integers(1, 4),
    has_bias=st.booleans(),
    rectified=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_stem_and_its_gradient_are_those_of_the_convolution(n, sides, inputs, groups, has_bias, rectified, seed):
    weight, bias = normal(16 * groups, inputs, 3, 3, seed=1), normal(16 * groups, seed=2) if has_bias else None
    x = normal(n, inputs, *sides, seed=seed)
    wide = None if bias is None else bias.double()

    def exact(v):
        return F.conv2d(F.relu(v.double()) if rectified else v.double(), weight.double(), wide, padding=1)

    def own(v):
        return Stem(weight, bias)(F.relu(v) if rectified else v)

    assert ((own(x) - exact(x)).abs() <= ROUNDING * (1 + exact(x).abs().max())).all()
    g = normal(n, 16 * groups, *sides, seed=seed + 1)
    if exact(x).abs().max() > 0:
        got, want = grad_of(own, x, g), grad_of(exact, x, g.double()).double()
        assert float((got - want).norm()) <= ROUNDING * float(want.norm())


def test_the_bits_depend_on_neither_company_nor_threads_nor_instruction_set_nor_layout():
    made, x = Stem(normal(32, 3, 3, 3, seed=1), normal(32, seed=2)), normal(5, 3, 9, 11)
    threads, chosen = torch.get_num_threads(), _C.instruction_set()
    g = normal(5, 32, 9, 11, seed=3)

    def run(x, g=g):
        return made(x), grad_of(made, x, g)

    whole = run(x)
    apart = [run(x[i : i + 2], g[i : i + 2]) for i in range(0, 5, 2)]
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


def test_what_has_no_stem():
    assert can_begin((32, 1, 3, 3), 1)
    assert can_begin((48, 4, 3, 3), 1)
    assert not any(can_begin(shape, 1) for shape in [(32, 5, 3, 3), (24, 3, 3, 3), (32, 3, 5, 5)])
    assert not can_begin((32, 3, 3, 3), 2)
