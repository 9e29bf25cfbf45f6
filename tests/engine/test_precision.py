"""The precision of gradients: as asked for or as torch is set; that of energies that decide, always IEEE float32."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from engine_nets import (
    Block,
    Head,
    images,
    seeded,
    small_networks_are_worth_it,  # noqa: F401
)
from loops import LEAST_P, drawn
from targets import kolmogorov_p
from torch import nn

import hatebm
from hatebm.energies.precision import IEEE, ON_CPU, ON_CUDA, TF32, Switches, as_set, ieee, reduced, set_to

OFFSET = 300.0  # where neighbours in bfloat16 are 2 apart
FORMS = {"mala": {"correct": "mala"}, "leapfrog": {"leapfrog_steps": 2}}
normal_cdf = torch.distributions.Normal(0.0, 1.0).cdf


class Bowl(nn.Module):
    """E(x) = |x|^2 / 2 + OFFSET, through matrix products."""

    def __init__(self, d):
        super().__init__()
        self.turn = nn.Linear(d, d, bias=False)
        nn.init.orthogonal_(self.turn.weight, generator=torch.Generator().manual_seed(3))
        self.register_buffer("offset", torch.full((1, d), OFFSET / d))

    def forward(self, x):
        return nn.functional.linear(self.turn(x).square() / 2 + self.offset, torch.ones_like(self.offset)).squeeze(1)


@pytest.mark.parametrize("compile", ["auto", "off"])
@pytest.mark.parametrize("blocks", ["joint", "sequential"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_energies_of_a_test_are_those_of_the_energy_as_it_is(form, blocks, compile):
    bowl = Bowl(6)
    energy = lambda z, y: bowl(torch.cat([z, y], 1))  # noqa: E731
    law = {"eps": 0.9, "seed": 0, "blocks": blocks, "compile": compile, "precision": "bfloat16"}
    state = (drawn((50, 2)), drawn((50, 4)))
    chain = hatebm.Chain(energy, state, **law, **form)
    with torch.no_grad():
        energies = [energy(*state)]
        _, info = chain.run(5, return_info=True, callback=lambda t, state: energies.append(energy(*state)))
    assert 0 < info["accept"].mean() < 1
    assert torch.equal(info["energy"], torch.stack(energies[:-1]))


def test_an_image_kept_from_a_gradient_is_not_that_of_an_energy():
    generator = nn.Linear(2, 6)
    energy = hatebm.HatEnergy(Bowl(6), generator)
    plain = lambda z, y: energy.hat(generator(z) + y)  # noqa: E731
    state = (drawn((50, 2)), drawn((50, 6)))
    chain = hatebm.Chain(energy, state, eps=(0.0, 0.9), seed=0, correct="mala", precision="bfloat16")
    with torch.no_grad():
        energies = [plain(*state)]
        _, info = chain.run(3, return_info=True, callback=lambda t, state: energies.append(plain(*state)))
    assert torch.equal(info["energy"], torch.stack(energies[:-1]))


def test_a_network_is_prepared_though_the_caller_has_autocast():
    net, x = seeded(lambda: Head(Block(64, 64))), images(8)
    plain, under = (hatebm.Chain(net, x, eps=0.05, seed=0, precision="float32") for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = under.run(2)
    assert "folded" in under.report()
    assert torch.equal(got, plain.run(2))


def test_a_prepared_network_decides_in_float32():
    net, x = seeded(lambda: Head(Block(64, 64))), images(8)
    chain = hatebm.Chain(net, x, eps=0.05, seed=0, correct="mala", precision="bfloat16")
    _, info = chain.run(1, return_info=True)
    assert "folded" in chain.report()
    torch.testing.assert_close(info["energy"][0], net(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [{"correct": "mala", "step_size": 1.0}, {"leapfrog_steps": 3, "eps": 1.2}], ids=FORMS)
def test_the_law_is_exact_though_the_gradient_is_not(form):
    """From the law itself, so that every later state has it; a test that cannot see 2 would widen it."""
    x = hatebm.Chain(Bowl(4), drawn((2000, 4)), seed=1, precision="bfloat16", **form).run(20)
    assert kolmogorov_p(x, normal_cdf) > LEAST_P


def test_a_trajectory_looks_at_its_energy_where_it_ends():
    calls = {"energy": 0, "gradient": 0}

    def called(name, result):
        calls[name] += 1
        return result

    energy = lambda x: called("energy", x.square().sum(1) / 2)  # noqa: E731
    law = {"eps": 0.2, "leapfrog_steps": 4, "seed": 0}
    hatebm.hmc(energy, torch.ones(3, 4), 5, grad_fn=lambda x: called("gradient", x), **law)
    assert calls == {"energy": 5 + 1, "gradient": 5 * 4 + 1}


def test_hmc_is_the_chain_of_its_arguments():
    law = {"eps": 0.8, "leapfrog_steps": 3, "seed": 0}
    got = hatebm.hmc(Bowl(4), drawn((9, 4)), 4, precision="bfloat16", compile="off", **law)
    chain = hatebm.Chain(Bowl(4), drawn((9, 4)), precision="bfloat16", compile="off", **law)
    assert torch.equal(got, chain.run(4))
    assert not torch.equal(got, hatebm.hmc(Bowl(4), drawn((9, 4)), 4, **law))


def test_replicas_exchange_by_energies_as_they_are():
    net, law = Bowl(4), {"temperatures": [1.0, 2.0], "swap_every": 2, "correct": "mala", "eps": 0.9, "seed": 0}
    got, info = hatebm.tempering(net, drawn((2000, 4)), 8, precision="bfloat16", return_info=True, **law)
    assert not torch.equal(got, hatebm.tempering(net, drawn((2000, 4)), 8, **law))
    assert "precision: bfloat16, relative gradient error" in info["report"]
    with torch.no_grad():
        before = hatebm.langevin(net, drawn((2000, 4)), 2, correct="mala", eps=0.9, seed=0, precision="bfloat16")
        assert torch.equal(info["swap_energy"][0, 0], net(before).double())
    assert kolmogorov_p(got, normal_cdf) > LEAST_P


def test_the_weights_of_annealing_are_those_of_the_energy_as_it_is():
    """One bit of bfloat16 is 2 here; the error bar is a hundredth of it."""
    law = {"bridges": 30, "eps": 0.6, "leapfrog_steps": 3, "std": 1.5, "seed": 0}
    found = hatebm.ais(Bowl(2), (500, 2), precision="bfloat16", **law)
    assert found.standard_error < 0.02
    assert abs(found.log_z - (math.log(2 * math.pi) - OFFSET)) < 5 * found.standard_error
    exact = hatebm.ais(Bowl(2), (500, 2), compile="off", **law)
    assert not torch.equal(found.states, exact.states)
    assert "precision: bfloat16, relative gradient error" in found.report
    assert "compile='off'" in exact.report


class Seen(nn.Module):
    """A bowl that notes whether a gradient was taken, and in what precision torch was meanwhile."""

    def __init__(self, d=4):
        super().__init__()
        self.bowl, self.notes = Bowl(d), set()

    def forward(self, x):
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        self.notes.add(("gradient" if torch.is_grad_enabled() else "energy", set_to_now(), autocast))
        return self.bowl(x)


def set_to_now():
    wider = torch.backends.mkldnn.fp32_precision
    names = (wider if name == "none" else name for name in ON_CPU.precision)
    return tuple("ieee" if name == "none" else name for name in names)


@pytest.fixture
def lowered():
    """Torch set as low as it goes on processors, whether this one can compute so or not."""
    names = ON_CPU.precision, ON_CUDA.precision
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.conv.fp32_precision = "tf32"
    here = ON_CPU.precision, ON_CUDA.precision
    yield ("bf16", "tf32", "ieee")
    assert (ON_CPU.precision, ON_CUDA.precision) == here
    assert torch.get_float32_matmul_precision() == "medium"
    torch.set_float32_matmul_precision("highest")
    for switches, found in zip((ON_CPU, ON_CUDA), names, strict=True):
        Switches.precision.fset(switches, found)


DRAWERS = {
    "langevin": lambda net, **how: hatebm.langevin(net, drawn((9, 4)), 2, eps=0.1, seed=0, **how),
    "mala": lambda net, **how: hatebm.langevin(net, drawn((9, 4)), 2, eps=0.1, seed=0, correct="mala", **how),
    "hmc": lambda net, **how: hatebm.hmc(net, drawn((9, 4)), 2, eps=0.1, seed=0, leapfrog_steps=2, **how),
    "tempering": lambda net, **how: hatebm.tempering(
        net, drawn((9, 4)), 4, temperatures=[1, 2], swap_every=2, eps=0.1, seed=0, **how
    ),
    "ais": lambda net, **how: hatebm.ais(net, (9, 4), bridges=2, eps=0.1, leapfrog_steps=2, pilot=0, seed=0, **how)[4],
}
HALF = torch.bfloat16


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("drawer", DRAWERS.values(), ids=DRAWERS)
def test_gradients_are_as_asked_for_and_energies_that_decide_are_ieee(drawer, autocast, lowered):
    energies = set() if drawer is DRAWERS["langevin"] else {("energy", IEEE, None)}
    as_it_is = ("gradient", lowered, HALF if autocast else None)
    wanted = {"float32": ("gradient", IEEE, None), "bfloat16": ("gradient", lowered, HALF), None: as_it_is}
    for precision, gradients in wanted.items():
        net = Seen()
        with torch.autocast("cpu", dtype=HALF, enabled=autocast):
            drawer(net, precision=precision, compile="off")
            assert torch.is_autocast_enabled("cpu") == autocast
        told = (
            net.notes - {("gradient", IEEE, None)} if precision == "bfloat16" else net.notes
        )  # what it is compared to
        along = energies if precision == "float32" else set()  # with the gradients, which are IEEE too
        assert told | along == {gradients} | energies


@pytest.mark.parametrize("drawer", DRAWERS.values(), ids=DRAWERS)
def test_float32_has_the_bits_that_torch_has_when_nothing_is_set(drawer, lowered):
    net = nn.Sequential(nn.Linear(4, 256), nn.Unflatten(1, (4, 8, 8)), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Tanh())
    energy = seeded(lambda: nn.Sequential(net, nn.Linear(144, 256), nn.Tanh(), nn.Linear(256, 1)))
    got = drawer(energy, precision="float32")
    with torch.autocast("cpu", dtype=HALF):
        assert torch.equal(drawer(energy, precision="float32"), got)
        assert not torch.equal(drawer(energy), got)
    with ieee(torch.device("cpu")):
        assert torch.equal(drawer(energy), got)


def test_a_gradient_function_is_taken_in_the_precision_too(lowered):
    net, law = Seen(), {"eps": 0.1, "seed": 0}
    gradient = lambda x: (net(x), x)[1]  # noqa: E731
    for precision, wanted in (("float32", IEEE), (None, lowered)):
        net.notes.clear()
        hatebm.langevin(None, drawn((9, 4)), 2, grad_fn=gradient, precision=precision, **law)
        assert net.notes == {("energy", wanted, None)}
    net.notes.clear()
    hatebm.langevin(None, drawn((9, 4)), 2, grad_fn=gradient, precision="bfloat16", **law)
    assert net.notes == {("energy", lowered, HALF)}


@pytest.mark.parametrize("precision", [None, "float32", "bfloat16"])
def test_a_looked_at_step_and_a_kernel_of_one_chain_have_one_precision(precision, lowered):
    net, x = seeded(lambda: nn.Sequential(nn.Linear(20, 48), nn.SiLU(), nn.Linear(48, 1))), drawn((9, 20))
    chains = [hatebm.Chain(net, x, eps=0.1, seed=0, precision=precision) for _ in range(2)]
    want = chains[0].run(12)
    states = []
    got = chains[1].run(12, callback=lambda t, state: states.append(state), every=5)
    assert torch.equal(got, want)
    assert len(states) == 3
    told = chains[0].report()
    if precision == "bfloat16":
        with torch.autocast("cpu", dtype=HALF):
            plain = hatebm.langevin(net, x, 12, eps=0.1, seed=0, compile="off")
        assert torch.equal(got, plain)
        assert "not in one kernel: precision='bfloat16'" in told
        assert "precision: bfloat16, relative gradient error" in told
    else:
        assert "precision: float32 (IEEE)\nlast run: 12 steps, 12 of them in one kernel" in told
        with torch.autocast("cpu", dtype=HALF):
            under = hatebm.Chain(net, x, eps=0.1, seed=0, precision=precision)
            assert torch.equal(under.run(12), want) == (precision == "float32")
            assert ("12 of them in one kernel" in under.report()) == (precision == "float32")
        told = ("as torch is set (autocast to bfloat16)", "float32 (IEEE)")[precision == "float32"]
        assert f"precision: {told}\n" in under.report()


def test_a_report_says_how_torch_is_set(lowered):
    chain = hatebm.Chain(Bowl(4), drawn((9, 4)), eps=0.1, seed=0)
    assert "precision: as torch is set (products bf16, convolutions tf32)" in chain.report()
    with ieee(torch.device("cpu")):
        assert "precision: as torch is set (products bf16, convolutions tf32)" in chain.report()
        chain.run(1)
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.conv.fp32_precision = "none"
    chain.run(1)
    told = chain.report()
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.conv.fp32_precision = "tf32"
    assert "precision: as torch is set (float32, IEEE)" in told


@pytest.mark.parametrize(("name", "more"), [
    ("hmc", {"n_steps": 1}),
    ("tempering", {"n_steps": 1, "temperatures": [1.0]}),
    ("ais", {}),
])  # fmt: skip
def test_other_precisions_are_refused(name, more):
    for wrong, text in (("tf32", "CUDA"), ("half", "one of")):
        with pytest.raises(ValueError, match=f"{name}: precision must be.*{text}"):
            getattr(hatebm, name)(Bowl(2), torch.zeros(4, 2), eps=0.1, precision=wrong, **more)


def test_tf32_changes_no_other_setting_of_cudnn():
    flags, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32, matmul.allow_tf32
    names = matmul.fp32_precision, flags.conv.fp32_precision, flags.rnn.fp32_precision
    with reduced("tf32", torch.device("cuda")):
        assert (flags.enabled, flags.benchmark, flags.deterministic) == before[:3]
        assert flags.allow_tf32
        assert matmul.allow_tf32
    assert (flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32, matmul.allow_tf32) == before
    assert (matmul.fp32_precision, flags.conv.fp32_precision, flags.rnn.fp32_precision) == names


def test_a_thread_in_tf32_and_one_without_take_turns():
    device, names = torch.device("cuda"), lambda: ON_CUDA.precision
    before, together = names(), threading.Barrier(2)

    def run(within, wanted):
        together.wait(60)
        for _ in range(200):
            with within():
                assert all(names() == wanted for _ in range(20))

    with ThreadPoolExecutor(2) as pool:
        quick = pool.submit(run, lambda: reduced("tf32", device), TF32)
        exact = pool.submit(run, lambda: as_set(device), before)
        for turn in (quick, exact):
            turn.result(60)
    assert names() == before


def test_chains_of_several_threads_have_a_precision_each(lowered):
    precisions = ("float32", None, "bfloat16")
    together, seen = threading.Barrier(3), {precision: Seen() for precision in precisions}

    def run(precision):
        together.wait(60)
        for _ in range(20):
            hatebm.langevin(seen[precision], drawn((9, 4)), 3, eps=0.1, seed=0, precision=precision)
            hatebm.langevin(seen[precision], drawn((9, 4)), 3, eps=0.1, seed=0, precision=precision, correct="mala")

    with ThreadPoolExecutor(3) as pool:
        for turn in [pool.submit(run, precision) for precision in seen]:
            turn.result(60)
    assert seen["float32"].notes == {("gradient", IEEE, None)}
    assert seen["bfloat16"].notes == {("gradient", lowered, HALF), ("energy", IEEE, None), ("gradient", IEEE, None)}
    assert seen[None].notes == {("gradient", lowered, None), ("energy", IEEE, None)}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_switch_that_followed_a_wider_one_follows_it_again(device):
    wider, products = torch.backends, (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)
    found = [matmul.fp32_precision for matmul in products]  # of their own, where somebody has set them
    for matmul in products:
        matmul.fp32_precision = "none"
    before, wider.fp32_precision = wider.fp32_precision, "tf32"
    try:
        with ieee(torch.device(device)):
            assert set_to_now() == IEEE
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
        assert set_to(torch.device(device))[0] == "tf32"
    finally:
        wider.fp32_precision = before
        followed = set_to(torch.device(device))[0]
        for matmul, name in zip(products, found, strict=True):
            matmul.fp32_precision = name
    assert followed == "ieee"


@pytest.mark.parametrize("newer", [None, "ieee"])
@pytest.mark.parametrize("older", ["highest", "high", "medium"])
def test_the_older_name_of_a_precision_is_put_back(older, newer, lowered):
    torch.set_float32_matmul_precision(older)
    for matmul in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul) if newer else ():
        matmul.fp32_precision = newer
    names = ON_CPU.precision, ON_CUDA.precision
    for within, tf32 in (
        (lambda: reduced("tf32", torch.device("cuda")), True),
        (lambda: ieee(torch.device("cuda")), False),
    ):
        with within():
            if tf32 or newer is None:  # else the names say two things, as the caller has left them
                assert torch.backends.cuda.matmul.allow_tf32 == tf32
            assert torch.backends.cudnn.allow_tf32 == tf32
            if not tf32 and newer is None:
                assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == older
        assert (ON_CPU.precision, ON_CUDA.precision) == names
    torch.set_float32_matmul_precision("medium")


def test_a_hat_energy_runs_under_settings_that_older_names_cannot_tell():
    convolutions, energy = torch.backends.cudnn.conv, hatebm.HatEnergy(Bowl(6), nn.Linear(2, 6))
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        with pytest.raises(RuntimeError):
            _ = torch.backends.cudnn.allow_tf32
        hatebm.langevin(energy, (drawn((5, 2)), drawn((5, 6))), 2, eps=(0.0, 0.1), seed=0)
    finally:
        convolutions.fp32_precision = before


@pytest.fixture
def tf32():
    """A GPU whose products and convolutions torch takes in TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.fp32_precision, cudnn.deterministic
    matmul.fp32_precision, cudnn.deterministic = "tf32", True
    yield torch.device("cuda")
    matmul.fp32_precision, cudnn.deterministic = before


