"""The noise contract: words, bits and law."""

import math

import numpy
import pytest
import torch
from scipy import stats

import hatebm
from hatebm.ops import reference
from hatebm.ops.noise import uniform, words

RANDOM123 = [  # counter, key, words: the known answers that Random123 publishes for philox4x32-10
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_philox_gives_the_published_words(backend):
    counters, keys, words = (torch.tensor(column) for column in zip(*RANDOM123, strict=True))
    assert torch.equal(hatebm.philox(counters, keys, backend=backend), words)
    assert torch.equal(hatebm.philox(counters[2], keys, backend=backend)[2], words[2])


def contract(shape, seed, step, block=0, purpose=0, chains=None):
    """The contract in exact arithmetic, element by element, as its text has it: float64 values and nothing shared."""
    out = torch.empty(shape, dtype=torch.float64)
    key = torch.tensor([seed % 2**32, seed % 2**64 >> 32])
    for i, row in enumerate(out.view(shape[0], -1)):
        c = i if chains is None else chains[i]
        for e in range(len(row)):
            last = block | purpose << 8 | (c >> 32) << 16 | (step >> 32) << 24
            counter = torch.tensor([e // 4, c % 2**32, step % 2**32, last])
            words = hatebm.philox(counter, key, backend="reference").tolist()
            even, odd = words[:2] if e % 4 < 2 else words[2:]
            u = float((torch.tensor(even >> 1).float() + 0.5) * 2.0**-31)
            a = float(torch.tensor(odd - 2**32 if odd >= 2**31 else odd).float() * 2.0**-31)
            r, sign = math.sqrt(-2 * math.log(u)), -1 if even & 1 else 1
            row[e] = sign * r * math.cos(math.pi * a / 2) if e % 2 == 0 else r * math.sin(math.pi * a / 2)
    return out


@pytest.mark.parametrize(
    "draw",
    [
        {"seed": 0, "step": 7},
        {"seed": -3, "step": 2**39 + 5, "block": 255, "purpose": 4},
        {"seed": 2**63 + 11, "step": 1, "chains": [2**40 - 1, 17, 2**32]},
    ],
    ids=["plain", "far step", "far chains"],
)
def test_normals_follow_the_contract(draw):
    want = contract((3, 2, 5), **draw)
    chain_ids = draw.pop("chains", None)
    got = hatebm.normal((3, 2, 5), chain_ids=chain_ids, **draw)
    assert (got.double() - want).abs().max() < 2e-6


def test_box_muller_is_exact_to_2e_6_at_every_corner():
    even = torch.cat([torch.arange(4096), 2**32 - 1 - torch.arange(4096), torch.randint(2**32, (200_000,))])
    odd = torch.randint(2**32, even.shape)
    odd[:6] = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1])
    first, second = reference.box_muller(even, odd)
    u = (((even >> 1).float() + 0.5) * 2.0**-31).double()
    a = (torch.where(odd >= 2**31, odd - 2**32, odd).float() * 2.0**-31).double()
    r = (-2 * u.log()).sqrt()
    assert (first - (1 - 2 * (even & 1)) * r * (math.pi * a / 2).cos()).abs().max() < 2e-6
    assert (second - r * (math.pi * a / 2).sin()).abs().max() < 2e-6


@pytest.mark.parametrize(
    "shape",
    [(0, 3), (3, 0), (1,), (5,), (2, 1), (3, 2), (130, 2), (4, 63), (4, 64), (3, 65), (2, 3, 33, 35), (1, 5000)],
)
def test_compiled_normals_have_the_reference_bits(shape, instruction_set):
    draw = {"seed": 123, "step": 2**33 + 1, "block": 2, "purpose": 1}
    near, far = torch.arange(shape[0]), torch.randint(2**40, shape[:1])
    for chain_ids in (None, far, near + 2**35, torch.where(near < shape[0] // 2, near, far)):
        want = hatebm.normal(shape, **draw, chain_ids=chain_ids, backend="reference")
        assert torch.equal(hatebm.normal(shape, **draw, chain_ids=chain_ids, backend="cpu"), want)


def test_threads_do_not_change_a_bit():
    threads = torch.get_num_threads()
    try:
        draws = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            draws.append(hatebm.normal((40, 3, 31, 31), seed=5, step=6))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


def test_a_chain_draws_the_same_alone():
    batch = hatebm.normal((128, 3, 8, 8), seed=1, step=4)
    assert torch.equal(batch[17:18], hatebm.normal((1, 3, 8, 8), seed=1, step=4, chain_ids=[17]))


def test_neighbouring_seeds_steps_blocks_and_purposes_share_nothing():
    base = {"seed": 10, "step": 10, "block": 1, "purpose": 1}
    one = hatebm.normal((4, 250), **base)
    for name in base:
        other = hatebm.normal((4, 250), **base | {name: base[name] + 1})
        assert not torch.isin(one, other).any(), name


def test_negative_seeds_are_taken_modulo_2_to_64():
    assert torch.equal(
        hatebm.normal((2, 9), seed=-1, step=0), hatebm.normal((2, 9), seed=2**64 - 1, step=0, backend="reference")
    )


def test_any_kind_of_integer_will_do():
    want = hatebm.normal((2, 9), seed=2**63 + 5, step=3, chain_ids=[4, 5])
    ids = torch.tensor([4, 5], dtype=torch.int32)
    for backend in ("cpu", "reference"):
        got = hatebm.normal((2, 9), seed=numpy.uint64(2**63 + 5), step=numpy.int32(3), chain_ids=ids, backend=backend)
        assert torch.equal(got, want)


def test_seed_and_step_may_be_tensors():
    tensors = {"seed": torch.tensor([-7]), "step": torch.tensor(2**35)}
    want = hatebm.normal((2, 9), seed=-7, step=2**35)
    for backend in ("cpu", "reference"):
        assert torch.equal(hatebm.normal((2, 9), **tensors, backend=backend), want)


def test_the_law_is_standard_normal():
    draws = hatebm.normal((8, 1_000_000), seed=2024, step=0).double()
    flat = draws.flatten()
    assert stats.kstest(flat.numpy(), "norm").pvalue > 1e-3
    n = flat.numel()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15), (8, 105)):
        spread = math.sqrt((math.prod(range(2 * power - 1, 0, -2)) - moment**2) / n)
        assert abs(float(flat.pow(power).mean()) - moment) < 4.5 * spread, power
    edges = torch.tensor(stats.norm.ppf([k / 4096 for k in range(1, 4096)]))
    counts = torch.bincount(torch.bucketize(flat, edges), minlength=4096).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3
    pairs = torch.stack([draws[:, k::4].flatten() for k in range(4)])
    assert (torch.corrcoef(pairs) - torch.eye(4)).abs().max() < 4.5 / math.sqrt(n / 4)
    squares = torch.corrcoef(pairs.square())
    assert (squares - torch.eye(4)).abs().max() < 4.5 / math.sqrt(n / 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": -1}, "step must be in"),
        ({"step": 2**40}, "step must be in"),
        ({"seed": 2**64}, "seed must be in"),
        ({"seed": 1.5}, "seed must be an int"),
        ({"block": 256}, "block must be in"),
        ({"purpose": -1}, "purpose must be in"),
        ({"chain_ids": [0, 2**40]}, "chain_ids must be ids in"),
        ({"chain_ids": [0]}, "chain_ids must be shape"),
        ({"backend": "gpu"}, "backend must be one of"),
        ({"shape": ()}, "shape must be"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        hatebm.normal(**{"shape": (2, 3), "seed": 0, "step": 0} | changes)


def test_a_chosen_backend_that_is_missing_says_why():
    for name, state in hatebm.backends().items():
        if state is not True:
            with pytest.raises(RuntimeError, match="cannot run here"):
                hatebm.normal((2, 3), seed=0, step=0, backend=name)


@pytest.mark.parametrize("word", [-1, 2**32])
def test_philox_refuses_what_is_no_word(word):
    with pytest.raises(ValueError, match="words in"):
        hatebm.philox(torch.tensor([0, 0, 0, word]), torch.tensor([0, 0]))


def test_words_and_uniforms_go_by_the_counter_of_the_contract():
    place = {"seed": 2**63 + 5, "step": 2**33 + 1, "block": 3, "purpose": 9}
    got = words((2, 6), chain_ids=[7, 2**32 + 8], **place)
    for row, chain in zip(got, (7, 2**32 + 8), strict=True):
        last = 3 | 9 << 8 | (chain >> 32) << 16 | 2 << 24
        counter = torch.tensor([[quad, chain % 2**32, 1, last] for quad in (0, 1)])
        assert torch.equal(row, hatebm.philox(counter, torch.tensor([5, 2**31])).flatten()[:6])
    drawn = uniform((2, 6), chain_ids=[7, 2**32 + 8], **place)
    assert torch.equal(drawn.double() * 2**24, (got >> 8).double())
    assert uniform((3, 0), **place).shape == (3, 0)
    assert uniform((4,), **place).shape == (4,)
    assert stats.kstest(uniform((100, 100), **place).flatten().double().numpy(), "uniform").pvalue > 1e-3
