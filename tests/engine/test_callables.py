"""Functions, methods, partials and objects as energies: prepared like the networks that they name, left as found."""

import functools
import gc
import itertools
import weakref
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from engine_nets import ROUNDING, Head, apart, images, small_networks_are_worth_it  # noqa: F401
from torch import nn

import hatebm
from hatebm.engine.prepare import prepare, tracing

LAW = {"step_size": 0.01, "noise_std": 0.01, "seed": 0}


class Labelled(nn.Module):
    """Class embeddings, gains and biases."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 3, padding=1)
        self.energies, self.gain = nn.Embedding(4, 64), nn.Embedding(4, 64)

    def forward(self, x, y, scale=1.0, squared=False):
        h = self.conv(x) * (1 + self.gain(y))[:, :, None, None]
        energy = (torch.relu(h).mean((2, 3)) * self.energies(y)).sum(1) * scale
        return energy.square() if squared else energy


class Trainer:
    """What holds a network beside much else."""

    def __init__(self, net):
        self.net, self.beta, self.seen, self.rows = net, 0.5, 0, [torch.zeros(9)]

    def energy(self, x):
        return self._scaled(x, self.net)

    def _scaled(self, x, net):
        return self.beta * net(x)

    def __call__(self, x):
        return -self.net(x)


def network():
    return Head(nn.Conv2d(64, 64, 3, padding=1)).eval()


def nets():
    torch.manual_seed(0)
    return network(), Labelled().eval()


def ways():
    """Callables over a network, each with the number of chains' tensors that it names."""
    net, labelled = nets()
    y, weight, settings = torch.arange(8) % 4, torch.rand(8), SimpleNamespace(sign=-1.0, parts=[net])
    trainer = Trainer(net)
    return {
        "negated": lambda x: -net(x),
        "squeezed": lambda x: net(x).squeeze(),
        "method": trainer.energy,
        "object": trainer,
        "method of a module": net.forward,
        "partial": functools.partial(lambda part, x: part(x), net),
        "partial with keywords": functools.partial(labelled, y=y, scale=2.0),
        "defaults": (lambda x, part=net, by=3.0: part(x) / by),
        "container": lambda x: settings.sign * settings.parts[0](x),
        "two calls": lambda x: net(x) + net(x.flip(3)),
        "labels": lambda x: labelled(x, y),
        "gathered": lambda x: torch.stack([net(x), labelled(x, y)], 1).gather(1, (y % 2)[:, None])[:, 0],
        "a weight a chain": lambda x: weight * net(x),
        "a sum": lambda x: net(x).sum(),
    }


@pytest.mark.parametrize("way", ways())
def test_a_callable_is_prepared_as_the_network_that_it_names(way):
    energy, x = ways()[way], images(8)
    found = prepare(energy, [x])
    assert found.energy is not energy
    assert "left alone" not in found.notes[0]
    assert apart(found.energy, energy, x) < ROUNDING
    got, want = (hatebm.langevin(energy, x, 3, compile=how, **LAW) for how in ("auto", "off"))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheduled", [False, True], ids=["dict", "function"])
def test_keyword_arguments_are_inputs_of_the_prepared_form(scheduled):
    _, labelled = nets()
    x, y = images(8), torch.arange(8) % 4
    at = (lambda t: {"y": (y + t) % 4, "scale": 1.0 + t}) if scheduled else {"y": y, "scale": 2.0}
    chains = [hatebm.Chain(labelled, x, energy_kwargs=at, compile=how, **LAW) for how in ("auto", "off")]
    got, want = (chain.run(5) for chain in chains)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert "left alone" not in chains[0].report()
    assert "as it is" not in chains[0].report()
    assert not torch.equal(want, hatebm.langevin(labelled, x, 5, energy_kwargs={"y": y}, compile="off", **LAW))


def test_arguments_of_other_kinds_are_not_taken_for_the_first():
    _, labelled = nets()
    x, y = images(8), torch.arange(8) % 4
    found = prepare(labelled, [x], {"y": y, "squared": True})
    torch.testing.assert_close(found.energy(x, y=y, squared=True), labelled(x, y, squared=True))
    other = prepare(labelled, [x], {"y": y})
    torch.testing.assert_close(other.energy(x, y=y), labelled(x, y))
    at = lambda t: {"y": y, "squared": t % 2 == 1} | ({"scale": 0.5} if t == 3 else {})  # noqa: E731
    got, want = (hatebm.langevin(labelled, x, 5, energy_kwargs=at, compile=how, **LAW) for how in ("auto", "off"))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_labels_go_with_their_chains_where_a_batch_is_taken_in_parts(monkeypatch):
    monkeypatch.setattr("hatebm.engine.prepare.rules.PART_BYTES", (1 << 16, 1 << 16))
    _, labelled = nets()
    x, y = images(16), torch.arange(16) % 4
    for energy, given in ((labelled, {"y": y}), (lambda x: labelled(x, y), {})):
        found = prepare(energy, [x], given)
        assert "parts of 4 chains" in found.notes[0]
        torch.testing.assert_close(found.energy(x, **given), labelled(x, y))


