"""The fused step: the reference against a float64 formula, and the kernels against the reference, bit for bit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import LAWS, assert_same_bits, layouts, run

import hatebm
from hatebm.ops import reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, None], ids=str)
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("shape", [(3, 3, 17, 19), (5, 2), (4, 64), (1, 5000)], ids=str)
def test_cpu_has_the_reference_bits(shape, law, dtype, instruction_set):
    x = torch.randn(shape)
    grad = None if dtype is None else torch.randn(shape).to(dtype)
    assert_same_bits(run(x, grad, "cpu", **law), run(x, grad, "reference", **law))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1,), (7,), (1, 1), (2, 1, 1), (130, 3)], ids=str)
def test_edge_shapes(shape, law):
    x, grad = torch.randn(shape), torch.randn(shape)
    assert_same_bits(run(x, grad, "cpu", **law), run(x, grad, "reference", **law))


@pytest.mark.parametrize("law", [LAWS["plain"], LAWS["norm"]], ids=["plain", "norm"])
def test_noise_belongs_to_the_logical_element_whatever_the_strides(law):
    x, grad, gz = torch.randn(5, 3, 33, 35), torch.randn(5, 3, 33, 35), torch.randn(5, 3, 33, 35)
    want, want_image = x.clone(), torch.empty_like(x)
    fixed = {"step_size": 0.1, "seed": 3, "step": 9} | law
    hatebm.ops.langevin_step_(want, grad, gz=gz, image=want_image, **fixed)
    for (name, y), (_, other_grad) in zip(layouts(x), reversed(list(layouts(grad))), strict=True):
        before, image = y.stride(), torch.empty_like(y)
        hatebm.ops.langevin_step_(y, other_grad, gz=gz, image=image, **fixed)
        assert torch.equal(y, want), name
        assert torch.equal(image, want_image), name
        assert y.stride() == before


def test_an_expanded_gradient_is_read_where_it_lies():
    x = torch.randn(4, 3, 5)
    grad = torch.tensor(0.5).expand(4, 3, 5)
    assert torch.equal(run(x, grad, "cpu")["x"], run(x, grad.contiguous(), "reference")["x"])


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    step_size=st.floats(-3, 3, width=32),
    noise_std=st.floats(0, 3, width=32),
    temperature=st.floats(0.125, 8, width=32),
    prior_precision=st.floats(-2, 2, width=32),
    add=st.sampled_from(["sequential", "increment", "fma"]),
    clip=st.none() | st.tuples(st.sampled_from(["value", "norm"]), st.floats(0.015625, 4, width=32)),
    clip_on=st.sampled_from(["grad", "update"]),
    clamp=st.none() | st.just((-1.0, 2.0)),
    special=st.none() | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-42, 3e38]),
    seed=st.integers(-(2**63), 2**64 - 1),
)
def test_every_law_on_every_shape(shape, special, clip_on, seed, **law):
    x, grad = torch.randn(shape), torch.randn(shape)
    if special is not None and x.numel():
        grad.view(-1)[seed % x.numel()] = special
    law |= {"clip_on": clip_on, "seed": seed, "step": 5}
    got, want = run(x, grad, "cpu", **law), run(x, grad, "reference", **law)
    for name in want:
        assert torch.equal(got[name].isnan(), want[name].isnan()) if want[name].is_floating_point() else True, name
        assert torch.equal(got[name].nan_to_num(7), want[name].nan_to_num(7)), name
    exact = formula(x.double(), grad.double(), **law)
    finite = exact.isfinite() & want["x"].isfinite() & (exact.abs() < 1e30)
    scale = 1 + x.abs() + abs(law["step_size"]) * (grad.abs() / law["temperature"] + x.abs())
    close = (want["x"].double() - exact).abs() <= 1e-5 * scale.nan_to_num(1)  # 0 times an infinite gradient
    assert (close | ~finite).all()


def formula(x, grad, *, step_size, noise_std, temperature, prior_precision, add, clip, clip_on, clamp, seed, step):
    """The contract's one line in float64."""
    drift = grad / temperature + prior_precision * x
    if clip_on == "update":
        drift = drift * step_size
    if clip is not None:
        kind, bound = clip
        if kind == "value":
            drift = drift.clamp(-bound, bound)
        else:
            norm = drift.flatten(1).norm(dim=1) if x.dim() > 1 else drift.abs()
            drift = drift * (bound / norm).clamp(max=1).view(-1 if len(x) else 0, *[1] * (x.dim() - 1))
    if clip_on == "grad":
        drift = drift * step_size
    new = x - drift
    if noise_std:
        new = new + noise_std * hatebm.normal(x.shape, seed=seed, step=step, backend="reference").double()
    return new if clamp is None else new.clamp(*clamp)


