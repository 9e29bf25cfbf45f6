"""The CUDA sources themselves, run thread by thread on the CPU: their bits are the reference's.

``cuda_on_cpu.h`` stands in for nvcc's own headers, so this needs a C++ compiler and no GPU.
"""

from types import SimpleNamespace

import pytest
import torch
from parity import (
    LAWS,
    ONES,
    RATIOS,
    assert_same_bits,
    layouts,
    own_numbers,
    proposed,
    ratio,
    ratio_own,
    run,
    run_own,
    signed_zeros,
)

import hatebm
from hatebm.ops import reference
from hatebm.ops.native import extension, ops


@pytest.fixture(autouse=True)
def in_place_of_the_cpu(cuda, monkeypatch):
    """Sends what the backend "cpu" would run to the emulated kernels."""

    def langevin_step(*arguments):
        n, d = arguments[6:8]
        emulated.sums = sums = torch.full((2 * cuda.workspace(n, d),), torch.nan, dtype=torch.float64)
        cuda.langevin_step(*arguments[:-1], sums.data_ptr(), 0, 0, 0, 0)

    def langevin_ratio(*arguments):
        n, d, clip = *arguments[5:7], arguments[14]
        room = (3 if clip == extension.CLIP["norm"] else 1) * cuda.workspace(n, d)
        sums = torch.full((room,), torch.nan, dtype=torch.float64)
        cuda.langevin_ratio(*arguments[:-1], sums.data_ptr(), 0, 0)

    emulated = SimpleNamespace(
        langevin_step=langevin_step,
        langevin_ratio=langevin_ratio,
        metropolis=lambda *arguments: cuda.metropolis(*arguments[:-1], 0, 0, 0, 0),
        normal=lambda *arguments: cuda.normal(*arguments[:-1], 0, 0, 0, 0),
        residual_add=lambda *arguments: cuda.residual_add(*arguments[:-1], 0, 0),
        philox=lambda *arguments: cuda.philox(*arguments, 0, 0),
    )
    monkeypatch.setattr(ops, "_C", emulated)
    return emulated


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (2, 3, 17, 19), (9, 2), (3, 1028), (1, 9001), (2, 12288)], ids=str)
def test_the_step_has_the_reference_bits(shape, law):
    x, grad = torch.randn(shape), torch.randn(shape)
    assert_same_bits(run(x, grad, "cpu", **law), run(x, grad, "reference", **law))


@pytest.mark.parametrize("clip_on", ["grad", "update"])
@pytest.mark.parametrize("clip", [None, "value", "norm"])
@pytest.mark.parametrize("add", extension.ADD)
@pytest.mark.parametrize("shape", [(71, 2, 4), (43, 7), (5, 1028), (3, 9001)], ids=str)
def test_each_chain_steps_by_its_own_law(shape, add, clip, clip_on):
    x, grad = signed_zeros(shape)
    numbers, law = own_numbers(len(x)), {"add": add, "clip": clip, "clip_on": clip_on, "low": -1.5, "high": 2.0}
    want = run_own(x, grad, "reference", numbers, **law)
    assert_same_bits(run_own(x, grad, "cpu", numbers, **law), want)
    streamed = {"numbers": numbers, "seed": 3, "step": 2**34 + 9} | ONES | law
    ops.langevin_step_(x, grad, **streamed)
    assert_same_bits({"x": x}, {"x": want["x"]})


@pytest.mark.parametrize("shape", [(9, 8), (9, 7), (5, 1100)], ids=str)
def test_what_a_float_of_0_says_of_noise_and_prior_is_so_for_all(shape):
    x, grad = signed_zeros(shape)
    numbers = own_numbers(len(x))
    for law in ({"noise_std": 0.0}, {"prior_precision": 0.0}, {"noise_std": 0.0, "prior_precision": 0.0}):
        assert_same_bits(run_own(x, grad, "cpu", numbers, **law), run_own(x, grad, "reference", numbers, **law))


@pytest.mark.parametrize("shape", [(9, 8), (9, 7)], ids=str)
def test_noise_and_prior_of_0_add_nothing_to_a_chain(shape):
    x, grad = torch.randn(shape), torch.randn(shape)
    numbers, eps = own_numbers(len(x)), torch.randn(shape)
    eps[numbers[1] == 0], x[numbers[3] == 0, 2] = torch.inf, torch.inf
    want = x.clone()
    reference.langevin_step_(want, grad, numbers=numbers, noise=eps, seed=0, step=0, **ONES)
    assert not want.isnan().any()
    ops.langevin_step_(x, grad, numbers=numbers, noise=eps, seed=0, step=0, **ONES)
    assert_same_bits({"x": x}, {"x": want})


