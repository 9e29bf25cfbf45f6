"""The GPU backends on a GPU: their bits are the CPU's, whatever the law, the shape and the strides."""

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
from hatebm.ops.backend import module_for
from hatebm.ops.native.extension import ADD, unavailable

pytestmark = pytest.mark.gpu
STEP = {"step_size": 0.1, "seed": 3, "step": 9}


@pytest.fixture(params=["cuda", "triton"])
def backend(request):
    if reason := unavailable(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize(
    "shape", [(3, 3, 17, 19), (5, 2), (1, 1), (128, 3, 32, 32), (300, 784), (2, 9001), (1, 1_050_001)], ids=str
)
def test_the_step_has_the_cpu_bits(shape, law, backend):
    x, grad = torch.randn(shape), torch.randn(shape)
    assert_same_bits(run(x.cuda(), grad.cuda(), backend, **law), run(x, grad, "cpu", **law))


@pytest.mark.parametrize("clip_on", ["grad", "update"])
@pytest.mark.parametrize("clip", [None, "value", "norm"])
@pytest.mark.parametrize("add", ADD)
@pytest.mark.parametrize("shape", [(5, 2), (128, 3, 32, 32), (300, 17, 19), (3, 9001), (2, 1_050_001)], ids=str)
def test_each_chain_steps_by_its_own_law(shape, add, clip, clip_on, backend):
    x, grad = signed_zeros(shape)
    numbers, law = own_numbers(len(x)), {"add": add, "clip": clip, "clip_on": clip_on, "low": -1.5, "high": 2.0}
    want = run_own(x, grad, "cpu", numbers, **law)
    assert_same_bits(run_own(x.cuda(), grad.cuda(), backend, numbers.cuda(), **law), want)
    law |= ONES | {"seed": 3, "step": 2**34 + 9, "numbers": numbers.cuda()}
    streamed = x.cuda()
    kernels = module_for("langevin_step_", backend, streamed.device)
    kernels.langevin_step_(streamed, grad.cuda(), **law)
    assert_same_bits({"x": streamed}, {"x": want["x"]})


@pytest.mark.parametrize("clip_on", ["grad", "update"])
@pytest.mark.parametrize("clip", [None, "value", "norm"])
@pytest.mark.parametrize("shape", [(5, 2), (128, 3, 32, 32), (300, 17, 19), (3, 9001), (2, 1_050_001)], ids=str)
def test_each_chain_has_the_ratio_of_its_own_law(shape, clip, clip_on, backend):
    operands, numbers = proposed(shape), own_numbers(shape[0], noise=(0.3, 0.7, 0.05))
    for law in ({}, {"prior_precision": 0.0}):
        law |= {"clip": clip, "clip_on": clip_on}
        got = ratio_own([v.cuda() for v in operands], backend, numbers.cuda(), **law)
        assert_same_bits(got, ratio_own(operands, "cpu", numbers, **law))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None], ids=str)
@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (7, 33)], ids=str)
def test_gradients_of_every_type_in_one_stream(shape, dtype, backend):
    x = torch.randn(shape)
    grad = None if dtype is None else (torch.randn(shape) * 10 ** torch.empty(shape).uniform_(-8, 4)).to(dtype)
    want = hatebm.ops.langevin_step_(x.clone(), grad, backend="cpu", **STEP)
    got = hatebm.ops.langevin_step_(x.cuda(), None if grad is None else grad.cuda(), backend=backend, **STEP)
    assert_same_bits({"x": got}, {"x": want})


@pytest.mark.parametrize("clip", [None, ("norm", 1.5)], ids=["streamed", "summed"])
def test_the_element_decides_not_the_strides(clip, backend):
    x, grad = torch.randn(5, 3, 33, 35), torch.randn(5, 3, 33, 35)
    want = hatebm.ops.langevin_step_(x.clone(), grad, clip=clip, backend="cpu", **STEP)
    for (name, y), (_, other_grad) in zip(layouts(x.cuda()), reversed(list(layouts(grad.cuda()))), strict=True):
        hatebm.ops.langevin_step_(y, other_grad, clip=clip, backend=backend, **STEP)
        assert torch.equal(y.cpu(), want), name


