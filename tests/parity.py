"""Steps that every backend takes to the same bits, and how the bits are compared."""

import torch

import hatebm

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
    n = x.shape[0]
    out = {
        "x": x.clone(),
        "image": torch.empty_like(x),
        "grad_norm": torch.full((n,), -1.0, dtype=x.dtype, device=x.device),
        "displacement": torch.full((n,), -1.0, dtype=x.dtype, device=x.device),
        "diverged": torch.full((n,), 2**62, device=x.device),
    }
    gathered = {k: v for k, v in out.items() if k != "x"}
    law = {"step_size": 0.1, "seed": 3, "step": 2**34 + 9} | law
    hatebm.ops.langevin_step_(out["x"], grad, gz=torch.ones_like(x), backend=backend, **gathered, **law)
    return out


def proposed(shape, dtype=torch.float32):
    """A state, a proposal and the gradients there, over many orders of magnitude."""
    wide = [torch.randn(shape) * 10 ** torch.empty(shape).uniform_(-3, 2) for _ in range(4)]
    return wide[0], wide[1].to(dtype), wide[0] + wide[2], wide[3].to(dtype)


def ratio(operands, backend, **law):
    """The log ratio of a proposal, named as ``assert_same_bits`` wants it."""
    law = {"step_size": 0.1, "noise_std": 0.3} | law
    return {"log_ratio": hatebm.ops.langevin_ratio(*operands, backend=backend, **law)}


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
