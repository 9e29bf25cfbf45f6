"""What return_info tells of a step: by hand in float64, and in the bits of the ops that take the step."""

import pytest
import torch
from loops import drawn
from targets import gaussian_energy

import hatebm
from hatebm.ops.law_tensors import LawTensor
from hatebm.ops.reference import sample_norm

N, D, SEED = 6, 5, 3
MASK = torch.tensor([True, False, True, True, False])
RESTING = torch.tensor([0.3, 0.0, 0.1, 0.3, 0.0, 0.2])
PRIORS = torch.tensor([0.4, 0.4, 0.0, 0.1, 0.2, 0.0])
LAWS = {
    "plain": {"eps": 0.3},
    "tempered, a prior": {"eps": 0.3, "temperature": 0.7, "prior_precision": 0.4},
    "noise before, walls": {"eps": 0.5, "noise_at": "before", "clamp": (-0.8, 0.9), "clamp_at": "noise+step"},
    "clipped": {"eps": 0.3, "clip": ("norm", 0.05), "clip_on": "update", "prior_precision": 0.4},
    "walls": {"eps": 0.9, "reflect": (-1.0, 1.0)},
    "a mask": {"eps": 0.3, "mask": MASK, "prior_precision": 0.4},
    "some rest": {"eps": hatebm.per_chain(RESTING), "prior_precision": hatebm.per_chain(PRIORS)},
    "pauses": {"eps": [0.0] * 6 + [0.3, 0.0] * 4},
    "mala": {"eps": 0.9, "correct": "mala", "prior_precision": 0.4},
    "hmc": {"eps": 0.7, "leapfrog_steps": 3, "prior_precision": 0.4, "mask": MASK},
    "friction": {"eps": 0.4, "friction": 1.0, "temperature": 0.7},
    "jointly": {"eps": (0.3, 0.2), "prior_precision": (0.4, 0.0), "mask": (MASK, None)},
    "in turns": {"eps": (0.3, 0.2), "prior_precision": (0.0, 0.4), "temperature": 0.7, "blocks": "sequential"},
    "one stays": {"eps": (0.0, 0.2), "prior_precision": 0.4},
    "mala in turns": {"eps": (0.6, 0.7), "correct": "mala", "blocks": "sequential"},
}
EACH_LAW = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def wavy(x):
    return x.cos().sum(1) + x.square().sum(1) / 3


def paired(z, y):
    return wavy(z) + wavy(y) + (z[:, :3].sum(1) * y.sum(1)).sin()


def in_parts(energy):
    """The energy in three parts, whose sum is another in another order."""
    return lambda *state: {
        "it": energy(*state),
        "norms": sum(x.abs().sum(1) for x in state) / 8,
        "far": 1e4 + state[0].sum(1) / 8,
    }


def in_sum(energy):
    """The sum of these parts."""
    return lambda *state: sum(in_parts(energy)(*state).values())


def chain(law, made=lambda energy: energy, **more):
    """A chain of one block, or of two where its law has an eps for each, and its energy, made of another."""
    two = isinstance(law["eps"], tuple)
    energy, start = (paired, (drawn((N, D)), drawn((N, 3), 5))) if two else (wavy, drawn((N, D)))
    law = {"seed": SEED, "first_step": 5, "compile": "off"} | law | more
    return hatebm.Chain(made(energy), start, **law), made(energy)


def blocks_of(state):
    return state if isinstance(state, tuple) else (state,)


def of_block(value, k):
    """What a law gives block k, a number or one a chain, as it meets the block's elements."""
    value = value[k] if isinstance(value, tuple) else value
    return PRIORS[:, None] if isinstance(value, LawTensor) else value


def by_hand(energy, law, t, before, after):
    """The facts of step t between two states of plain laws, from autograd and the specification of the ops."""
    pulls, of_energy, ways, at = [], [], [], before
    for k, x in enumerate(before):
        if law.get("blocks") == "sequential":
            at = [*after[:k], *before[k:]]
        if law.get("noise_at") == "before":
            at = [(x + law["eps"] * hatebm.normal(x.shape, seed=SEED, step=t)).clamp(*law["clamp"])]
        leaves = [v.clone().requires_grad_() for v in at]
        grad = torch.autograd.grad(energy(*leaves).sum(), leaves)[k]
        eps, mask = law["eps"], law.get("mask")
        eps = eps[k] if isinstance(eps, tuple) else eps[t] if isinstance(eps, list) else eps
        moves = RESTING[:, None] != 0 if isinstance(eps, LawTensor) else torch.tensor(eps != 0)
        mask = mask[k] if isinstance(mask, tuple) else mask
        moves = moves if mask is None else moves & mask
        of_prior = of_block(law.get("prior_precision", 0.0), k) * at[k]
        g = grad * (1.0 / law.get("temperature", 1.0))
        for norms, v in ((pulls, g + of_prior), (of_energy, g), (ways, after[k] - x)):
            norms.append(sample_norm(torch.where(moves, v, 0.0)))
    joint = [v[0] if len(v) == 1 else (v[0] * v[0] + v[1] * v[1]).sqrt() for v in (pulls, ways)]
    return {"grad_norm": joint[0], "grad_norm_energy": torch.stack(of_energy, 1), "displacement": joint[1]}, at


