"""Our own kernels in a network that learns: the gradients of torch in images and weights."""

import pytest
import torch
import torch.nn.functional as F
from engine_nets import seeded
from torch import nn

from hatebm.engine.prepare import trained
from hatebm.engine.prepare.trained import OwnKernels
from hatebm.ops.native.extension import _C, has_vectors

pytestmark = pytest.mark.skipif(_C is None or not has_vectors(), reason="no SIMD build of the kernels")
KINDS = {  # channels in and out, side of the kernel, stride, padding
    "filter": (16, 32, 3, 1, 1),
    "filter of a stride": (32, 16, 4, 2, 1),
    "image": (1, 16, 3, 1, 1),
    "stride": (16, 32, 4, 2, 2),
}
TAKEN = {"filter": "Filter", "filter of a stride": "Filter", "image": "Direct", "stride": "Direct"}


def derivatives(weight, x, stride, padding, g):
    weight, x = (v.detach().requires_grad_() for v in (weight, x))
    y = F.silu(F.conv2d(x, weight, stride=stride, padding=padding))
    return y, *torch.autograd.grad(y, (x, weight), g)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels_last"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_torch(kind, layout, monkeypatch):
    inputs, outputs, side, stride, padding = KINDS[kind]
    taken = []
    monkeypatch.setattr(
        trained, "_kernel_of", lambda *a, of=trained._kernel_of, **k: taken.append(of(*a, **k)) or taken[-1]
    )
    weight = seeded(lambda: nn.Conv2d(inputs, outputs, side)).weight.contiguous(memory_format=layout)
    x = torch.randn(3, inputs, 8, 8, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    g = torch.ones_like(F.conv2d(x, weight, stride=stride, padding=padding)).cumsum(1)
    with OwnKernels():
        got = derivatives(weight, x, stride, padding, g)
    assert [type(own).__name__ for own in taken] == [TAKEN[kind]]
    want = derivatives(weight.double(), x.double(), stride, padding, g.double())
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() < 1e-5 * b.norm()


def test_what_has_no_kernel_is_left_to_torch():
    x, weight = (v.requires_grad_() for v in (torch.randn(2, 16, 8, 8), torch.randn(32, 16, 3, 3)))
    bias = torch.randn(32)
    calls = [
        lambda: F.conv2d(x, weight, bias, stride=1, padding=1),
        lambda: F.conv2d(x, weight, stride=1, padding="same"),
        lambda: F.conv2d(x, weight[:, :1], stride=1, padding=1, groups=16),
        lambda: F.conv2d(x, weight[:30], stride=1, padding=1),
        lambda: F.conv2d(x.double(), weight.double(), stride=1, padding=1),
        lambda: F.silu(x.double()),
        lambda: F.silu(x.detach().clone(), inplace=True),
    ]
    for call in calls:
        with OwnKernels():
            got = call()
        assert torch.equal(got, call())
        assert got.grad_fn is None or "Learned" not in type(got.grad_fn).__name__
    with OwnKernels(), pytest.raises(RuntimeError):
        F.conv2d(x, weight[:, :1], stride=1, padding=1)
