"""Micro-benchmarks of the ops: `pytest benchmarks`."""

import pytest
import torch

import hatebm

SHAPE = (128, 3, 32, 32)
LAWS = {
    "plain": {},
    "clamp": {"clamp": (-1, 1)},
    "value clip": {"clip": ("value", 0.01), "clamp": (-1, 1)},
    "norm clip": {"clip": ("norm", 2.5), "clip_on": "update"},
    "tempered": {"temperature": 0.5, "prior_precision": 1.0},
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_langevin_step(benchmark, law):
    x, grad = torch.randn(SHAPE), torch.randn(SHAPE)
    benchmark(hatebm.ops.langevin_step_, x, grad, step_size=0.1, seed=0, step=0, **law)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_langevin_step_of_a_half_gradient(benchmark, dtype):
    x, grad = torch.randn(SHAPE), torch.randn(SHAPE).to(dtype)
    benchmark(hatebm.ops.langevin_step_, x, grad, step_size=0.1, seed=0, step=0)


def test_langevin_step_channels_last(benchmark):
    x, grad = (torch.randn(SHAPE).to(memory_format=torch.channels_last) for _ in range(2))
    benchmark(hatebm.ops.langevin_step_, x, grad, step_size=0.1, seed=0, step=0)


@pytest.mark.parametrize("clip", [None, ("norm", 2.5)], ids=str)
@pytest.mark.parametrize("shape", [SHAPE, (1024, 2)], ids=str)
def test_langevin_ratio(benchmark, shape, clip):
    tensors = [torch.randn(shape) for _ in range(4)]
    benchmark(hatebm.ops.langevin_ratio, *tensors, step_size=0.1, noise_std=0.3, clip=clip)


@pytest.mark.parametrize("n", [128, 100_000])
def test_metropolis(benchmark, n):
    benchmark(hatebm.ops.metropolis, torch.randn(n, dtype=torch.float64), seed=0, step=0)


@pytest.mark.parametrize("shape", [SHAPE, (1024, 2), (128, 100)], ids=str)
def test_normal(benchmark, shape):
    benchmark(hatebm.normal, shape, seed=0, step=0)


def test_langevin_on_a_double_well(benchmark):
    x = torch.randn(1024, 2)
    benchmark(hatebm.langevin, lambda x: ((x * x - 1) ** 2).sum(1), x, 100, eps=0.1, seed=0)
