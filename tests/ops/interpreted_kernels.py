"""The Triton kernels against the reference, run by Triton's interpreter.

test_kernels.py runs this file in a process where TRITON_INTERPRET=1 was set before Triton was imported.
"""

import interpreter
import pytest
import torch
from parity import LAWS, RATIOS, assert_same_bits, layouts, proposed, ratio, run

import hatebm
from hatebm import kernels
from hatebm.ops import reference

pytestmark = interpreter.MARKS


NUMBERS = torch.tensor(  # of five laws: one each of all kinds, without noise, without a prior, at rest, and uphill
    [
        [0.1, 0.2, 0.3, 0.0, -0.05],
        [0.2, 0.0, 0.3, 0.0, 0.05],
        [1.0, 2.0, 0.7, 1.5, 3.0],
        [0.4, 0.7, 0.0, 0.0, 0.1],
        [0.3, 1.5, 0.05, 0.4, 2.0],
    ]
)
CLIPS = [(None, "grad"), ("value", "grad"), ("value", "update"), ("norm", "grad"), ("norm", "update")]


@pytest.fixture
def assert_same():
    """Bit for bit, or within two units in the last place where the interpreter rounds twice."""

    def assert_close(got, want):
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=3e-7, atol=3e-7, equal_nan=True)

    return assert_same_bits if interpreter.rounds_once() else assert_close


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 8), (1, 1030)], ids=str)
def test_samples_in_one_pass(shape, law, assert_same):
    x, grad = torch.randn(shape), torch.randn(shape)
    assert_same(run(x, grad, "triton", **law), run(x, grad, "reference", **law))


@pytest.mark.parametrize("law", [LAWS["tempered"], LAWS["norm"], LAWS["norm update"]], ids=str)
def test_samples_in_two_passes(law, assert_same):
    x, grad = torch.randn(1, 9001), torch.randn(1, 9001)
    assert_same(run(x, grad, "triton", **law), run(x, grad, "reference", **law))


@pytest.mark.parametrize("law", [law for name, law in LAWS.items() if "norm" not in name], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, None], ids=str)
def test_streams(dtype, law, assert_same):
    shape = (5, 7) if dtype is torch.float16 else (3, 2, 8)
    x, grad = torch.randn(shape), None if dtype is None else torch.randn(shape).to(dtype)
    results = []
    for backend in ("triton", "reference"):
        out, image = x.clone(), torch.empty_like(x)
        settings = {"step_size": 0.1, "seed": 3, "step": 9, "gz": x, "image": image, "backend": backend} | law
        results.append({"x": hatebm.ops.langevin_step_(out, grad, **settings), "image": image})
    assert_same(*results)


@pytest.mark.parametrize("clip", [None, ("norm", 1.5)], ids=["streamed", "summed"])
def test_the_element_decides_not_the_strides(clip, assert_same):
    x, grad, gz = (torch.randn(2, 3, 4, 5) for _ in range(3))
    law = {"step_size": 0.1, "seed": 3, "step": 9, "clip": clip}
    want = {"x": x.clone(), "image": torch.empty_like(x)}
    hatebm.ops.langevin_step_(want["x"], grad, gz=gz, image=want["image"], backend="reference", **law)
    for (_, y), (_, other_grad) in zip(layouts(x), reversed(list(layouts(grad))), strict=True):
        got = {"x": y, "image": torch.empty_like(y)}
        hatebm.ops.langevin_step_(y, other_grad, gz=gz, image=got["image"], backend="triton", **law)
        assert_same({name: v.contiguous() for name, v in got.items()}, want)


@pytest.mark.parametrize("clip", [("value", 1.0), ("norm", 1.0)], ids=str)
def test_a_bad_gradient_is_recorded_with_its_first_step(clip):
    grad = torch.zeros(5, 6)
    grad[1, -1], grad[3, 0] = torch.nan, torch.inf
    first = torch.tensor([2**62, 2**62, 2**62, 4, 2**62])
    law = {"step_size": 1.0, "noise_std": 0.0, "clip": clip, "step": 9}
    hatebm.ops.langevin_step_(torch.zeros(5, 6), grad, diverged=first, backend="triton", **law)
    assert first.tolist() == [2**62, 9, 2**62, 4, 2**62]