@EACH_LAW
def test_every_law_tells_the_bits_of_its_steps(law):
    (whole, energy), (pieces, _) = chain(law), chain(law)
    state, info = whole.run(7, return_info=True)
    told = []
    for t in range(5, 12):
        before = blocks_of(pieces.state)
        told.append(pieces.run(1, return_info=True)[1])
        want, at = by_hand(energy, law, t, before, blocks_of(pieces.state))
        assert told[-1]["step"].tolist() == [t]
        for name, rows in want.items():
            assert torch.equal(told[-1][name][0], rows), name
        assert torch.equal(told[-1]["energy"][0], energy(*(before if "correct" in law else at)))
    for name, rows in info.items():
        assert torch.equal(rows, torch.cat([one[name] for one in told])), name
    assert info["grad_norm_energy"].shape == (7, N, len(before))
    assert {rows.shape for name, rows in info.items() if name not in ("step", "grad_norm_energy")} == {(7, N)}
    assert torch.equal(blocks_of(state)[0], blocks_of(pieces.state)[0])


@EACH_LAW
def test_an_energy_in_parts_is_their_sum_and_tells_them(law):
    (summed, _), (parted, _) = chain(law, in_sum), chain(law, in_parts)
    (want, info), (got, told) = summed.run(9, every=4, return_info=True), parted.run(9, every=4, return_info=True)
    assert all(map(torch.equal, blocks_of(got), blocks_of(want)))
    assert told.keys() - info.keys() == {"energy_parts"}
    assert all(torch.equal(told[name], info[name]) for name in info)
    parts = told["energy_parts"]
    assert list(parts) == ["it", "norms", "far"]
    assert torch.equal(parts["it"] + parts["norms"] + parts["far"], info["energy"])
    assert parts["norms"].shape == (2, N)
    assert parts["norms"].std() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_norms_are_those_by_hand(dtype):
    x, t, p = drawn((N, D)).to(dtype), 0.7, 0.4
    law = {"step_size": 0.05, "noise_std": 0.2, "temperature": t, "prior_precision": p, "seed": 1}
    states = [x]
    half = gaussian_energy(1.0)
    info = hatebm.langevin(half, x, 4, return_info=True, callback=lambda _, x: states.append(x), **law)[1]
    starts, ends = torch.stack(states[:-1]).double(), torch.stack(states[1:]).double()
    rounded = 8 * torch.finfo(dtype).eps / 2  # 1 / T, its product, the prior's, their sum, the norm, a root, to dtype
    for name, want in {
        "energy": starts.square().sum(2) / 2,
        "grad_norm": (1 / t + p) * starts.norm(dim=2),
        "grad_norm_energy": starts.norm(dim=2)[..., None] / t,
        "displacement": (ends - starts).norm(dim=2),
    }.items():
        assert info[name].dtype == dtype
        torch.testing.assert_close(info[name].double(), want, rtol=rounded, atol=0)


def test_a_scalar_energy_is_told_as_one_number():
    state, info = hatebm.langevin(lambda x: wavy(x).sum(), drawn((N, D)), 4, eps=0.1, seed=0, every=2, return_info=True)
    want, told = hatebm.langevin(wavy, drawn((N, D)), 4, eps=0.1, seed=0, every=2, return_info=True)
    assert torch.equal(state, want)
    assert info["energy"].shape == (2, 1)
    torch.testing.assert_close(info["energy"], told["energy"].sum(1, keepdim=True), rtol=1e-6, atol=0)
    assert torch.equal(info["grad_norm_energy"], told["grad_norm_energy"])


NO_PARTS = {
    r"\['b'\] must be of shape \(6,\), a part of each energy, got a float32 tensor of shape \(\)": {
        "b": torch.zeros(())
    },
    r"\['b'\] must be of shape \(6,\), .*, got a float32 tensor of shape \(5,\)": {"b": torch.zeros(5)},
    r"\['b'\] must be of shape \(6,\), .*, got 0\.5": {"b": 0.5},
}


