"""`hatebm bench` on the smallest cases: it times who agrees, names who does not, and writes what it found."""

import csv
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from shell import hatebm, refusal
from tiny import one_thread  # noqa: F401

from hatebm import energies
from hatebm.bench import chains, growth, habits, hat, igebm, lengths, loops, report, step, targets, training
from hatebm.bench.agreement import judged
from hatebm.bench.contest import (
    BARE,
    COMPILED,
    HATEBM,
    IN_PLACE,
    NAIVE,
    OFFICIAL,
    RUN,
    TORCHEBM,
    Case,
    Contender,
    contest,
)
from hatebm.bench.timing import interleave, peak_memory
from hatebm.commands import bench
from hatebm.dynamics.law import Dynamics

CPU = torch.device("cpu")
START = torch.randn(1024, 2, generator=torch.Generator().manual_seed(0))
LAW = Dynamics(step_size=0.01, noise_std=0.1)
WELL = chains.Target(
    "double well, d = 2, batch 1024", lambda: chains.double_well, (1024, 2), 3, 3, chains.DIFFUSION, energies.DoubleWell
)
MLP = chains.Target("MLP 4-8-8-1, batch 6", partial(targets.mlp, 4, 8), (6, 4), 3, 3)
TINY = {
    network: replace(
        igebm.CONFIGS["train-igebm-digits"], network=network, batch=4, langevin_steps=2, hidden=8, **widths
    )
    for network, widths in {
        "conv": {"energy_widths": (4, 4, 4)},
        "resnet": {"stem_width": 4, "energy_widths": (4, 6), "energy_depths": (2, 1), "activation": "leaky"},
    }.items()
}
SETTINGS = ("--seconds", "0.001", "--threads", "1", "--device", "cpu")


@pytest.fixture
def no_compiler(monkeypatch):
    """A machine without one: it takes seconds for each case."""

    def refuse(function, device=None):
        def call(*arguments):
            raise RuntimeError("no compiler here\nin many lines")

        return call

    monkeypatch.setattr(loops, "compiled", refuse)
    monkeypatch.setattr(hat, "compiled", refuse)
    monkeypatch.setattr(igebm, "compiled", refuse)
    monkeypatch.setattr(step.torch, "compile", refuse)


@pytest.fixture
def small_cases(no_compiler, monkeypatch):
    """One tiny case for each table in place of all of them."""
    config = replace(
        training.CONFIGS["train-32"], energy_widths=(4, 4), generator_widths=(4, 4, 4, 4), batch=4, bank_size=8
    )
    config = replace(config, langevin_steps=2, latent_dim=8)
    monkeypatch.setattr(step, "NUMELS", {"step-tiny": 12_288})
    monkeypatch.setattr(chains, "TARGETS", {"double-well": WELL})
    monkeypatch.setattr(hat, "CPU_STEPS", 2)
    monkeypatch.setattr(hat, "Nets", partial(hat.Nets, batch=2, widths=(4, 4)))
    monkeypatch.setattr(training, "CONFIGS", {"train-tiny": config})
    monkeypatch.setattr(igebm, "CONFIGS", {"train-igebm-tiny": TINY["conv"]})
    monkeypatch.setattr(igebm, "ENERGY", TINY["resnet"])
    monkeypatch.setattr(igebm, "BATCH", 4)
    monkeypatch.setattr(habits, "CALLED", {"mlp": MLP, "double-well": WELL})
    monkeypatch.setattr(habits, "SHORT", 2)
    monkeypatch.setattr(lengths, "LENGTHS", (1, 2))
    monkeypatch.setattr(growth, "AXES", {"batch": (1, 2), "side": (8, 16), "steps": (1, 2)})


def rows_of(contenders, name="case"):
    """What a contest of these says, by contender."""
    rows = contest(Case("chain", name, "label", "steps/s", 3, lambda: contenders), 0.001, CPU)
    return {row["contender"]: row for row in rows}


