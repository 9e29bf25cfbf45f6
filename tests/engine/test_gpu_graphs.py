"""CUDA graphs on a GPU: the bits of the loop, nothing stale, and a reason where there is none."""

import gc
import threading
import weakref

import pytest
import torch
from graph_runs import D, N, Net, assert_same_run, chains
from torch import nn

import hatebm
from hatebm.engine.graphs import runs
from hatebm.engine.prepare import rules

pytestmark = pytest.mark.gpu
LAWS = {
    "plain": {},
    "norm clip, box": {"clip": ("norm", 0.5), "clamp": (-1, 1)},
    "noise before": {"noise_at": "before", "clamp": (-1, 1), "clamp_at": "noise+step"},
    "reflect": {"reflect": (-0.5, 0.5)},
    "prior, temperature": {"prior_precision": 0.5, "temperature": 0.3, "add": "fma"},
    "levels": {"eps": [0.1] * 40 + [0.05] * 40},
    "ids": {"chain_ids": torch.arange(N) + 2**33, "first_step": 2**36, "seed": -7},
    "bfloat16": {"precision": "bfloat16"},
    "tf32": {"precision": "tf32"},
    "triton": {"backend": "triton"},
}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().cuda()


@pytest.fixture
def x():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1)).cuda()


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_replays_have_the_bits_of_the_loop(law, masked, net, x):
    mask = torch.rand(N, D, device="cuda") > 0.5 if masked else None
    pair = chains(net, x, mask=mask, **law)
    assert assert_same_run(pair) == "CUDA graph: 37 steps replayed"
    assert assert_same_run(pair) == "CUDA graph: 40 steps replayed"
    assert len(runs._kept[net]) == 1


@pytest.mark.parametrize("order", ["joint", "sequential"])
@pytest.mark.parametrize("eps", [(0.1, 0.2), (0.0, 0.2)], ids=["both", "one frozen"])
def test_blocks(order, eps, x):
    net = Net(2 * D).cuda()
    energy = lambda z, y: net(torch.cat([z, y], 1))  # noqa: E731
    pair = chains(energy, (x, x.flip(0)), eps=eps, blocks=order)
    assert assert_same_run(pair) == assert_same_run(pair) == "CUDA graph: 37 steps replayed"


def test_a_state_of_other_strides_and_another_stream(net, x):
    pair = chains(net, x.T.contiguous().T)
    assert_same_run(pair)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        assert assert_same_run(pair) == "CUDA graph: 40 steps replayed"


def test_weights_updated_in_place_are_seen_and_new_storage_is_noticed(net, x):
    pair = chains(net, x)
    assert_same_run(pair)
    with torch.no_grad():
        net.first.weight.mul_(-2)
    net.second.bias.data.add_(1)
    assert assert_same_run(pair) == "CUDA graph: 40 steps replayed"
    assert len(runs._kept[net]) == 1
    net.first.weight.data = net.first.weight.data.neg()
    assert assert_same_run(pair) == "CUDA graph: 37 steps replayed"
    net.second = nn.Linear(64, 1).cuda()
    assert assert_same_run(pair) == "CUDA graph: 37 steps replayed"
    net.scale = 0.5
    assert assert_same_run(pair) == "CUDA graph: 37 steps replayed"
    assert len(runs._kept[net]) == 4


def test_a_function_is_captured_for_each_run(net, x):
    factor = 1.0
    pair = chains(lambda x: factor * net(x), x)
    assert assert_same_run(pair) == "CUDA graph: 37 steps replayed"
    factor = 3.0
    assert assert_same_run(pair) == "CUDA graph: 37 steps replayed"
    assert assert_same_run(chains(None, x, grad_fn=lambda x: factor * x)) == "CUDA graph: 37 steps replayed"
    assert net not in runs._kept


def test_folded_kernels_are_made_of_the_weights_of_the_run(monkeypatch):
    """The loop beside it is one whose callback lets no two steps run together."""
    monkeypatch.setattr(rules, "WORTH", 0)
    torch.manual_seed(0)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.AvgPool2d(2), nn.SiLU(), nn.Flatten(), nn.LazyLinear(1))
        net = net.cuda()
        x = torch.randn(8, 3, 16, 16, device="cuda")
        net(x)
        one, other = (hatebm.Chain(net, x, eps=0.1, seed=3) for _ in range(2))
        for _ in range(2):
            assert torch.equal(one.run(30), other.run(30, callback=lambda t, state: None))
            assert "folded" in one.report()
            assert "steps replayed" in one.report()
            assert "CUDA graph: none" in other.report()
            with torch.no_grad():
                net[0].weight.mul_(-1.5)


def test_short_runs_come_by_a_graph_at_the_second(net, x):
    pair = chains(net, x)
    assert assert_same_run(pair, 10) == "CUDA graph: none, too few steps in a row"
    assert assert_same_run(pair, 10) == "CUDA graph: 7 steps replayed"
    assert assert_same_run(pair, 10) == "CUDA graph: 10 steps replayed"
    assert assert_same_run(chains(lambda x: net(x), x), 10) == "CUDA graph: none, too few steps in a row"