def test_noise_given_and_chains_named(assert_same):
    x, grad = torch.randn(4, 50), torch.randn(4, 50)
    at = {"seed": -7, "step": 2**35 + 1, "block": 3, "purpose": 2, "chain_ids": torch.tensor([5, 2**40 - 1, 0, 2**33])}
    eps = hatebm.normal((4, 50), **at, backend="reference")
    assert_same({"eps": hatebm.normal((4, 50), **at, backend="triton")}, {"eps": eps})
    want = run(x, grad, "reference", **at)
    assert_same(run(x, grad, "triton", **at), want)
    assert_same(run(x, grad, "triton", noise=eps), want)


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (2, 4099), (0, 3), (3, 0)], ids=str)
def test_normal(shape, assert_same):
    for seed, step in ((2**64 - 3, 2**39), (torch.tensor(-5), torch.tensor([2**33]))):
        got, want = (hatebm.normal(shape, seed=seed, step=step, backend=name) for name in ("triton", "reference"))
        assert_same({"eps": got}, {"eps": want})


def test_philox_and_residual_add():
    counter, key = torch.randint(2**32, (300, 4)), torch.randint(2**32, (300, 2))
    want = hatebm.philox(counter, key, backend="reference")
    assert torch.equal(hatebm.philox(counter, key, backend="triton"), want)
    gz = torch.randn(3, 4, 5)
    for y in (torch.randn(3, 4, 5), torch.randn(3, 5, 4).transpose(1, 2)):
        assert torch.equal(hatebm.ops.residual_add(gz, y, backend="triton"), gz + y)
        assert torch.equal(hatebm.ops.residual_add(y, y, backend="triton"), y + y)


@pytest.mark.parametrize("law", RATIOS.values(), ids=RATIOS)
@pytest.mark.parametrize("shape", [(5, 7), (3, 2, 8), (1, 1030), (1, 9001)], ids=str)
def test_the_ratio_has_the_reference_bits(shape, law):
    operands = proposed(shape)
    assert_same_bits(ratio(operands, "triton", **law), ratio(operands, "reference", **law))


@pytest.mark.parametrize("clip", [None, ("norm", 1e3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1,), (3, 65)], ids=str)
def test_the_ratio_of_every_type(shape, dtype, clip):
    operands = proposed(shape, dtype)
    assert_same_bits(ratio(operands, "triton", clip=clip), ratio(operands, "reference", clip=clip))


def test_the_ratio_of_strided_tensors():
    operands = proposed((2, 3, 4, 5))
    for strided in zip(*(layouts(v) for v in operands), strict=True):
        assert_same_bits(ratio([v for _, v in strided], "triton"), ratio(operands, "reference"))


@pytest.mark.parametrize("n", [0, 1, 700])
def test_decisions(n):
    for ids in (None, torch.randint(2**40, (n,))):
        at = {"seed": -3, "step": 2**39 + 5, "block": 2, "chain_ids": ids}
        log_ratio = torch.randn(n, dtype=torch.float64)
        log_ratio[:3] = torch.tensor([-torch.inf, torch.nan, torch.inf])[:n]
        want = hatebm.ops.metropolis(log_ratio, **at, backend="reference")
        assert torch.equal(hatebm.ops.metropolis(log_ratio, **at, backend="triton"), want)
        tensors = {"seed": torch.tensor([-3]), "step": torch.tensor(2**39 + 5)}
        assert torch.equal(hatebm.ops.metropolis(log_ratio, **at | tensors, backend="triton"), want)


@pytest.mark.filterwarnings("ignore:langevin. proposals with a NaN:UserWarning")
@pytest.mark.parametrize("form", [{"correct": "mala"}, {"leapfrog_steps": 2}], ids=str)
def test_proposals_with_a_nan_are_refused(form, assert_same):
    def chain(backend):
        energy = lambda x: (x.square() / 2 - x.log()).sum(1)  # noqa: E731
        made = hatebm.Chain(energy, torch.full((20, 2), 0.4), eps=0.6, seed=1, backend=backend, **form)
        x, info = made.run(3, return_info=True)
        return {"x": x, "nan_refused": info["nan_refused"]}

    got = chain("triton")
    assert got["nan_refused"].any()
    assert_same(got, chain("reference"))


def test_without_a_gradient_there_is_no_norm(assert_same):
    x = torch.randn(3, 5)
    out = run(x, None, "triton")
    assert_same(out, run(x, None, "reference"))
    assert out["grad_norm"].tolist() == [0, 0, 0]


def test_empty_samples_have_no_norm():
    out = run(torch.empty(3, 0), torch.empty(3, 0), "triton")
    assert out["grad_norm"].tolist() == out["displacement"].tolist() == [0, 0, 0]


def some(shape):
    """A state with zeros of both signs, and a gradient."""
    x, grad = torch.randn(shape), torch.randn(shape)
    x[..., 0], x[..., 1] = -0.0, 0.0
    return x, grad