def test_everything_is_measured_and_written(small_cases, tmp_path):
    sheet, picture = tmp_path / "b.csv", tmp_path / "b.png"
    said = hatebm("bench", "--csv", sheet, "--plot", picture, "--markdown", *SETTINGS)
    assert said.code == 0, said
    with sheet.open() as file:
        rows = list(csv.DictReader(file))
    assert {"date", "device", "python", "torch", "hatebm", "torchebm", "threads", "MiB", "20 %", "80 %"} <= set(rows[0])
    assert {row["table"] for row in rows} == {"step", "chain", "train", "habits", "lengths", "growth"}
    assert {row["case"] for row in rows if row["table"] == "chain"} == {"double-well", "igebm", *hat.KINDS}
    named = {f"{habit}-mlp" for habit in habits.HABITS} | {f"{habit}-double-well" for habit in habits.FREE}
    assert {row["case"] for row in rows if row["table"] == "habits"} == named
    beside = {"habits": "against bare", "lengths": "against naive"}
    for row in rows:
        if row["contender"] == COMPILED:
            assert (row["median"], row["agreement"]) == ("", "left out: RuntimeError: no compiler here")
        else:
            assert float(row["20 %"]) <= float(row["median"]) <= float(row["80 %"]), row
            assert float(row[beside.get(row["table"], "against in-place")]) > 0
    with Image.open(picture) as drawn:
        drawn.load()
        assert drawn.width > 1000  # with the curves
    lines = said.out.splitlines()
    assert sum(line.startswith("| double well") for line in lines) == 1 + len(habits.FREE) + 2
    assert "- double-well, torch.compile: left out: RuntimeError: no compiler here" in lines
    assert "1 threads, torch" in lines[-1]
    assert "[1/" in said.err


def test_one_case_is_found_by_a_part_of_its_name(small_cases, tmp_path):
    said = hatebm("bench", "chain", "--only", "well", "--plot", tmp_path / "bars.svg", *SETTINGS)
    assert said.code == 0, said
    assert "double-well: double well" in said.out
    assert "hat-" not in said.out
    assert (tmp_path / "bars.svg").read_text().startswith("<?xml")


def test_wrong_contenders_are_named_and_not_timed(no_compiler):
    honest = loops.loops_on(chains.double_well, START)
    base = honest[IN_PLACE]
    wrong = {
        "drift": lambda n, law: base(n, replace(law, step_size=1.01 * law.step_size)),
        "steps": lambda n, law: base(n + 1, law),
        "size of the noise": lambda n, law: base(n, replace(law, noise_std=1.2 * law.noise_std)),
        "mean of the noise": lambda n, law: base(n, law) + 0.3 * law.noise_std,
        "nan": lambda n, law: base(n, law) * torch.nan,
        "some chains": lambda n, law: torch.cat((base(n, law)[:1000], START[1000:])),
    }
    found = rows_of(judged({NAIVE: honest[NAIVE], **wrong, HATEBM: honest[HATEBM]}, START, LAW, 3))
    for name in wrong:
        assert found[name]["agreement"].startswith("NO: "), found[name]
        assert found[name]["median"] == found[name]["MiB"] == ""
    assert "noise off" in found["size of the noise"]["agreement"]
    assert "drift off" in found["drift"]["agreement"]
    assert found[NAIVE]["agreement"] == "the judge"
    assert found[HATEBM]["against naive"] > 0


@pytest.mark.parametrize("kind", ["hat-joint", "hat-joint-simultaneous"])
def test_each_block_of_a_joint_chain_is_judged(kind):
    nets = hat.Nets(CPU, batch=2, widths=(4, 4))
    law = nets.law("sequential" if kind == "hat-joint" else "joint")
    honest = hat.official_joint if kind == "hat-joint" else hat.simultaneous_naive

    def wrong_noise(block):
        def loop(n, law):
            stds = tuple(std * (1.5 if k == block else 1) for k, std in enumerate(law.noise_std))
            return honest(nets, n, replace(law, noise_std=stds))

        return loop

    loops_ = {NAIVE: partial(honest, nets), **{f"block {k}": wrong_noise(k) for k in range(2)}}
    loops_["cap"] = lambda n, law: honest(nets, n, replace(law, clip=(None, ("norm", 10 * law.clip[1][1]))))
    found = rows_of(judged(loops_, (nets.z, nets.y), law, 2))
    assert all("noise off" in found[f"block {k}"]["agreement"] for k in range(2))
    assert "drift off" in found["cap"]["agreement"]
    other = replace(law, blocks="joint" if law.blocks == "sequential" else "sequential")
    swapped = {NAIVE: partial(honest, nets), HATEBM: lambda n, _: hat.joint_with_hatebm(nets, n, other)}
    assert "drift off" in rows_of(judged(swapped, (nets.z, nets.y), law, 2))[HATEBM]["agreement"]