def test_callbacks_see_every_step_that_they_asked_for(net, x):
    kept = []
    for chain in chains(net, x):
        seen = []
        chain.run(90, callback=lambda t, state, seen=seen: seen.append((t, state)), every=30)
        _, info = chain.run(60, return_info=True, every=20)
        kept.append((seen, info, chain.state))
    (seen, info, state), (other_seen, other_info, other_state) = kept
    assert [t for t, _ in seen] == [t for t, _ in other_seen] == [0, 30, 60]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(seen, other_seen, strict=True))
    assert all(torch.equal(info[name], other_info[name]) for name in info)
    assert torch.equal(state, other_state)


def counted():
    calls = []

    def energy(x):
        calls.append(1)
        return x.square().sum(1)

    return energy


REFUSED = {
    "item": (lambda: lambda x: x.square().sum(1) * (1 if x.sum().item() > 0 else 2), {}, "waits for the device"),
    "backward": (lambda: lambda x: Waits.apply(x).square().sum(1), {}, "waits for the device"),
    "counts": (counted, {}, "writes to what it reads"),
    "noise": (lambda: Net().cuda(), {"noise": lambda t: torch.ones(N, D, device="cuda")}, "noise is given"),
}


class Waits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * (1 if grad.sum().item() > 0 else 2)


@pytest.mark.parametrize(("make", "law", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_captured_goes_step_by_step_and_says_why(make, law, why, x):
    torch.manual_seed(0)
    note = assert_same_run(chains(make(), x, **law))
    assert note.startswith("CUDA graph refused: ")
    assert why in note


def test_random_modules_are_refused(x):
    net = nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.5), nn.Linear(8, 1), nn.Flatten(0)).cuda()
    states = []
    for how in ("auto", "off"):
        torch.manual_seed(5)
        chain = hatebm.Chain(net, x, eps=0.1, seed=3, mode="train", compile=how)
        states.append(chain.run(40))
        assert how == "off" or "draws random numbers" in chain.report()
    assert torch.equal(*states)


def test_a_capture_that_fails_leaves_nothing_behind(net, x):
    def energy(x):
        torch.cuda.synchronize()
        return net(x)

    pair = chains(energy, x)
    assert "refused" in assert_same_run(pair)
    assert "refused" in assert_same_run(pair)
    torch.cuda.empty_cache()  # torch's allocator waits for no capture
    assert torch.randn(5, device="cuda").isfinite().all()  # nor its generator
    assert assert_same_run(chains(net, x)) == "CUDA graph: 37 steps replayed"
    assert assert_same_run(chains(net, x)) == "CUDA graph: 40 steps replayed"


@pytest.mark.parametrize("kind", ["energy", "gradient"])
def test_the_first_bad_step_and_its_chains_are_named(kind, x):
    """Chains 3 and 9 climb by 0.1 a step from 0.05 and break once they are above 2; the others stay."""

    def energy(x):
        climbing, high = -x[:, 0], x[:, 0] > 2
        if kind == "energy":
            return torch.where(high, torch.nan, climbing)
        return climbing + torch.where(high, x[:, 0] - x[:, 0].detach(), 1.0).sqrt()  # of infinite slope at 0

    start = torch.full((N, D), -50.0, device="cuda")
    start[[3, 9]] = 0.05
    chain = hatebm.Chain(energy, start, step_size=0.1, noise_std=0.0, first_step=5, seed=0)
    with pytest.raises(hatebm.ChainDiverged) as caught:
        chain.run(60)
    assert caught.value.step == 25
    assert caught.value.chains == [3, 9]
    assert torch.equal(chain.state, start)
    assert chain.step == 5


def test_memory_does_not_grow(x):
    def runs(count):
        for i in range(count):
            net = Net().cuda()
            hatebm.langevin(net, x, 20, eps=0.1, seed=i)
            hatebm.langevin(lambda x, net=net: net(x), x, 20, eps=0.1, seed=i)
        del net
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    runs(3)
    allocated, reserved = runs(3)
    now_allocated, now_reserved = runs(100)
    assert now_allocated == allocated
    assert now_reserved - reserved < 100 * 2**21  # torch reserves 2 MiB at least


def test_a_graph_keeps_no_module_alive(x):
    net = Net().cuda()
    chain = hatebm.Chain(net, x, eps=0.1, seed=0)
    chain.run(40)
    assert net in runs._kept
    gone = weakref.ref(net)
    del net, chain
    gc.collect()
    assert gone() is None


def test_chains_of_one_module_take_turns(net, x):
    one, other = chains(net, x, seed=1), chains(net, x.flip(0), seed=2, first_step=9)
    for _ in range(3):
        assert_same_run(one)
        assert_same_run(other)
    assert len(runs._kept[net]) == 1


def test_chains_in_threads(net, x):
    want = [hatebm.langevin(net, x, 200, eps=0.1, seed=s, compile="off") for s in range(4)]
    got = [None] * 4

    def sample(s):
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
            got[s] = hatebm.langevin(net, x, 200, eps=0.1, seed=s)
            torch.cuda.current_stream().synchronize()

    hatebm.langevin(net, x, 40, eps=0.1, seed=0)
    threads = [threading.Thread(target=sample, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
