"""Steps that every backend takes to the same bits, and how the bits are compared."""

from itertools import cycle, islice

import torch

import hatebm
from hatebm.ops import reference
from hatebm.ops.backend import module_for

LAWS = {
    "plain": {},
    "descent": {"noise_std": 0.0},
    "increment": {"add": "increment"},
    "fma": {"add": "fma"},
    "tempered": {"temperature": 0.3, "prior_precision": 0.7},
    "value": {"clip": ("value", 0.4), "clamp": (-1.0, 1.0)},
    "value update": {"clip": ("value", 0.03), "clip_on": "update", "add": "fma"},
    "norm": {"clip": ("norm", 1.5), "prior_precision": 0.2},
    "norm update": {"clip": ("norm", 0.2), "clip_on": "update", "add": "fma", "clamp": (None, 0.5)},
}

OF_THE_DRIFT = ("temperature", "prior_precision", "clip", "clip_on")
RATIOS = {name: {k: law[k] for k in OF_THE_DRIFT if k in law} for name, law in LAWS.items() if "clip" in law}
RATIOS |= {
    "plain": {},
    "tempered": {"temperature": 0.3, "prior_precision": 0.7},
    "kinetic": {"step_size": 0.0, "noise_std": 1.0, "prior_precision": 1.0},
}


def run(x, grad, backend, **law):
    """A step on a copy of x: the new state and everything that was gathered on the way."""
    gathered = _gathered(x)
    law = {"step_size": 0.1, "seed": 3, "step": 2**34 + 9} | law
    moved = hatebm.ops.langevin_step_(x.clone(), grad, gz=torch.ones_like(x), backend=backend, **gathered, **law)
    return {"x": moved} | gathered


def _gathered(x):
    n = x.shape[0]
    return {
        "image": torch.empty_like(x),
        "grad_norm": torch.full((n,), -1.0, dtype=x.dtype, device=x.device),
        "displacement": torch.full((n,), -1.0, dtype=x.dtype, device=x.device),
        "diverged": torch.full((n,), 2**62, device=x.device),
    }


ONES = dict.fromkeys(("step_size", "noise_std", "prior_precision"), 1.0)  # floats beside which numbers stand for all


def own_numbers(n, noise=(0.3, 0.0, 0.7)):
    """Numbers of n laws, (5, n): some steps, noises and priors are 0, some clips leave the gradient as it is."""
    rows = (0.1, 0.02, 0.0, -0.05), noise, (1.0, 3.3, 0.2, 1.0, 0.5), (0.0, 0.7), (1.5, 0.03, 1e3, 0.4, 0.0, 2.0, 0.2)
    return torch.tensor([list(islice(cycle(row), n)) for row in rows])


def signed_zeros(shape):
    """A state and a gradient with zeros of both signs, whose sums tell whether a 0 was added."""
    x, grad = torch.randn(shape), torch.randn(shape)
    x[..., ::3], x[..., 1::6], grad[..., ::2] = -0.0, 0.0, 0.0
    return x, grad


def run_own(x, grad, backend, numbers, **law):
    """As :func:`run` with ``numbers`` of each chain's own, (5, n) or (5, 1), as the doors hand them on."""
    moved, gathered = x.clone(), _gathered(x)
    law = ONES | {"seed": 3, "step": 2**34 + 9, "numbers": numbers} | law
    kernels = module_for("langevin_step_", backend, x.device)
    kernels.langevin_step_(moved, grad, gz=torch.ones_like(x), **gathered, **law)
    return {"x": moved} | gathered


def proposed(shape, dtype=torch.float32):
    """A state, a proposal and the gradients there, over many orders of magnitude."""
    wide = [torch.randn(shape) * 10 ** torch.empty(shape).uniform_(-3, 2) for _ in range(4)]
    return wide[0], wide[1].to(dtype), wide[0] + wide[2], wide[3].to(dtype)


def ratio(operands, backend, **law):
    """The log ratio of a proposal, named as ``assert_same_bits`` wants it."""
    law = {"step_size": 0.1, "noise_std": 0.3} | law
    return {"log_ratio": hatebm.ops.langevin_ratio(*operands, backend=backend, **law)}


def ratio_own(operands, backend, numbers, **law):
    """As :func:`ratio` with ``numbers`` of each chain's own."""
    noise_std, prior_precision = numbers.double()[[1, 3]]
    halves = torch.stack(reference.ratio_coefficients(noise_std, prior_precision))
    law = ONES | {"numbers": numbers, "halves": halves} | law
    return {"log_ratio": module_for("langevin_ratio", backend, numbers.device).langevin_ratio(*operands, **law)}


def assert_same_bits(got, want):
    for name in want:
        left, right = got[name].cpu(), want[name].cpu()
        if left.is_floating_point():
            left, right = (v.contiguous().view(torch.int32) for v in (left, right))
        assert torch.equal(left, right), f"{name}: {(left != right).sum()} elements differ"


def layouts(x):
    """The same values in other memory orders."""
    yield "channels_last", x.to(memory_format=torch.channels_last)
    yield "transposed", x.transpose(0, 2).contiguous().transpose(0, 2)
    yield "flipped dims", x.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    yield "slice", torch.stack([x, x], -1)[..., 0]
    yield "chain inside", x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