def test_a_bad_gradient_is_recorded_with_its_first_step(backend):
    grad = torch.zeros(5, 700)
    grad[1, -1], grad[3, 0] = torch.nan, torch.inf
    first = torch.tensor([2**62, 2**62, 2**62, 4, 2**62], device="cuda")
    hatebm.ops.langevin_step_(torch.zeros(5, 700).cuda(), grad.cuda(), diverged=first, backend=backend, **STEP)
    assert first.tolist() == [2**62, 9, 2**62, 4, 2**62]


def test_noise_philox_and_hat(backend):
    at = {"seed": 2**64 - 3, "step": 2**39, "block": 3, "purpose": 2}
    for shape in ((1000, 784), (3, 4099), (0, 3), (3, 0)):
        want = hatebm.normal(shape, **at, backend="cpu")
        assert torch.equal(hatebm.normal(shape, **at, backend=backend, device="cuda").cpu(), want)
    counter, key = torch.randint(2**32, (3000, 4)), torch.randint(2**32, (3000, 2))
    want = hatebm.philox(counter, key, backend="cpu")
    assert torch.equal(hatebm.philox(counter.cuda(), key.cuda(), backend=backend).cpu(), want)
    gz, y = torch.randn(3, 4, 5).cuda(), torch.randn(3, 4, 5).cuda()
    assert torch.equal(hatebm.ops.residual_add(gz, y, backend=backend), gz + y)


@pytest.mark.parametrize("law", RATIOS.values(), ids=RATIOS)
@pytest.mark.parametrize(
    "shape", [(3, 3, 17, 19), (5, 2), (1, 1), (128, 3, 32, 32), (300, 784), (2, 9001), (1, 1_050_001)], ids=str
)
def test_the_ratio_has_the_cpu_bits(shape, law, backend):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        operands = proposed(shape, dtype)
        assert_same_bits(ratio([v.cuda() for v in operands], backend, **law), ratio(operands, "cpu", **law))


def test_the_ratio_of_strided_and_empty_tensors(backend):
    operands = proposed((5, 3, 9, 7))
    for strided in zip(*(layouts(v.cuda()) for v in operands), strict=True):
        assert_same_bits(ratio([v for _, v in strided], backend), ratio(operands, "cpu"))
    for shape in ((0, 3), (3, 0)):
        empty = [torch.empty(shape, device="cuda")] * 4
        assert ratio(empty, backend)["log_ratio"].tolist() == [0.0] * shape[0]


@pytest.mark.parametrize("n", [0, 1, 100_000])
def test_decisions(n, backend):
    log_ratio = torch.randn(n, dtype=torch.float64)
    for ids in (None, torch.randint(2**40, (n,))):
        at = {"step": 2**39 + 5, "block": 2, "chain_ids": ids}
        want = hatebm.ops.metropolis(log_ratio, **at, seed=-3, backend="cpu")
        for seed in (-3, torch.tensor(-3, device="cuda")):
            got = hatebm.ops.metropolis(log_ratio.cuda(), **at, seed=seed, backend=backend)
            assert torch.equal(got.cpu(), want)


def test_a_graph_reads_seed_and_step_where_they_lie(backend):
    x, grad = torch.randn(16, 3, 32, 32), torch.randn(16, 3, 32, 32)
    state, gradient = x.cuda(), grad.cuda()
    seed, step = torch.tensor(7, device="cuda"), torch.tensor(100, device="cuda")

    def advance():
        hatebm.ops.langevin_step_(state, gradient, step_size=0.1, seed=seed, step=step, backend=backend)
        step.add_(1)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        advance()  # compiles
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        advance()
    for _ in range(3):
        graph.replay()
    for t in range(100, 104):
        hatebm.ops.langevin_step_(x, grad, step_size=0.1, seed=7, step=t, backend="cpu")
    assert torch.equal(state.cpu(), x)


def test_more_than_2_to_the_31_elements(backend):
    d = 2**31 + 12
    if torch.cuda.mem_get_info()[0] < 4 * d * 1.2:
        pytest.skip("needs 10 GB of free GPU memory")
    noise = hatebm.normal((1, d), seed=5, step=6, backend=backend, device="cuda")[0, -12:].cpu()
    quads = torch.arange(d // 4 - 3, d // 4)
    counter = torch.stack([quads, *(torch.full_like(quads, v) for v in (0, 6, 0))], -1)
    words = reference.philox(counter, torch.tensor([5, 0]))
    pairs = reference.box_muller(words[:, 0], words[:, 1]) + reference.box_muller(words[:, 2], words[:, 3])
    assert torch.equal(noise, torch.stack(pairs, -1).flatten())