@pytest.mark.parametrize("law", [{}, {"correct": "mala"}, {"friction": 1.0}], ids=str)
def test_what_is_no_part_is_named(law):
    def refused(energy, text):
        with pytest.raises(ValueError, match=rf"^langevin: energy's result{text}"):
            hatebm.langevin(energy, drawn((N, D)), 3, eps=0.1, seed=0, **law)

    for text, more in NO_PARTS.items():
        refused(lambda x, more=more: {"a": wavy(x)} | more, text)
    refused(lambda x: {}, r" must be a tensor, or a dict of parts of shape \(6,\), got {}")
    seen = []
    some = lambda x: {"a": wavy(x)} | ({"b": wavy(x)} if len(seen) > 1 else {})  # noqa: E731
    refused(
        lambda x: seen.append(1) or some(x), r" must be a dict of \['a'\] at every step, got .*a dict of \['a', 'b'\]"
    )
    seen.clear()
    refused(lambda x: seen.append(1) or (some(x) if len(seen) > 1 else wavy(x)), " must be a tensor at every step, got")


def test_where_nothing_is_kept_the_columns_are_there():
    for law in (LAWS["plain"], LAWS["mala"], LAWS["in turns"]):
        one, _ = chain(law)
        none, info = one.run(2, every=4, return_info=True)[1], one.run(2, return_info=True)[1]
        assert none.keys() == info.keys()
        for name, rows in info.items():
            assert (none[name].dtype, none[name].shape) == (rows.dtype, (0, *rows.shape[1:])), name


def test_parts_pass_through_everything_that_takes_an_energy():
    x, law = drawn((N, D)), {"seed": 0, "return_info": True}
    energy, total = in_parts(wavy), in_sum(wavy)

    def both(sample):
        (got, told), (want, info) = sample(energy), sample(total)
        assert torch.equal(got, want)
        assert torch.equal(told["energy"], info["energy"])
        return told

    for call in (
        lambda e: hatebm.langevin(hatebm.product(e, e), x, 3, eps=0.1, **law),
        lambda e: hatebm.langevin(hatebm.mixture(wavy, e), x, 3, eps=0.1, **law),
        lambda e: hatebm.langevin(hatebm.negate(e, by=e, weight=0.5), x, 3, eps=0.1, **law),
    ):
        assert "energy_parts" not in both(call)
    for call in (
        lambda e: hatebm.tempering(e, x, 6, temperatures=[1, 2], swap_every=2, eps=0.1, every=2, **law),
        lambda e: hatebm.hmc(e, x, 3, eps=0.1, leapfrog_steps=2, **law),
    ):
        told = both(call)
        assert told["energy_parts"]["it"].shape == told["energy"].shape == (3, N)
    (x, info), want = (
        hatebm.langevin(energy, x, 3, eps=0.1, grad_steps=2, **law),
        hatebm.langevin(total, x, 3, eps=0.1, seed=0),
    )
    assert torch.equal(x, want)
    assert not info["energy_parts"]["it"].requires_grad
    steered = hatebm.langevin(energy, drawn((N, D)), 3, eps=0.9, correct="mala", grad_fn=lambda x: x, **law)[1]
    assert torch.equal(sum(steered["energy_parts"].values()), steered["energy"])
    estimates = [hatebm.ais(e, (8, 2), bridges=3, eps=0.1, seed=0, device="cpu").log_z for e in (energy, total)]
    assert estimates[0] == estimates[1]


def test_a_negation_among_parts_is_looked_at_and_parts_may_come_between_runs():
    for weight, bounded in ((0.1, True), (3.0, False)):
        negation = hatebm.negate(lambda x: x.square().sum(1), by=lambda x: x.square().sum(1), weight=weight)
        one = hatebm.Chain(lambda x, e=negation: {"a": e(x), "b": wavy(x)}, drawn((N, D)), eps=0.1, seed=0)
        if bounded:
            one.run(2)
        else:
            with pytest.raises(ValueError, match="negate: weight must be"):
                one.run(2)
    energy = {"now": wavy}
    one = hatebm.Chain(lambda x: energy["now"](x), drawn((N, D)), eps=0.1, seed=0)
    assert "energy_parts" not in one.run(2, return_info=True)[1]
    energy["now"] = in_parts(wavy)
    assert "energy_parts" in one.run(2, return_info=True)[1]


@pytest.mark.parametrize("law", [{}, {"correct": "mala"}], ids=str)
def test_a_compiled_caller_is_told_of_parts(law):
    def sample(x):
        return hatebm.langevin(in_parts(wavy), x, 2, eps=0.1, seed=0, return_info=True, **law)

    torch.compiler.reset()
    (got, told), (want, info) = (
        torch.compile(sample, fullgraph=True, backend="aot_eager")(drawn((N, D))),
        sample(drawn((N, D))),
    )
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(told, info)


def test_what_is_held_counts_nowhere_whatever_lies_there():
    x, law = drawn((N, D)), LAWS["a mask"] | {"nan": "ignore", "seed": 0}
    want = hatebm.langevin(wavy, x, 3, return_info=True, **law)[1]
    told = hatebm.langevin(wavy, torch.where(MASK, x, torch.inf), 3, return_info=True, **law)[1]
    assert told["energy"].isnan().all()
    for name in ("grad_norm", "grad_norm_energy", "displacement"):
        assert want[name].min() > 0
        assert torch.equal(told[name], want[name])