def test_what_a_callable_names_is_read_at_every_run():
    net, labelled = nets()
    x, trainer = images(8), Trainer(net)
    y = torch.arange(8) % 4
    energy = lambda x: labelled(x, y) + trainer.energy(x)  # noqa: E731

    def agree():
        got, want = (hatebm.langevin(energy, x, 2, compile=how, **LAW) for how in ("auto", "off"))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        return want

    results = [agree()]
    trainer.beta = 4.0
    results.append(agree())
    y = 3 - y
    results.append(agree())
    trainer.net = network()
    results.append(agree())
    with torch.no_grad():
        labelled.gain.weight.add_(1.0)
    results.append(agree())
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(results))


def test_what_a_callback_changes_is_seen_by_the_next_step():
    net, _ = nets()
    x, results = images(8), []
    for how in ("auto", "off"):
        trainer = Trainer(net)
        change = lambda t, state, trainer=trainer: setattr(trainer, "beta", 1.0 + t)  # noqa: E731
        results.append(hatebm.langevin(trainer.energy, x, 4, callback=change, compile=how, **LAW))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def writers():
    net, _ = nets()
    held = SimpleNamespace(count=0, last=None, log=[], queue=deque(), table={})

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def energy(self, x):
            self.last = self.net(x)
            return self.last

    def counts(x):
        held.count += 1
        return net(x)

    def keeps(x):
        held.last = net(x)
        return held.last

    def logs(x):
        held.log.append(net(x))
        return held.log[-1]

    def queues(x):
        held.queue.append(net(x))
        return held.queue[-1]

    def writes(x):
        held.table["energy"] = net(x)
        return held.table["energy"]

    return held, {f.__name__: f for f in (counts, keeps, logs, queues, writes)} | {"module": Module().energy}


@pytest.mark.parametrize("name", writers()[1])
def test_a_callable_that_writes_is_left_alone_and_writes_what_the_loop_would(name):
    held, energies = writers()
    energy, x = energies[name], images(8)
    chain = hatebm.Chain(energy, x, **LAW)
    chain.run(2)
    assert "left alone" in chain.report()
    assert held.count in (0, 2)
    assert len(held.log) in (0, 2)
    assert len(held.queue) in (0, 2)
    kept = [
        held.last,
        *held.log,
        *held.queue,
        *held.table.values(),
        getattr(energy, "__self__", SimpleNamespace(last=None)).last,
    ]
    assert all(v is None or type(v) is torch.Tensor for v in kept)
    assert name in ("module",) or any([held.count, held.last is not None, held.log, held.queue, held.table])


class Prints(Head):
    def forward(self, x):
        energy = super().forward(x)
        print("energies", len(energy))
        return energy


def test_what_prints_does_so_at_every_step(capsys):
    net, x = network(), images(8)

    def energy(x):
        found = net(x)
        print("energies", len(found))
        return found

    for own in (energy, Prints(nn.Conv2d(64, 64, 3, padding=1)).eval()):
        chain = hatebm.Chain(own, x, **LAW)
        chain.run(3)
        assert capsys.readouterr().out.splitlines() == ["energies 8"] * 3
        assert "left alone: it prints" in chain.report()


def test_random_numbers_are_neither_drawn_nor_kept():
    import random

    import numpy

    net, _ = nets()
    x = images(8)
    for energy in (lambda x: net(x + random.random()), lambda x: net(x + float(numpy.random.rand()))):
        states = random.getstate(), numpy.random.get_state()[1].tolist(), numpy.random.get_state()[2]
        found = prepare(energy, [x])
        assert found.energy is energy
        assert "draws random numbers" in found.notes[0]
        assert (random.getstate(), numpy.random.get_state()[1].tolist(), numpy.random.get_state()[2]) == states


def test_what_a_forward_does_not_name_does_not_matter(monkeypatch):
    x, traces = images(8), []
    follow = tracing.BlockTracer.trace
    monkeypatch.setattr(tracing.BlockTracer, "trace", lambda *args: (traces.append(1), follow(*args))[1])

    class Held(nn.Module):
        def __init__(self, trainer):
            super().__init__()
            self.net, self.trainer = network(), trainer

        def forward(self, x):
            return self._scaled(x)

        def _scaled(self, x):
            return self.trainer.beta * self.net(x)

    class Named(Held):
        def _scaled(self, x):
            return self.net(x)

    trainer = Trainer(images(1))  # a tensor among its attributes: nothing that a key can tell
    for kind, more in ((Named, 0), (Held, 1)):
        net = kind(trainer).eval()
        prepare(net, [x])
        before = len(traces)
        found = prepare(net, [x])
        assert (len(traces) > before) == bool(more)
        torch.testing.assert_close(found.energy(x), net(x))


def test_numbers_that_change_run_after_run_are_followed_a_few_times_only():
    net, _ = nets()
    x, notes = images(8), []
    for k in range(12):
        notes.append(prepare(lambda x, k=k: net(x) / (k + 1), [x]).notes[0])
    assert "left alone" not in notes[0]
    assert "change from run to run" in notes[-1]


def test_nothing_that_is_kept_holds_a_network_that_a_function_names():
    held, x = [network()], images(8)
    hatebm.langevin(lambda x: -held[0](x), x, 1, **LAW)
    gone = weakref.ref(held[0])
    held.clear()
    gc.collect()
    assert gone() is None