@pytest.mark.parametrize("clip", [None, "norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, None], ids=str)
@pytest.mark.parametrize("shape", [(9, 64), (9, 33)], ids=str)
def test_own_laws_of_every_gradient_and_in_any_strides(shape, dtype, clip):
    x, grad = signed_zeros(shape)
    grad, numbers = None if dtype is None else grad.to(dtype), own_numbers(len(x))
    strided = (
        numbers.T.contiguous().T,
        torch.stack([numbers, -numbers], -1)[..., 0],
        torch.cat([numbers, numbers], 1)[:, :9],
    )
    for own in (*strided, numbers[:, 3:4]):
        want = run_own(x, grad, "reference", own, clip=clip)
        assert_same_bits(run_own(x, grad, "cpu", own, clip=clip), want)


@pytest.mark.parametrize("d", [9000, 9001, 1_100_000])
def test_sums_are_taken_in_the_order_of_the_tree(d, in_place_of_the_cpu):
    x, grad = torch.zeros(2, d), torch.randn(2, d) * 10 ** torch.empty(2, d).uniform_(-3, 3)
    moved = x.clone()
    norms = {"grad_norm": torch.empty(2), "displacement": torch.empty(2)}
    hatebm.ops.langevin_step_(moved, grad, step_size=0.3, noise_std=0.0, backend="cpu", **norms)
    of_gradient, of_way = in_place_of_the_cpu.sums.view(2, 2, -1)[..., 0]
    assert torch.equal(of_gradient, reference.tree_sum(grad.double().square()))
    assert torch.equal(of_way, reference.tree_sum(moved.double().square()))


@pytest.mark.parametrize("gathered", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None], ids=str)
@pytest.mark.parametrize("shape", [(3, 64), (2, 1025)], ids=str)
def test_gradients_of_every_type(shape, dtype, gathered):
    x = torch.randn(shape)
    grad = None if dtype is None else (torch.randn(shape) * 10 ** torch.empty(shape).uniform_(-8, 4)).to(dtype)
    law = {"step_size": 0.1, "seed": 3, "step": 9, "prior_precision": 0.5}
    results = []
    for backend in ("cpu", "reference"):
        out = x.clone()
        extra = {name: torch.full((len(x),), -1.0) for name in ("displacement", "grad_norm") if gathered}
        hatebm.ops.langevin_step_(out, grad, backend=backend, **extra, **law)
        results.append({"x": out, **extra})
    assert_same_bits(*results)


@pytest.mark.parametrize("clip", [None, ("norm", 1.5)], ids=["streamed", "summed"])
def test_the_element_decides_not_the_strides(clip):
    x, grad, gz = torch.randn(2, 3, 33, 15), torch.randn(2, 3, 33, 15), torch.randn(2, 3, 33, 15)
    law = {"step_size": 0.1, "seed": 3, "step": 9, "clip": clip}
    want, want_image = x.clone(), torch.empty_like(x)
    hatebm.ops.langevin_step_(want, grad, gz=gz, image=want_image, backend="reference", **law)
    for (name, y), (_, other_grad) in zip(layouts(x), reversed(list(layouts(grad))), strict=True):
        image = torch.empty_like(y)
        hatebm.ops.langevin_step_(y, other_grad, gz=gz, image=image, backend="cpu", **law)
        assert torch.equal(y, want), name
        assert torch.equal(image, want_image), name


@pytest.mark.parametrize("clip", [None, "norm"], ids=["streamed", "summed"])
def test_own_laws_do_not_feel_the_strides(clip):
    x, grad = signed_zeros((5, 3, 33, 15))
    numbers = own_numbers(5)
    want = run_own(x, grad, "reference", numbers, clip=clip)
    for (name, y), (_, other_grad) in zip(layouts(x), reversed(list(layouts(grad))), strict=True):
        ops.langevin_step_(y, other_grad, numbers=numbers, clip=clip, seed=3, step=2**34 + 9, **ONES)
        assert torch.equal(y, want["x"]), name


@pytest.mark.parametrize("clip", [None, ("norm", 1.5)], ids=["streamed", "summed"])
def test_a_misaligned_state(clip):
    x, grad = torch.randn(4 * 64 + 1)[1:].view(4, 64), torch.randn(4, 64)
    law = {"step_size": 0.1, "seed": 3, "step": 9, "clip": clip}
    want = hatebm.ops.langevin_step_(x.clone(), grad, backend="reference", **law)
    assert torch.equal(hatebm.ops.langevin_step_(x, grad, backend="cpu", **law), want)


@pytest.mark.parametrize("shape", [(5, 4), (5, 7), (5, 700)], ids=str)
@pytest.mark.parametrize("clip", [("value", 1.0), ("norm", 1.0)], ids=str)
def test_a_bad_gradient_is_recorded_with_its_first_step(shape, clip):
    grad = torch.zeros(shape)
    grad[1, -1], grad[3, 0] = torch.nan, torch.inf
    first = torch.tensor([2**62, 2**62, 2**62, 4, 2**62])
    law = {"step_size": 1.0, "noise_std": 0.0, "clip": clip, "step": 9}
    hatebm.ops.langevin_step_(torch.zeros(shape), grad, diverged=first, backend="cpu", **law)
    assert first.tolist() == [2**62, 9, 2**62, 4, 2**62]


def test_noise_given_and_chains_named():
    x, grad = torch.randn(4, 50), torch.randn(4, 50)
    ids = torch.tensor([5, 2**40 - 1, 0, 2**33])
    at = {"seed": -7, "step": 2**35 + 1, "block": 3, "purpose": 2, "chain_ids": ids}
    eps = hatebm.normal((4, 50), **at, backend="reference")
    assert torch.equal(hatebm.normal((4, 50), **at, backend="cpu"), eps)
    want = run(x, grad, "reference", **at)
    assert_same_bits(run(x, grad, "cpu", **at), want)
    assert_same_bits(run(x, grad, "cpu", noise=eps), want)


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (2, 4099), (0, 3), (3, 0)], ids=str)
def test_normal(shape):
    at = {"seed": 2**64 - 3, "step": 2**39}
    assert torch.equal(hatebm.normal(shape, **at, backend="cpu"), hatebm.normal(shape, **at, backend="reference"))


