"""Steps and ratios of chains that have laws of their own, on the CPU: the bits of the reference, and of each alone."""

import pytest
import torch
from parity import ONES, assert_same_bits, own_numbers, proposed, ratio_own, run_own, signed_zeros

import hatebm
from hatebm.ops import reference
from hatebm.ops.law_numbers import NUMBERS

SHAPES = [(71, 2, 4), (43, 7), (1030, 1), (9, 513), (5, 1028), (3, 9001), (1, 5), (0, 3), (4, 0)]
COMMON = {"low": -1.5, "high": 2.0}


@pytest.mark.parametrize("clip_on", ["grad", "update"])
@pytest.mark.parametrize("clip", [None, "value", "norm"])
@pytest.mark.parametrize("add", ["sequential", "increment", "fma"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_step_has_the_reference_bits(shape, add, clip, clip_on, instruction_set):
    x, grad = signed_zeros(shape)
    law = COMMON | {"add": add, "clip": clip, "clip_on": clip_on}
    for numbers in (own_numbers(len(x)), own_numbers(1), torch.stack([own_numbers(len(x))] * 2, -1)[..., 0]):
        want = run_own(x, grad, "reference", numbers, **law)
        assert_same_bits(run_own(x, grad, "cpu", numbers, **law), want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None], ids=str)
@pytest.mark.parametrize("shape", [(71, 8), (43, 7), (3, 1100)], ids=str)
def test_gradients_of_every_type(shape, dtype, instruction_set):
    x, grad = torch.randn(shape), None if dtype is None else torch.randn(shape).to(dtype)
    for law in ({"clip": "norm"}, {"noise": torch.randn(shape), "add": "fma"}, {"noise_std": 0.0}):
        numbers = own_numbers(len(x))
        assert_same_bits(run_own(x, grad, "cpu", numbers, **law), run_own(x, grad, "reference", numbers, **law))


@pytest.mark.parametrize("shape", [(43, 7), (5, 1028)], ids=str)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_each_chain_is_itself_alone(shape, backend):
    x, grad = signed_zeros(shape)
    numbers = own_numbers(len(x))
    step_size, noise_std, inverse, prior, bound = numbers
    law = {
        "step_size": step_size,
        "noise_std": noise_std,
        "temperature": 1 / inverse.double(),
        "prior_precision": prior,
    }
    fixed = {"clip_on": "update", "clamp": (-1.5, 2.0), "add": "fma", "seed": 3, "step": 5, "backend": backend}
    own = {name: hatebm.per_chain(value) for name, value in law.items()} | {
        "clip": ("norm", hatebm.per_chain(bound + 0.1))
    }
    together = hatebm.ops.langevin_step_(x.clone(), grad, **own, **fixed)
    for c in range(len(x)):
        alone = {name: value[c].item() for name, value in law.items()} | {"clip": ("norm", (bound + 0.1)[c].item())}
        one = hatebm.ops.langevin_step_(x[c : c + 1].clone(), grad[c : c + 1], **alone, **fixed, chain_ids=[c])
        assert_same_bits({"x": one}, {"x": together[c : c + 1]})


def test_noise_of_0_and_a_prior_of_0_add_nothing(instruction_set):
    x, grad, eps = torch.randn(9, 7), torch.randn(9, 7), torch.randn(9, 7)
    numbers = own_numbers(9)
    eps[numbers[1] == 0], x[numbers[3] == 0, 2] = torch.inf, torch.inf
    got = run_own(x, grad, "cpu", numbers, noise=eps)
    assert not got["x"].isnan().any()
    assert_same_bits(got, run_own(x, grad, "reference", numbers, noise=eps))
    for law in ({"noise_std": 0.0}, {"prior_precision": 0.0}, dict.fromkeys(("noise_std", "prior_precision"), 0.0)):
        assert_same_bits(run_own(x, grad, "cpu", numbers, **law), run_own(x, grad, "reference", numbers, **law))


@pytest.mark.parametrize("clip_on", ["grad", "update"])
@pytest.mark.parametrize("clip", [None, "value", "norm"])
@pytest.mark.parametrize("shape", [(300, 3), (43, 7), (1030, 1), (9, 512), (5, 1028)], ids=str)
def test_the_ratio_has_the_reference_bits(shape, clip, clip_on, instruction_set):
    operands, numbers = proposed(shape), own_numbers(shape[0], noise=(0.3, 0.05, 0.7))
    law = {"clip": clip, "clip_on": clip_on}
    want = ratio_own(operands, "reference", numbers, **law)
    assert_same_bits(ratio_own(operands, "cpu", numbers, **law), want)
    for c in range(0, shape[0], 7):
        alone = dict(zip(NUMBERS, numbers[:, c].tolist(), strict=True))
        one = reference.langevin_ratio(*(v[c : c + 1] for v in operands), **alone, **law)
        assert_same_bits({"log_ratio": one}, {"log_ratio": want["log_ratio"][c : c + 1]})


def test_numbers_of_another_count_or_type_are_refused_before_memory_is_read():
    x = torch.randn(4, 3)
    for wrong in (own_numbers(3), own_numbers(4)[:4], own_numbers(4).double(), own_numbers(4)[0]):
        with pytest.raises((TypeError, ValueError, IndexError)):
            run_own(x, x, "cpu", wrong)
        with pytest.raises((TypeError, ValueError), match="numbers must be a float32 tensor of shape"):
            torch.ops.hatebm.langevin_step_(x, x, **ONES, seed=0, step=0, numbers=wrong)
    operands = (x,) * 4
    for halves in (torch.ones(1, 1).double().expand(2, 4), torch.rand(4, 2).double().T, torch.rand(8).double()):
        with pytest.raises((TypeError, ValueError), match="halves must be a contiguous float64 tensor"):
            torch.ops.hatebm.langevin_ratio(*operands, **ONES, numbers=own_numbers(4), halves=halves)