def convolutional():
    layers = nn.Unflatten(1, (4, 16, 16)), nn.Conv2d(4, 16, 3), nn.Flatten(), nn.Tanh(), nn.Linear(16 * 196, 1)
    return seeded(lambda: nn.Sequential(nn.Linear(64, 1024), nn.Tanh(), *layers)).cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("compile", ["auto", "off"])
def test_on_a_gpu_float32_is_ieee_and_none_is_as_torch_is_set(compile, tf32):
    net, x, law = convolutional(), drawn((32, 64)).cuda(), {"eps": 0.1, "seed": 0, "compile": compile}
    named = {name: hatebm.langevin(net, x, 40, precision=name, **law) for name in (None, "tf32", "float32")}
    with ieee(tf32):
        exact = hatebm.langevin(net, x, 40, **law)
    assert torch.equal(named["float32"], exact)
    assert torch.equal(named[None], named["tf32"])
    assert not torch.equal(named[None], exact)
    with torch.autocast("cuda", dtype=HALF):
        assert torch.equal(hatebm.langevin(net, x, 40, precision="float32", **law), exact)
        assert not torch.equal(hatebm.langevin(net, x, 40, **law), exact)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, "float32", "tf32", "bfloat16"])
def test_on_a_gpu_energies_that_decide_are_ieee(precision, tf32):
    net, x = convolutional(), drawn((32, 64)).cuda()
    chain = hatebm.Chain(net, x, eps=0.1, seed=0, correct="mala", precision=precision, compile="off")
    states = [x]
    _, info = chain.run(3, return_info=True, callback=lambda t, state: states.append(state))
    with torch.no_grad(), ieee(tf32):
        exact = torch.stack([net(state).squeeze(1) for state in states[:-1]])
    with torch.no_grad():
        rough = torch.stack([net(state).squeeze(1) for state in states[:-1]])
    assert torch.equal(info["energy"], exact)
    assert not torch.equal(rough, exact)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [None, "float32", "tf32"])
def test_on_a_gpu_a_looked_at_step_and_a_kernel_have_one_precision(precision, tf32):
    net, x = (
        seeded(lambda: nn.Sequential(nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 1))).cuda(),
        drawn((32, 64)).cuda(),
    )
    chains = [hatebm.Chain(net, x, eps=0.1, seed=0, precision=precision) for _ in range(2)]
    assert torch.equal(chains[0].run(40), chains[1].run(40, callback=lambda t, state: None, every=7))
    assert ("of them in one kernel" in chains[0].report()) == (precision != "tf32")
    assert f"precision: {'tf32' if precision == 'tf32' else 'float32 (IEEE)'}" in chains[0].report()