def test_fma_is_rounded_once():
    a, b = (torch.randn(20_000) * 10 ** torch.empty(20_000).uniform_(-18, 15) for _ in range(2))
    c = -(a * b) * (1 + torch.randint(-3, 4, a.shape) * 2.0**-24)  # cancels but for the rounding
    exact = a.double() * b.double()
    representable = (exact + c.double()).float()  # exact when the sum cancels: few bits remain
    assert torch.equal(reference.fma(a, b, c), representable)
    tie = torch.tensor([1.0 + 2.0**-12])  # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: halfway, tipped by the addend
    for nudge, want in ((2.0**-60, 1 + 2.0**-11 + 2.0**-23), (-(2.0**-60), 1 + 2.0**-11)):
        assert float(reference.fma(tie, tie, torch.tensor([nudge]))) == want


def test_a_norm_clip_below_the_cap_changes_no_bit():
    x, grad = torch.randn(6, 40), torch.randn(6, 40)
    for add in ("sequential", "increment", "fma"):
        loose = run(x, grad, "cpu", add=add, clip=("norm", 1e3))
        assert torch.equal(loose["x"], run(x, grad, "cpu", add=add)["x"])


def test_a_norm_clip_on_the_update_bounds_each_sample_apart():
    x, grad = torch.zeros(4, 3, 8, 8), torch.randn(4, 3, 8, 8) * torch.tensor([1e-3, 1.0, 1e4, 1e8]).view(4, 1, 1, 1)
    law = {"clip": ("norm", 2.5), "clip_on": "update", "noise_std": 0.0, "step_size": 1.0}
    moved = run(x, grad, "cpu", **law)["x"].flatten(1).double().norm(dim=1)
    torch.testing.assert_close(moved[1:], torch.full((3,), 2.5, dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(run(x, grad, "cpu", **law)["x"][0], -grad[0])


def test_norms_are_those_of_the_sample():
    x, grad = torch.randn(3, 5000), torch.randn(3, 5000)
    out = run(x, grad, "cpu", temperature=0.5, prior_precision=0.25)
    torch.testing.assert_close(out["grad_norm"], (grad / 0.5 + 0.25 * x).norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(out["displacement"], (out["x"] - x).norm(dim=1), rtol=1e-5, atol=0)
    assert torch.equal(out["image"], 1 + out["x"])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("shape", [(5, 2), (5, 700)], ids=str)
def test_a_bad_gradient_is_recorded_with_its_first_step(backend, shape):
    grad = torch.zeros(shape)
    grad[1, -1], grad[3, 0] = math.nan, math.inf
    first = torch.tensor([2**62, 2**62, 2**62, 4, 2**62])
    x = torch.zeros(shape)
    law = {"step_size": 1.0, "noise_std": 0.0, "clip": ("value", 1.0), "step": 9}
    hatebm.ops.langevin_step_(x, grad, diverged=first, backend=backend, **law)
    assert first.tolist() == [2**62, 9, 2**62, 4, 2**62]
    assert x[1, -1].isnan()
    assert x[3, 0] == -1


def test_given_noise_replaces_the_draw():
    x, grad = torch.randn(4, 50), torch.randn(4, 50)
    eps = hatebm.normal((4, 50), seed=3, step=2**34 + 9)
    for backend in ("cpu", "reference"):
        assert torch.equal(run(x, grad, backend, noise=eps)["x"], run(x, grad, "cpu")["x"])


def test_seed_and_step_may_be_tensors():
    x, grad = torch.randn(4, 50), torch.randn(4, 50)
    tensors = {"seed": torch.tensor(-5), "step": torch.tensor([2**33])}
    for backend in ("cpu", "reference"):
        got = run(x, grad, backend, **tensors)["x"]
        assert torch.equal(got, run(x, grad, "cpu", seed=-5, step=2**33)["x"])


def test_float64_states_run_on_the_reference():
    x, grad = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    law = dict(LAWS["tempered"], step_size=0.1, noise_std=0.2, add="sequential", clip=None, clip_on="grad", clamp=None)
    got = hatebm.ops.langevin_step_(x.clone(), grad, seed=1, step=2, **law)
    torch.testing.assert_close(got, formula(x, grad, seed=1, step=2, **law), rtol=1e-14, atol=1e-14)
    with pytest.raises(ValueError, match="float64"):
        hatebm.ops.langevin_step_(x, grad, step_size=0.1, seed=1, step=2, backend="cpu")


def test_autograd_notices_the_write():
    x = torch.randn(3, 4)
    leaf = torch.ones(3, 4, requires_grad=True)
    product = (leaf * x).sum()
    hatebm.ops.langevin_step_(x, torch.ones(3, 4), step_size=0.1, seed=0, step=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_residual_add():
    gz, y = torch.randn(3, 4, 5, requires_grad=True), torch.randn(3, 4, 5, requires_grad=True)
    hatebm.ops.residual_add(gz, y).square().sum().backward()
    assert torch.equal(gz.grad, 2 * (gz + y).detach())
    assert torch.equal(gz.grad, y.grad)
    plain = gz.detach(), y.detach()
    turned = [v.transpose(1, 2).contiguous().transpose(1, 2) for v in plain]
    for a, b in (plain, turned, (plain[0], turned[1]), (gz[:0], y[:0]), [v[..., ::2] for v in plain]):
        assert torch.equal(hatebm.ops.residual_add(a, b), a + b)
    with pytest.raises(ValueError, match="residual_add: gz must be float32 on backend 'cpu'"):
        hatebm.ops.residual_add(plain[0].double(), plain[1].double(), backend="cpu")
    with pytest.raises(ValueError, match="residual_add: y must be"):
        hatebm.ops.residual_add(gz, y[:2])


SAMPLE = (torch.randn(3, 5), torch.randn(3, 5))


@pytest.mark.parametrize(
    ("op", "args", "kwargs"),
    [
        ("philox", (torch.randint(2**32, (3, 4)), torch.randint(2**32, (2,))), {}),
        ("normal", ((3, 5),), {"seed": 1, "step": 2}),
        ("residual_add", tuple(v.clone().requires_grad_() for v in SAMPLE), {}),
        ("langevin_step_", SAMPLE, {"step_size": 0.1, "noise_std": 0.2, "seed": 1, "step": 2}),
        (
            "langevin_step_",
            SAMPLE,
            {"step_size": 0.1, "noise_std": 0.2, "seed": 1, "step": 2, "gz": SAMPLE[1], "image": torch.empty(3, 5)}
            | {"grad_norm": torch.empty(3), "displacement": torch.empty(3), "seed_at": torch.tensor(4)},
        ),
        (
            "langevin_step_",
            SAMPLE,
            {"step_size": 1.0, "noise_std": 1.0, "seed": 1, "step": 2, "numbers": torch.rand(5, 3), "clip": "norm"},
        ),
        ("langevin_ratio", SAMPLE + SAMPLE[::-1], {"step_size": 0.1, "noise_std": 0.2, "clip": "norm", "bound": 1.0}),
        (
            "langevin_ratio",
            SAMPLE + SAMPLE[::-1],
            {"step_size": 1.0, "noise_std": 1.0, "numbers": torch.rand(5, 3)}
            | {"halves": torch.rand(2, 3, dtype=torch.float64)},
        ),
        ("metropolis", (torch.randn(3, dtype=torch.float64),), {"seed": 1, "step": 2, "step_at": torch.tensor(4)}),
    ],
    ids=[
        *("philox", "normal", "residual_add", "langevin_step_", "langevin_step_ gathering"),
        *("langevin_step_ of each chain", "langevin_ratio", "langevin_ratio of each chain", "metropolis"),
    ],
)
def test_opcheck(op, args, kwargs):
    torch.library.opcheck(getattr(torch.ops.hatebm, op).default, args, kwargs)


def test_compiled_without_breaks_and_without_recompiling_for_a_step():
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=False)
    def two_steps(x, grad, t):
        x = hatebm.ops.langevin_step_(x.clone(), grad, step_size=0.1, seed=1, step=t, clamp=(-1, None))
        return x + hatebm.normal(x.shape, seed=2, step=t), hatebm.ops.residual_add(x, grad)

    torch._dynamo.reset()
    x, grad = torch.randn(3, 7), torch.randn(3, 7)
    counter = torch._dynamo.utils.counters["stats"]
    for t in range(5, 11):
        step = torch.tensor(t)
        want = hatebm.ops.langevin_step_(x.clone(), grad, step_size=0.1, seed=1, step=t, clamp=(-1, None))
        got, hat = two_steps(x, grad, step)
        assert torch.equal(got, want + hatebm.normal(x.shape, seed=2, step=t))
        assert torch.equal(hat, want + grad)
        if t == 5:
            graphs = counter["unique_graphs"]
    assert counter["unique_graphs"] == graphs


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("x", "grad", "changes", "message"),
    [
        (X, X[:2], {}, "grad must be a tensor of shape"),
        (X, X.double(), {}, "grad must be float32 or bfloat16 or float16"),
        (X.half(), X, {}, "x must be float32"),
        (torch.tensor(1.0), None, {}, r"x must be \(n, \*sample\)"),
        (X.clone().requires_grad_(), X, {}, "x must be detached"),
        (torch.zeros(1, 3).expand(4, 3), X, {}, "x must be a tensor whose elements do not overlap"),
        (X, X, {"step_size": math.nan, "noise_std": 0.1}, "step_size must be a finite number"),
        (X, X, {"step_size": -1.0}, "step_size must be a number >= 0 when noise_std is left out"),
        (X, X, {"noise_std": -1.0}, "noise_std must be"),
        (X, X, {"temperature": 0.0}, "temperature must be"),
        (X, X, {"prior_precision": math.inf}, "prior_precision must be"),
        (X, X, {"add": "sum"}, "add must be one of"),
        (X, X, {"clip": ("l2", 1.0)}, "clip must be"),
        (X, X, {"clip": ("norm", math.nan)}, "clip must be"),
        (X, X, {"clip_on": "x"}, "clip_on must be"),
        (X, X, {"clamp": (1, 0)}, "clamp must be"),
        (X, X, {"seed": None}, "seed must be a seed"),
        (X, X, {"step": None}, "step must be a step index"),
        (X, X, {"gz": X}, "image must be a tensor exactly when gz is one"),
        (X, X, {"grad_norm": torch.zeros(3)}, "grad_norm must be a contiguous"),
        (X, X, {"diverged": torch.zeros(4)}, "diverged must be"),
        (X, X, {"noise": X[:, :1]}, "noise must be"),
    ],
)
def test_bad_arguments_are_named_and_x_stays_whole(x, grad, changes, message):
    before = x.detach().clone()
    with pytest.raises((ValueError, TypeError), match=f"langevin_step_: {message}"):
        hatebm.ops.langevin_step_(x, grad, **{"step_size": 0.1, "seed": 0, "step": 0} | changes)
    assert torch.equal(x.detach(), before)