def test_seed_and_step_are_read_where_they_lie(cuda):
    seed, step, out = torch.tensor([-5]), torch.tensor([2**33]), torch.empty(3, 9)
    cuda.normal(out.data_ptr(), 3, 9, 0, 0, 0, 0, 0, 0, 0, seed.data_ptr(), step.data_ptr())
    assert torch.equal(out, hatebm.normal((3, 9), seed=-5, step=2**33, backend="reference"))


def test_philox_and_residual_add():
    counter, key = torch.randint(2**32, (700, 4)), torch.randint(2**32, (700, 2))
    want = hatebm.philox(counter, key, backend="reference")
    assert torch.equal(hatebm.philox(counter, key, backend="cpu"), want)
    for numel in (1, 4, 1027):
        gz, y = torch.randn(numel), torch.randn(numel)
        assert torch.equal(hatebm.ops.residual_add(gz, y, backend="cpu"), gz + y)


@pytest.mark.parametrize("law", RATIOS.values(), ids=RATIOS)
@pytest.mark.parametrize(
    "shape", [(9, 2), (3, 4, 8), (2, 17, 19), (3, 1028), (2, 1025), (1, 9001), (2, 12288)], ids=str
)
def test_the_ratio_has_the_reference_bits(shape, law):
    operands = proposed(shape)
    assert_same_bits(ratio(operands, "cpu", **law), ratio(operands, "reference", **law))


@pytest.mark.parametrize("clip", [None, ("norm", 1e3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3, 64), (2, 9001)], ids=str)
def test_the_ratio_of_every_type(shape, dtype, clip):
    operands = proposed(shape, dtype)
    assert_same_bits(ratio(operands, "cpu", clip=clip), ratio(operands, "reference", clip=clip))


@pytest.mark.parametrize("clip_on", ["grad", "update"])
@pytest.mark.parametrize("clip", [None, "value", "norm"])
@pytest.mark.parametrize("shape", [(37, 2), (9, 4, 8), (3, 1028), (2, 9001)], ids=str)
def test_each_chain_has_the_ratio_of_its_own_law(shape, clip, clip_on):
    operands, numbers = proposed(shape), own_numbers(shape[0], noise=(0.3, 0.7, 0.05))
    for law in ({}, {"prior_precision": 0.0}, {"halves": None}):
        law |= {"clip": clip, "clip_on": clip_on}
        assert_same_bits(ratio_own(operands, "cpu", numbers, **law), ratio_own(operands, "reference", numbers, **law))


def test_the_ratio_of_more_runs_than_one_fold_takes():
    operands = proposed((1, 1_050_001))
    assert_same_bits(ratio(operands, "cpu", clip=("norm", 1e3)), ratio(operands, "reference", clip=("norm", 1e3)))


def test_a_misaligned_proposal():
    operands = [torch.cat([v.new_zeros(1), v.flatten()])[1:].view(4, 64) for v in proposed((4, 64))]
    assert_same_bits(ratio(operands, "cpu"), ratio(operands, "reference"))


def test_a_tiny_noise_leaves_what_lies_beyond_a_sample_alone():
    operands = [torch.zeros(2, 5), torch.ones(2, 5), torch.ones(2, 5), -torch.ones(2, 5) / 2]
    got = ratio(operands, "cpu", noise_std=1e-160)
    assert got["log_ratio"].tolist() == [torch.inf, torch.inf]
    assert_same_bits(got, ratio(operands, "reference", noise_std=1e-160))


@pytest.mark.parametrize("n", [0, 1, 3, 700])
def test_decisions(n):
    log_ratio = torch.randn(n, dtype=torch.float64)
    for ids in (None, torch.randint(2**40, (n,))):
        at = {"seed": -3, "step": 2**39 + 5, "block": 2, "chain_ids": ids}
        want = hatebm.ops.metropolis(log_ratio, **at, backend="reference")
        assert torch.equal(hatebm.ops.metropolis(log_ratio, **at, backend="cpu"), want)


def test_empty_samples_have_no_norm():
    out = run(torch.empty(3, 0), torch.empty(3, 0), "cpu")
    assert out["grad_norm"].tolist() == out["displacement"].tolist() == [0, 0, 0]
