"""Threads that share a module: each gets its chain, nobody's gradients are lost, and all is left as it was found."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from engine_nets import Block, Head, images, small_networks_are_worth_it  # noqa: F401
from torch import nn

import hatebm
from hatebm.energies.held import held

WAIT = 60.0  # seconds after which a thread that should have gone on has not


def norm_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Dropout(0.5), nn.Linear(32, 1))


def hat():
    torch.manual_seed(0)
    return hatebm.HatEnergy(norm_net(), nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)))


def conv_net():
    torch.manual_seed(0)
    return Head(nn.Sequential(Block(64, 64), nn.BatchNorm2d(64)))


def difference():
    return hatebm.negate(norm_net(), norm_net(), 0.25)


ENERGIES = {
    "module": (norm_net, lambda net: net, lambda: torch.randn(16, 6)),
    "function": (norm_net, lambda net: lambda x: -net(x), lambda: torch.randn(16, 6)),
    "hat": (hat, lambda net: net, lambda: (torch.randn(16, 6), torch.randn(16, 6))),
    "negation": (difference, lambda net: net, lambda: torch.randn(16, 6)),
    "prepared": (conv_net, lambda net: net, lambda: images(6)),
}


@pytest.mark.parametrize(("make", "wrap", "start"), ENERGIES.values(), ids=ENERGIES)
def test_threads_that_sample_one_module_do_not_see_each_other(make, wrap, start):
    net, x, threads = make().train(), start(), 4
    law = {"eps": 0.01, "clamp": (-3.0, 3.0), "blocks": "sequential"}
    lone = make().train()  # a twin, so that in the threads everything is met for the first time
    want = [hatebm.langevin(wrap(lone), x, 4 + k, seed=k, **law) for k in range(threads)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    together = threading.Barrier(threads)

    def sample(k):
        together.wait(WAIT)
        return [hatebm.langevin(wrap(net), x, 4 + k, seed=k, **law) for _ in range(4)]

    with ThreadPoolExecutor(threads) as pool:
        got = list(pool.map(sample, range(threads)))
    for chains, alone in zip(got, want, strict=True):
        for chain in chains:
            torch.testing.assert_close(chain, alone, rtol=1e-5, atol=1e-6)
    assert all(part.training for part in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_no_gradient_is_lost_in_a_thread_that_trains():
    net, ended = norm_net(), threading.Event()

    def sample():
        while not ended.is_set():
            hatebm.langevin(net, torch.randn(8, 6), 5, eps=0.1)
            hatebm.langevin(lambda x: net(x), torch.randn(8, 6), 5, eps=0.1)

    with ThreadPoolExecutor(1) as pool:
        sampler = pool.submit(sample)
        try:
            for _ in range(200):
                net.zero_grad(set_to_none=True)
                net(torch.randn(8, 6)).sum().backward()
                assert all(p.grad is not None for p in net.parameters())
        finally:
            ended.set()
        sampler.result(WAIT)


def test_a_thread_that_wants_another_mode_waits():
    net, inside, go_on, order = norm_net(), threading.Event(), threading.Event(), []

    def evaluating():
        def callback(t, x):
            inside.set()
            go_on.wait(WAIT)
            order.append("eval")

        hatebm.langevin(net, torch.randn(8, 6), 1, eps=0.1, callback=callback)

    def training():
        inside.wait(WAIT)
        net.register_forward_pre_hook(lambda *_: order.append(f"train {net.training}"))
        hatebm.langevin(net, torch.randn(8, 6), 1, eps=0.1, mode="train")

    net.eval()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(evaluating), pool.submit(training)]
        inside.wait(WAIT)
        assert not any(done.done() for done in both)
        go_on.set()
        for done in both:
            done.result(WAIT)
    assert order == ["eval", "train True"]
    assert not any(part.training for part in net.modules())


class Thing:
    def __init__(self, flag):
        self.flag = flag


def test_a_mode_within_a_mode_and_what_the_caller_changes_meanwhile():
    thing = Thing(1)
    place = [(thing, "flag")]
    with held(place, 2):
        with held(place, 3), held(place, 2):
            assert thing.flag == 2
        assert thing.flag == 2
    assert thing.flag == 1
    with held(place, 1):
        thing.flag = 5  # nothing was written, so nothing is put back
    assert thing.flag == 5
    with pytest.raises(KeyError), held(place, 2):
        raise KeyError
    assert thing.flag == 5


def test_two_that_would_wait_for_each_other_are_told():
    one, two = Thing(0), Thing(0)
    together, refused = threading.Barrier(2), []

    def crossing(first, second, value):
        with held([(first, "flag")], value):
            together.wait(WAIT)
            try:
                with held([(second, "flag")], value):
                    pass
            except RuntimeError as error:
                refused.append(str(error))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(crossing, one, two, 1), pool.submit(crossing, two, one, 2)]:
            done.result(WAIT)
    assert len(refused) == 1
    assert "wait for each other" in refused[0]
    assert (one.flag, two.flag) == (0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_waits_for_no_thread_of_its_parent():
    thing, inside, go_on = Thing(0), threading.Event(), threading.Event()

    def holding():
        with held([(thing, "flag")], 1):
            inside.set()
            go_on.wait(WAIT)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(holding)
        inside.wait(WAIT)
        child = os.fork()
        if not child:
            signal.alarm(10)  # ends it where it waits
            with held([(thing, "flag")], 2):
                within = thing.flag
            os._exit(0 if (within, thing.flag) == (2, 0) else 1)
        status = os.waitpid(child, 0)[1]
        go_on.set()
        done.result(WAIT)
    assert status == 0
    assert thing.flag == 0


def test_one_chain_is_for_one_thread():
    chain = hatebm.Chain(norm_net(), torch.randn(8, 6), eps=0.1, seed=0)
    twin = hatebm.Chain(norm_net(), chain.state, eps=0.1, seed=0)
    refused = []

    def callback(t, x):
        for attempt in (lambda: chain.run(1), lambda: chain.load_state_dict(chain.state_dict())):
            try:
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(attempt).result(WAIT)
            except RuntimeError as error:
                refused.append(str(error))
        with pytest.raises(RuntimeError, match="below its own callback"):
            chain.run(1)

    state = chain.run(3, callback=callback, every=3)
    assert len(refused) == 2
    assert all("another thread" in text for text in refused)
    assert torch.equal(state, twin.run(3))
    assert torch.equal(chain.run(2), twin.run(2))