def stepped(module, x, grad, measured=True, **law):
    """What a step of a module puts out, with law's numbers beside floats that only say whether any are not 0."""
    n = len(x)
    out = {"x": x.clone(), "image": torch.empty_like(x), "diverged": torch.full((n,), 2**62)}
    out |= {name: torch.full((n,), -1.0) for name in ("grad_norm", "displacement") if measured}
    law = {"step_size": 1.0, "noise_std": 1.0, "prior_precision": 1.0, "seed": 3, "step": 9} | law
    gathered = {name: v for name, v in out.items() if name != "x"}
    module.langevin_step_(out["x"], grad, gz=torch.ones_like(x), **gathered, **law)
    return out


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("add", ["sequential", "increment", "fma"])
def test_each_chain_steps_by_numbers_of_its_own(add, clip, assert_same):
    x, grad = some((5, 7))
    law = {"add": add, "clip": clip[0], "clip_on": clip[1], "low": -2.0, "high": 1.5}
    for measured in (False, True):
        got = stepped(kernels, x, grad, measured, numbers=NUMBERS, **law)
        assert_same(got, stepped(reference, x, grad, measured, numbers=NUMBERS, **law))
        for c in (1, 3, 4):
            own = dict(zip(reference.Numbers._fields, NUMBERS[:, c].tolist(), strict=True))
            own["chain_ids"] = torch.tensor([c])
            alone = stepped(kernels, x[c : c + 1], grad[c : c + 1], measured, **law | own)
            assert_same({name: v[c : c + 1] for name, v in got.items()}, alone)


@pytest.mark.parametrize("clip", [("value", "update"), ("norm", "update")], ids=str)
@pytest.mark.parametrize("shape", [(2, 9001), (3, 2, 8)], ids=str)
def test_numbers_of_each_chain_beside_long_and_short_samples(shape, clip, assert_same):
    x, grad = some(shape)
    law = {"add": "fma", "clip": clip[0], "clip_on": clip[1]}
    wide = torch.stack([NUMBERS, NUMBERS], -1).transpose(0, 1).contiguous().transpose(0, 1)[..., 0]
    for numbers in (wide[:, : len(x)], wide[:, 4:], NUMBERS[:, :1].expand(5, len(x))):
        assert_same(*(stepped(module, x, grad, numbers=numbers, **law) for module in (kernels, reference)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None], ids=str)
def test_numbers_of_each_chain_beside_half_gradients_and_none(dtype, assert_same):
    x, grad = some((5, 8))
    grad, noise = None if dtype is None else grad.to(dtype), torch.randn(5, 8)
    noise[1] = torch.inf  # of a chain without noise
    for measured in (False, grad is not None):
        law = {"numbers": NUMBERS, "noise": noise}
        got, want = (stepped(module, x, grad, measured, **law) for module in (kernels, reference))
        assert_same(got, want)
        assert got["x"][1].isfinite().all()


def test_the_strides_of_a_state_and_noise_that_nobody_has(assert_same):
    x, grad = torch.randn(4, 3, 4, 5), torch.randn(4, 3, 4, 5)
    want = stepped(reference, x, grad, numbers=NUMBERS[:, 1:])
    for (_, y), (_, other) in zip(layouts(x), reversed(list(layouts(grad))), strict=True):
        for measured in (False, True):
            got = stepped(kernels, y, other, measured, numbers=NUMBERS[:, 1:])
            assert_same({name: v.contiguous() for name, v in got.items()}, {name: want[name] for name in got})
    none = {"numbers": NUMBERS[:, 1:], "noise_std": 0.0, "prior_precision": 0.0}
    assert_same(*(stepped(module, x, grad, **none) for module in (kernels, reference)))


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (2, 9001)], ids=str)
def test_the_ratio_of_chains_with_numbers_of_their_own(shape, clip):
    operands, n = proposed(shape), shape[0]
    numbers = NUMBERS[:, -n:].clone()
    numbers[1] += 0.1
    halves = torch.stack(reference.ratio_coefficients(numbers[1].double(), numbers[3].double()))
    law = {"step_size": 1.0, "noise_std": 0.3, "prior_precision": 1.0, "clip": clip[0], "clip_on": clip[1]}
    for given in (
        {"numbers": numbers, "halves": halves},
        {"numbers": numbers},
        {"numbers": numbers[:, :1], "halves": halves},
        {"numbers": numbers, "halves": halves, "prior_precision": 0.0},
    ):
        got, want = (module.langevin_ratio(*operands, **law | given) for module in (kernels, reference))
        assert_same_bits({"log_ratio": got}, {"log_ratio": want})
