"""Metropolis-Hastings: the ratio against normal densities in float64, the decision against logarithms, and all bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import RATIOS, assert_same_bits, layouts, proposed, ratio
from torch.distributions import Normal

import hatebm
from hatebm.ops.noise import Purpose

SHAPES = [(0, 3), (3, 0), (1,), (7,), (2500, 2), (9, 1, 3), (4, 5), (2, 511), (2, 512), (2, 513), (3, 1023), (3, 1024)]
SHAPES += [(3, 1025), (2, 5000), (17, 3, 32, 32)]


@pytest.mark.parametrize("law", RATIOS.values(), ids=RATIOS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_has_the_reference_bits(shape, law, instruction_set):
    operands = proposed(shape)
    assert_same_bits(ratio(operands, "cpu", **law), ratio(operands, "reference", **law))


@pytest.mark.parametrize("law", RATIOS.values(), ids=RATIOS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(300, 3), (2, 1100)], ids=str)
def test_gradients_of_every_type(shape, dtype, law, instruction_set):
    operands = proposed(shape, dtype)
    assert_same_bits(ratio(operands, "cpu", **law), ratio(operands, "reference", **law))


@pytest.mark.parametrize("law", [RATIOS["tempered"], RATIOS["norm"]], ids=["tempered", "norm"])
def test_the_element_decides_not_the_strides(law):
    operands = proposed((5, 3, 9, 7))
    want = ratio(operands, "reference", **law)
    for strided in zip(*(layouts(v) for v in operands), strict=True):
        moved = [v for _, v in strided]
        assert_same_bits(ratio(moved, "cpu", **law), want)
        assert_same_bits(ratio((moved[0], *operands[1:]), "cpu", **law), want)


def test_threads_do_not_change_a_bit():
    threads = torch.get_num_threads()
    few, many = proposed((1, 100_001)), proposed((40, 3, 31, 31))
    log_ratio = torch.randn(50_000, dtype=torch.float64)
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            norm = [ratio(operands, "cpu", clip=("norm", 1.0))["log_ratio"] for operands in (few, many)]
            results.append((*norm, hatebm.ops.metropolis(log_ratio, seed=1, step=2)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    step_size=st.floats(-3, 3, width=32),
    noise_std=st.floats(1e-3, 3),
    temperature=st.floats(0.125, 8),
    prior_precision=st.floats(-2, 2, width=32),
    clip=st.none() | st.tuples(st.sampled_from(["value", "norm"]), st.floats(0.015625, 4)),
    clip_on=st.sampled_from(["grad", "update"]),
    special=st.none() | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-42, 3e38]),
    where=st.integers(0, 2**20),
)
def test_every_law_on_every_shape(shape, special, where, **law):
    operands = proposed(shape)
    if special is not None and operands[0].numel():
        operands[where % 4].view(-1)[where % operands[0].numel()] = special
    got, want = ratio(operands, "cpu", **law)["log_ratio"], ratio(operands, "reference", **law)["log_ratio"]
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.nan_to_num(7), want.nan_to_num(7))


def density_ratio(x, there, proposal, back, noise_std, prior_precision):
    """The log ratio of normal densities given the drifts, element by element, and by how much rounding may move it."""
    x, there, proposal, back = (v.double() for v in (x, there, proposal, back))
    forward, backward = Normal(x - there, noise_std).log_prob(proposal), Normal(proposal - back, noise_std).log_prob(x)
    prior = prior_precision / 2 * torch.stack([-proposal.square(), x.square()])
    reach = (x.abs() + proposal.abs() + there.abs() + back.abs()) / noise_std
    terms = torch.cat([backward[None], -forward[None], prior]).transpose(0, 1).flatten(1)
    scale = (reach.square() + 2 + 2 * abs(math.log(noise_std))).flatten(1).sum(1) + prior.abs().sum(0).flatten(1).sum(1)
    roundings = 16 + math.ceil(math.log2(x[0].numel()))  # of the terms, and of the tree
    return torch.tensor([math.fsum(row) for row in terms.tolist()], dtype=torch.float64), roundings * 2.0**-53 * scale


@pytest.mark.parametrize("law", RATIOS.values(), ids=RATIOS)
def test_it_is_the_ratio_of_normal_densities(law):
    operands = [v.double() for v in proposed((6, 3, 50))]
    law = {"step_size": 0.1, "noise_std": 0.3, "temperature": 1.0, "prior_precision": 0.0, "clip": None} | law
    drifts = [drift(*operands[k : k + 2], **law) for k in (0, 2)]
    want, rounding = density_ratio(
        operands[0], drifts[0], operands[2], drifts[1], law["noise_std"], law["prior_precision"]
    )
    got = hatebm.ops.langevin_ratio(*operands, **law)
    assert ((got - want).abs() <= rounding).all()
    assert (rounding < 1e-6 * (1 + want.abs())).all()


def drift(x, grad, *, step_size, temperature, prior_precision, clip, clip_on="grad", **_):
    """step_size * clip(grad / temperature + prior_precision * x) in float64."""
    total = grad / temperature + prior_precision * x
    total = total * step_size if clip_on == "update" else total
    if clip is not None and clip[0] == "value":
        total = total.clamp(-clip[1], clip[1])
    elif clip is not None:
        norm = total.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
        total = total * (clip[1] / norm).clamp(max=1)
    return total if clip_on == "update" else total * step_size


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("law", [{}, *(RATIOS[name] for name in ("value", "value update", "norm update"))], ids=str)
def test_its_drift_is_the_step_s_own_to_the_bit(law, backend):
    law = {**law, "step_size": 0.1, "temperature": 0.3}
    x, grad, proposal, proposal_grad = proposed((6, 700))
    still = {"noise_std": 0.0, "backend": backend, **law}  # from 0, so that nothing is rounded but the drift
    there, back = (-hatebm.ops.langevin_step_(torch.zeros(6, 700), g, **still) for g in (grad, proposal_grad))
    want, rounding = density_ratio(x, there, proposal, back, 0.3, 0.0)
    got = ratio((x, grad, proposal, proposal_grad), backend, **law)["log_ratio"]
    assert ((got - want).abs() <= rounding).all()


def test_without_a_step_it_is_a_difference_of_kinetic_energies():
    before, after = torch.randn(5, 300), torch.randn(5, 300)
    got = ratio((before, before, after, after), "cpu", **RATIOS["kinetic"])["log_ratio"]
    energy = [v.double().square().sum(1) / 2 for v in (before, after)]
    torch.testing.assert_close(got, energy[0] - energy[1], rtol=1e-12, atol=1e-10)


def test_neither_keeps_a_graph():
    operands = [v.requires_grad_() for v in proposed((3, 4))]
    for backend in ("cpu", "reference"):
        log_ratio = ratio(operands, backend)["log_ratio"]
        assert not log_ratio.requires_grad
        assert not hatebm.ops.metropolis(log_ratio, seed=1, step=2, backend=backend).requires_grad


@pytest.mark.parametrize("n", [0, 1, 3, 15, 16, 17, 1023, 1025, 40_000])
def test_decisions_have_the_reference_bits(n, instruction_set):
    log_ratio = torch.randn(2, n, dtype=torch.float64).t()[:, 0]
    for ids in (None, torch.randint(2**40, (n,))):
        at = {"seed": -3, "step": 2**39 + 5, "block": 2, "chain_ids": ids}
        want = hatebm.ops.metropolis(log_ratio, **at, backend="reference")
        got = hatebm.ops.metropolis(log_ratio, **at, backend="cpu")
        assert got.dtype == torch.bool
        assert torch.equal(got, want)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    "draw", [{"seed": 0, "step": 7}, {"seed": 2**63 + 11, "step": 2**39 + 5, "block": 200}], ids=str
)
def test_a_decision_turns_at_the_logarithm_of_the_uniform(draw, backend):
    chains = torch.randint(2**40, (4000,))
    log_u = []
    for chain in chains.tolist():
        last = draw.get("block", 0) | Purpose.METROPOLIS << 8 | chain >> 32 << 16 | draw["step"] >> 32 << 24
        counter = torch.tensor([0, chain % 2**32, draw["step"] % 2**32, last])
        word = int(hatebm.philox(counter, torch.tensor([draw["seed"] % 2**32, draw["seed"] >> 32]))[0])
        log_u.append(math.log((float(torch.tensor(float(word >> 1), dtype=torch.float32)) + 0.5) / 2**31))
    log_u = torch.tensor(log_u, dtype=torch.float64)
    rounding = 1.4e-5  # sqrt(-2 ln u) < 6.7 is exact to 2e-6, and the sum in u to half a unit in its last place
    at = {"chain_ids": chains, "backend": backend, **draw}
    assert hatebm.ops.metropolis(log_u + rounding, **at).all()
    assert not hatebm.ops.metropolis(log_u - rounding, **at).any()


def test_the_acceptance_rate_is_the_ratio():
    n = 200_000
    for step, rate in enumerate((0.001, 0.234, 0.574, 0.98)):
        log_ratio = torch.full((n,), math.log(rate), dtype=torch.float64)
        accepted = int(hatebm.ops.metropolis(log_ratio, seed=5, step=step).sum())
        assert abs(accepted - n * rate) < 4.5 * math.sqrt(n * rate * (1 - rate))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_what_is_certain_is_decided_so(backend):
    certain = torch.tensor([math.inf, 1.0, 1e-300, -math.inf, -50.0, math.nan], dtype=torch.float64)
    for seed in range(20):
        decided = hatebm.ops.metropolis(certain, seed=seed, step=0, backend=backend)
        assert decided.tolist() == [True, True, True, False, False, False]


def test_a_chain_decides_the_same_alone_and_by_its_seed_and_step():
    log_ratio = torch.full((500,), -0.7, dtype=torch.float64)
    at = {"seed": 3, "step": 4, "block": 1, "purpose": Purpose.METROPOLIS}
    batch = hatebm.ops.metropolis(log_ratio, **at)
    assert torch.equal(hatebm.ops.metropolis(log_ratio[100:], **at, chain_ids=range(100, 500)), batch[100:])
    tensors = {"seed": torch.tensor(3), "step": torch.tensor([4])}
    for backend in ("cpu", "reference"):
        assert torch.equal(hatebm.ops.metropolis(log_ratio, **at | tensors, backend=backend), batch)
    for name in at:
        assert not torch.equal(hatebm.ops.metropolis(log_ratio, **at | {name: at[name] + 1}), batch), name


def test_compiled_without_breaks_and_without_recompiling_for_a_step():
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=False)
    def decide(operands, t):
        log_ratio = hatebm.ops.langevin_ratio(*operands, step_size=0.1, noise_std=0.3, clip=("norm", 2.0))
        return hatebm.ops.metropolis(log_ratio, seed=1, step=t), log_ratio

    torch._dynamo.reset()
    operands = proposed((30, 7))
    counter = torch._dynamo.utils.counters["stats"]
    for t in range(5, 11):
        accept, log_ratio = decide(operands, torch.tensor(t))
        assert torch.equal(log_ratio, ratio(operands, "cpu", clip=("norm", 2.0))["log_ratio"])
        assert torch.equal(accept, hatebm.ops.metropolis(log_ratio, seed=1, step=t))
        if t == 5:
            graphs = counter["unique_graphs"]
    assert counter["unique_graphs"] == graphs


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("operands", "changes", "message"),
    [
        ((X.half(), X, X, X), {}, "x must be float32"),
        ((torch.tensor(1.0), X, X, X), {}, r"x must be \(n, \*sample\)"),
        ((X, None, X, X), {}, "grad must be a tensor"),
        ((X, X[:2], X, X), {}, "grad must be a tensor of shape"),
        ((X, X.double(), X, X), {}, "grad must be float32 or bfloat16 or float16"),
        ((X, X, X.double(), X), {}, "proposal must be float32"),
        ((X, X, X[:, :2], X), {}, "proposal must be a tensor of shape"),
        ((X, X, X, X.half()), {}, "proposal_grad must be float32"),
        ((X, X, X, None), {}, "proposal_grad must be a tensor"),
        ((X.double(),) * 4, {"backend": "cpu"}, "backend must be 'reference' or None"),
        ((X,) * 4, {"step_size": math.nan}, "step_size must be a finite number"),
        ((X,) * 4, {"noise_std": 0.0}, "noise_std must be a finite number > 0"),
        ((X,) * 4, {"noise_std": math.inf}, "noise_std must be a finite number > 0"),
        ((X,) * 4, {"noise_std": math.nan}, "noise_std must be a finite number > 0"),
        ((X,) * 4, {"temperature": 0.0}, "temperature must be a finite number > 0"),
        ((X,) * 4, {"prior_precision": math.inf}, "prior_precision must be a finite number"),
        ((X,) * 4, {"clip": ("l2", 1.0)}, "clip must be"),
        ((X,) * 4, {"clip_on": "x"}, "clip_on must be"),
    ],
)
def test_bad_arguments_of_a_ratio_are_named(operands, changes, message):
    with pytest.raises((ValueError, TypeError), match=f"langevin_ratio: {message}"):
        hatebm.ops.langevin_ratio(*operands, **{"step_size": 0.1, "noise_std": 0.3} | changes)


LOG_RATIO = torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("log_ratio", "changes", "message"),
    [
        (LOG_RATIO.float(), {}, "log_ratio must be float64"),
        (LOG_RATIO[:, None], {}, r"log_ratio must be \(n,\)"),
        ([0.0], {}, "log_ratio must be a tensor"),
        (LOG_RATIO, {"step": -1}, "step must be in"),
        (LOG_RATIO, {"seed": 1.5}, "seed must be an int"),
        (LOG_RATIO, {"purpose": 256}, "purpose must be in"),
        (LOG_RATIO, {"chain_ids": [0]}, "chain_ids must be shape"),
    ],
)
def test_bad_arguments_of_a_decision_are_named(log_ratio, changes, message):
    with pytest.raises((ValueError, TypeError), match=f"metropolis: {message}"):
        hatebm.ops.metropolis(log_ratio, **{"seed": 0, "step": 0} | changes)