WRONG = {  # what is changed of the tuned learner before its chain, or what the chain is moved by
    "chain": lambda learner: 0.01,
    "rate of H": lambda learner: learner.hat_adam.param_groups[0].update(lr=2e-4),
    "rate of G": lambda learner: learner.generator_adam.param_groups[0].update(lr=0),
    "NaN": lambda learner: torch.nan,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_training_that_goes_another_way_is_not_timed(wrong, small_cases, monkeypatch):
    config = training.CONFIGS["train-tiny"]
    moved = lambda learner, draws: learner.chain(draws) + (wrong(learner) or 0.0)  # noqa: E731
    monkeypatch.setattr(training.Published, "chain_once", moved)
    rows = {row["contender"]: row for row in contest(training.case("tiny", config, CPU), 0.001, CPU)}
    assert rows[IN_PLACE]["agreement"].startswith("NO: chains off by ")
    assert rows[HATEBM]["agreement"].startswith("chains to ")
    assert "nan" not in rows[HATEBM]["agreement"]
    assert rows[HATEBM]["against naive"] > 0


WRONG_IGEBM = {  # what is changed of the tuned contender
    "rate": lambda learner: learner.adam.param_groups[0].update(lr=0.1),
    "power iteration": lambda learner: [layer.u.neg_() for layer in igebm.normalised_in(learner.net)],
    "weights": lambda learner: learner.net.gains[1].values.data.mul_(1.1),
}


@pytest.mark.parametrize("wrong", WRONG_IGEBM.values(), ids=WRONG_IGEBM)
def test_an_igebm_that_goes_another_way_is_not_timed(wrong, small_cases, monkeypatch):
    def changed(learner, draws, chain=igebm.Published.chain):
        if learner.tuned:
            wrong(learner)
        return chain(learner, draws)

    monkeypatch.setattr(igebm.Published, "chain", changed)
    rows = {row["contender"]: row for row in contest(igebm.case("tiny", TINY["conv"], CPU), 0.001, CPU)}
    assert rows[IN_PLACE]["agreement"].startswith("NO: chains off by ")
    assert rows[HATEBM]["agreement"].startswith("chains to ")


@pytest.mark.parametrize("config", TINY.values(), ids=TINY)
def test_published_igebms_are_those_of_hatebm(config):
    torch.manual_seed(0)
    ours = igebm.woken(igebm.energy_network(config))
    for values in (w for name, w in ours.named_parameters() if "values" in name):
        values.data += torch.randn_like(values)
    theirs = igebm.as_published(ours, config)
    x, labels = torch.rand(5, 1, 8, 8), torch.tensor([3, 1, 9, 3, 0])
    torch.testing.assert_close(theirs(x, labels), ours(x, labels))
    igebm.hold(theirs)
    torch.testing.assert_close(theirs(x, labels), ours(x, labels))


@pytest.mark.parametrize(
    ("home", "name", "case"),
    [
        (loops, "with_hatebm", "double-well"),
        (habits, "with_hatebm", "info-double-well"),
        (lengths, "living", "lengths-double-well"),
    ],
)
def test_bench_fails_where_hatebm_does_not_agree(home, name, case, small_cases, monkeypatch):
    monkeypatch.setattr(home, name, lambda energy, start, *_, **how: lambda n, law: start + 1)
    said = hatebm("bench", "chain" if home is loops else "habits", "--only", case, *SETTINGS)
    assert said.code == 1
    assert "NO: drift off" in said.out


ASKED = {  # what a call of hatebm with a habit looks like: its energy, state and other arguments
    "lambda": lambda energy, x, **how: energy.__name__ == "<lambda>",
    "labels": lambda energy, x, **how: list(how["energy_kwargs"]) == ["y"],
    "labels-by-step": lambda energy, x, **how: how["energy_kwargs"](0)["y"] is not how["energy_kwargs"](0)["y"],
    "info": lambda energy, x, **how: how["return_info"],
    "callback": lambda energy, x, **how: how["every"] == habits.EVERY and callable(how["callback"]),
    "blocks": lambda energy, x, **how: len(x) == 2,
}


@pytest.mark.parametrize("habit", ASKED)
def test_a_habit_is_called_as_it_is_named(habit, small_cases, monkeypatch):
    calls = []
    honest = habits.langevin
    monkeypatch.setattr(habits, "langevin", lambda *args, **how: calls.append((args, how)) or honest(*args, **how))
    contenders = habits.contenders(habit, MLP, 3, CPU)
    contenders[HATEBM].call()
    (energy, x, n), how = calls[0]
    assert n == 3
    assert len(calls) == 1
    assert ASKED[habit](energy, x, **how)


def test_short_runs_go_on_where_the_last_one_ended(monkeypatch):
    calls = []
    honest = lengths.langevin
    monkeypatch.setattr(
        lengths, "langevin", lambda *args, **how: calls.append((args[2], how["first_step"])) or honest(*args, **how)
    )
    found = lengths.again(chains.double_well, START, 2)(5, LAW)
    assert calls == [(2, 0), (2, 2), (1, 4)]
    whole = loops.with_hatebm(chains.double_well, START)(5, LAW)
    assert torch.equal(found, whole)
    assert torch.equal(lengths.living(chains.double_well, START, 2)(5, LAW), whole)


@pytest.mark.parametrize("net", [lambda: targets.PublishedEnergy(1, (4, 4), pools=1), partial(targets.mlp, 4, 8)])
def test_networks_with_classes_and_signs_are_those_of_the_chains(net):
    net = net()
    x = torch.randn(3, 1, 8, 8) if isinstance(net, targets.PublishedEnergy) else torch.randn(3, 4)
    assert torch.equal(habits.negated(net)(x), -net(x))
    conditional, y = targets.Conditional(net), torch.tensor([2, 5, 2])
    at = conditional.features(x)
    torch.testing.assert_close(conditional(x, y), net(x) + (conditional.classes.weight[y] * at).sum(1))
    assert torch.equal(targets.Labelled(conditional, y[0])(x[::2]), conditional(x[::2], y[::2]))


def test_what_was_measured_is_said_when_interrupted(small_cases, monkeypatch, tmp_path):
    honest = bench.contest

    def interrupt(case, seconds, device):
        if case.table == "chain":
            raise KeyboardInterrupt
        return honest(case, seconds, device)

    monkeypatch.setattr(bench, "contest", interrupt)
    said = hatebm("bench", "--markdown", "--csv", tmp_path / "b.csv", *SETTINGS)
    assert said.code == 130
    assert "| one step of" in said.out
    assert "step-tiny" in (tmp_path / "b.csv").read_text()


def test_without_torchebm_it_is_left_out(small_cases, monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    said = hatebm("bench", "step", *SETTINGS)
    assert said.code == 0
    assert "torchebm is not installed" in said.err
    assert f"{TORCHEBM} " not in said.out.split("\n\n")[0]


def test_refusals(tmp_path):
    assert "--only: wanted one of step-393k, " in refusal("bench", "step", "--only", "nothing")
    assert "--csv: wanted a file in a folder" in refusal("bench", "--csv", tmp_path / "no" / "b.csv")
    assert "--plot: wanted a file in a folder" in refusal("bench", "--plot", tmp_path)
    assert "--plot: wanted a file that ends in" in refusal("bench", "--plot", tmp_path / "b.txt")
    assert "--device: cannot use" in refusal("bench", "--device", "abacus")
    assert "wanted a number above 0" in refusal("bench", "--seconds", "0")
    assert "wanted a number above 0" in refusal("bench", "--seconds", "nan")
    assert "invalid choice: 'stairs'" in refusal("bench", "stairs")


def test_a_plot_needs_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert "matplotlib" in refusal("bench", "--plot", tmp_path / "b.png")


def test_published_networks_are_those_of_hatebm():
    from hatebm.nets import ResidualEnergy, ResidualGenerator

    torch.manual_seed(0)
    ours, theirs = ResidualEnergy(8, 3, (4, 4, 6), 2), training.PublishedEnergy(3, (4, 4, 6), 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(theirs(x), ours(x))
    ours, theirs = ResidualGenerator(8, 3, 5, (4, 6)), training.PublishedGenerator(8, 3, 5, (4, 6), 2.0)
    for w in ours.parameters():
        w.data += 0.1 * torch.randn_like(w)
    training.take_weights(theirs, ours)
    z = torch.randn(5, 5)
    torch.testing.assert_close(theirs(z), ours(z))


def test_contenders_take_turns():
    turns = []
    calls = {name: partial(lambda name: (turns.append(name), torch.randn(200_000)), name) for name in "ab"}
    marks = interleave(calls, 0.02)
    assert all(0 < low <= median <= high for low, median, high in marks.values())
    changes = sum(now != before for now, before in zip(turns[1:], turns, strict=False))
    assert changes >= 10


def test_memory_is_what_a_call_holds_at_its_peak():
    def hold():
        return torch.ones(64 << 18).sum()

    hold()
    found = peak_memory(hold, CPU)
    if found is None:
        pytest.skip("the system does not tell")
    assert 60 < found < 80  # the heap may hand out pages that it kept, and other threads run


def test_a_contest_leaves_the_global_random_state_alone(no_compiler):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    contest(chains.case("double-well", WELL, CPU), 0.001, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_are_told_apart_in_markdown():
    row = dict(table="chain", case="c", label="l", axis="", at="", unit="steps/s", MiB=1.0, agreement="", threads=1)
    row |= {"20 %": 1.0, "80 %": 3.0, "against naive": 2.0, "against in-place": 1.5, "against bare": ""}
    text = report.markdown([row | {"contender": n, "median": m} for n, m in ((OFFICIAL, 10.0), (HATEBM, 20.0))], CPU)
    assert "| case | official Hat EBM | hatebm | against naive | against in-place |" in text
    assert "| l | 10 | **20** | 2.00x | 1.50x |" in text


def test_columns_are_those_that_have_figures():
    row = dict(case="c", axis="", at="", unit="steps/s", MiB=1.0, agreement="", threads=1)
    row |= {"20 %": 1.0, "80 %": 3.0, "against naive": 2.0, "against in-place": "", "against bare": ""}
    called = [
        row | {"table": "habits", "label": "l", "contender": n, "median": 9.0, "against bare": 0.9}
        for n in (NAIVE, BARE, HATEBM)
    ]
    short = [row | {"table": "lengths", "label": "l", "contender": n, "median": 9.0} for n in (NAIVE, HATEBM, RUN)]
    lines = report.markdown(called + short, CPU).splitlines()
    assert "| case | naive loop | hatebm, bare | hatebm | against naive | against bare | MiB, hatebm |" in lines
    assert "| l | 9 | 9 | **9** | 2.00x | 0.90x | 1 |" in lines
    heading = "| case | naive loop | hatebm | hatebm, Chain.run | against naive | hatebm, Chain.run, against naive |"
    assert f"{heading} MiB, hatebm |" in lines
    assert "| l | 9 | **9** | 9 | 2.00x | 2.00x | 1 |" in lines


def test_contender_is_a_call_and_a_judgement():
    failing = Contender(lambda: None, lambda: 1 / 0)
    assert rows_of({NAIVE: failing})[NAIVE]["agreement"] == "left out: ZeroDivisionError: division by zero"
