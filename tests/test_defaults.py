"""The caller's default dtype and default device reach nothing that hatebm makes."""

import ast
import copy
import inspect
from contextlib import contextmanager

import pytest
import tiny
import torch
from places import ROOT, matching
from tiny import one_thread  # noqa: F401
from tiny_learners import SYSTEMS
from torch import Tensor, nn

import hatebm
from hatebm.data import digits, rescaled, to_bytes, to_pixels
from hatebm.data.images import resized
from hatebm.evaluation import Classifier, class_shares, frechet_distance, pixel_features
from hatebm.evaluation.kid import kernel_distance
from hatebm.evaluation.ood import detection
from hatebm.evaluation.outliers import near_outliers, outliers
from hatebm.nets import generator_from
from hatebm.sampling.ais import AIS

FILES = [*matching(ROOT / "hatebm", "*.py"), *matching(ROOT / "kernels", "*.py")]
MAKERS = {
    *("arange", "as_tensor", "asarray", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones"),
    *("rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
}


def unnamed(path):
    """What makes a tensor, a generator or noise of a file without saying of which dtype and on which device."""
    tree = ast.parse(path.read_text())
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        names = {word.arg for word in called[id(node)].keywords} if id(node) in called else set()
        of_torch = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch"
        if None in names:  # **keywords
            continue
        if of_torch and node.attr in MAKERS and not names >= {"dtype", "device"}:
            yield f"{path.name}:{node.lineno}: torch.{node.attr}"
        if of_torch and node.attr == "Generator" and id(node) in called and not called[id(node)].args:
            yield f"{path.name}:{node.lineno}: torch.Generator"
        if isinstance(node, ast.Name) and node.id in ("normal", "uniform", "words") and id(node) in called:
            yield from [] if "device" in names else [f"{path.name}:{node.lineno}: {node.id}"]


def test_every_tensor_that_is_made_has_a_dtype_and_a_device():
    found = [where for path in FILES for where in unnamed(path)]
    assert not found, "\n".join(found)


def energy(x: Tensor) -> Tensor:
    return (x.square() - 1).square().flatten(1).sum(1)


def score(x: Tensor) -> Tensor:
    return 4 * x * (x.square() - 1)


def convolutions(mapped=nn.ReLU):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 64, 3, padding=1), mapped(), nn.Conv2d(64, 64, 3, padding=1), mapped())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 256, 1))


def chains():
    """Chains of every kind, as functions of nothing; whatever they are given is made here and now."""
    x, pictures = torch.linspace(-1, 1, 12).view(6, 2), torch.rand(4, 3, 16, 16, generator=generator())
    law = {"eps": 0.1, "seed": 0}
    energies = hatebm.energies
    net, smooth = convolutions(), convolutions(nn.SiLU)
    chain = hatebm.Chain(net, pictures, **law)
    chain.run(1)
    assert "by minimal filtering" in chain.report()
    torch.manual_seed(0)
    rows = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))
    pair = hatebm.HatEnergy(lambda x: energy(x), lambda z: z.sin())
    well, mlp = energies.DoubleWell(), energies.MLP((2, 8, 8), "gelu")
    formulas = {
        "Gaussian": energies.Gaussian([0.0, 1.0], [[1.0, 0.2], [0.2, 2.0]]),
        "Mixture": energies.Mixture([[0.0, 1.0], [1.0, -1.0]], 0.5),
        "DoubleWell": well,
        "Funnel": energies.Funnel(),
        "MLP": mlp,
        "Sequential": rows,
    }
    mask = torch.tensor([True, False])

    def restarted(**more):
        chain = hatebm.Chain(energy, x, **law, **more)
        chain.run(2)
        chain.load_state_dict(chain.state_dict())
        return chain.run(2), chain.state, chain.state_dict(), chain.report() and chain.seed

    def run(energy, x=x, steps=3, **more):
        return hatebm.langevin(energy, x, steps, **law | more)

    def diverged():
        with pytest.raises(hatebm.ChainDiverged) as error:
            run(lambda x: energy(x) / 0, nan="raise")
        return error.value.chains

    return {
        "restarted": restarted,
        "with friction": lambda: restarted(friction=1.0),
        "plain loop": lambda: run(energy, compile="off", return_info=True),
        "no seed": lambda: torch.manual_seed(0) and run(energy, seed=None),
        "chain_ids": lambda: run(energy, chain_ids=[5, 4, 3, 2, 1, 0]),
        "nothing kept": lambda: run(energy, every=7, first_step=1, return_info=True),
        "diverged": diverged,
        "noise first": lambda: run(energy, eps=None, step_size=0.01, noise_std=0.1, noise_at="before", clamp=(-1, 1)),
        "fma": lambda: run(energy, add="fma", clip=("norm", 0.5), prior_precision=0.1, backend="reference"),
        "schedule": lambda: run(energy, dynamics=hatebm.Dynamics(eps=[0.1, 0.2, 0.3]), eps=None),
        "each chain's": lambda: run(energy, eps=hatebm.per_chain([0.1, 0.2, 0.0, 0.3, 0.1, 0.2]), return_info=True),
        "each chain's in a kernel": lambda: run(well, temperature=hatebm.per_chain([1, 2, 3, 4, 5, 6])),
        "mask": lambda: run(energy, mask=mask, reflect=(-1, 1), return_info=True),
        "a score": lambda: run(None, grad_fn=score, return_info=True),
        "mala": lambda: run(energy, correct="mala", return_info=True),
        "hmc": lambda: hatebm.hmc(energy, x, 3, **law, leapfrog_steps=2, return_info=True),
        "float64": lambda: run(energy, x.double(), correct="mala", return_info=True),
        "grad_steps": lambda: run(energy, x.clone().requires_grad_(), grad_steps=2, clip=("norm", 0.5)).detach(),
        "blocks": lambda: run(lambda a, b: energy(a + b), (x, x / 2), blocks="sequential", return_info=True),
        "a hat": lambda: run(pair, (x, x / 2), eps=(0.0, 0.1)),
        "tempering": lambda: hatebm.tempering(
            energy, x, 6, temperatures=[1, 2, 4], swap_every=2, **law, return_info=True
        ),
        "ais": lambda: hatebm.ais(energy, (8, 2), bridges=4, **law, device="cpu"),
        "ais in reverse": lambda: hatebm.ais(energy, x, bridges=4, box=(-2.0, 2.0), **law),
        "product": lambda: run(hatebm.product(energy, well)),
        "mixture": lambda: run(hatebm.mixture(energy, well)),
        "negate": lambda: run(hatebm.negate(well, by=lambda x: x.square().sum(1), weight=0.5)),
        "convolutions": lambda: run(copy.deepcopy(net), pictures),
        "warm convolutions": lambda: run(net, pictures),
        "smooth convolutions": lambda: run(smooth, pictures),
        **{
            name: lambda e=e: (run(e, steps=40), run(e, return_info=True), run(e, correct="mala"), e(x))
            for name, e in formulas.items()
        },
        **{f"{name}, reference": lambda e=e: run(e, backend="reference") for name, e in formulas.items()},
    }


def others():
    """All else that is public."""
    x, grad = torch.linspace(-1, 1, 12).view(6, 2), torch.linspace(1, 2, 12).view(6, 2)
    half, u = grad.bfloat16(), torch.linspace(-1, 0, 6, dtype=torch.float64)
    counter, key = torch.arange(8).view(2, 4), torch.arange(2)
    draws = torch.randn(20, 4, 3, generator=generator())
    place = {"seed": 3, "step": 5}
    images, labels = tiny.images(40), torch.arange(40) % 4
    theirs = tiny.generator().state_dict()

    def step(backend, **more):
        out = x.clone(), x.new_zeros(6), x.new_zeros(6), labels.new_full((6,), 99)
        numbers = dict(zip(("grad_norm", "displacement", "diverged"), out[1:], strict=True))
        hatebm.ops.langevin_step_(
            *(out[0], more.pop("grad", grad)),
            step_size=0.1,
            **place,
            chain_ids=[5, 4, 3, 2, 1, 0],
            **numbers,
            backend=backend,
            **more,
        )
        return out

    def ratio(backend):
        return hatebm.ops.langevin_ratio(
            x, grad, -x, -grad, step_size=0.1, noise_std=0.3, clip=("norm", 1.0), backend=backend
        )

    def replay(storage, replacement):
        buffer = hatebm.ReplayBuffer(8, (2,), storage=storage, seed=0, replacement=replacement, device="cpu")
        got = [buffer.draw(4, 0, labels=labels[:4])]
        for t in range(4):
            buffer.push(got[-1][0], t, labels=got[-1][1], slots=got[-1][2])
            got.append(buffer.draw(4, t + 1, reinit=0.5, labels=labels[:4]))
        again = hatebm.ReplayBuffer(8, (2,), storage=storage, seed=1, device="cpu")
        again.load_state_dict(buffer.state_dict())
        return got, again.state_dict()

    def judged():
        classifier = Classifier.fit(to_pixels(images.train), labels, epochs=1)
        features = classifier.features(to_pixels(images.train))
        found = detection(draws[:, 0, 0], draws[:, 1, 1], bootstrap=10)
        distances = frechet_distance(features, pixel_features(to_pixels(images.train))[:, :32])
        kernel = kernel_distance(features, features[:20] + 1, 10, 0)
        return (
            features,
            class_shares(classifier.predict(to_pixels(images.train)), 4),
            found,
            outliers(images.train),
            near_outliers(images.train),
            distances,
            kernel,
        )

    backends = [name for name in ("reference", "cpu") if hatebm.backends()[name] is True]
    return {
        **{
            f"step, {b}": lambda b=b: (step(b), step(b, grad=half, clip=("value", 0.1)), step(b, add="fma"))
            for b in backends
        },
        **{f"ratio, {b}": lambda b=b: ratio(b) for b in backends},
        **{f"metropolis, {b}": lambda b=b: hatebm.ops.metropolis(u, **place, backend=b) for b in backends},
        **{f"residual_add, {b}": lambda b=b: hatebm.ops.residual_add(x, grad, backend=b) for b in backends},
        **{f"philox, {b}": lambda b=b: hatebm.philox(counter, key, backend=b) for b in backends},
        **{
            f"normal, {b}": lambda b=b: hatebm.normal(
                (4, 3), **place, purpose=hatebm.Purpose.REPLAY, device="cpu", backend=b
            )
            for b in backends
        },
        "bytes": lambda: replay(torch.uint8, "ring"),
        "floats": lambda: replay(torch.float32, "reservoir"),
        "diagnostics": lambda: (
            hatebm.diagnostics.split_rhat(draws),
            *(hatebm.diagnostics.ess(draws, kind) for kind in ("bulk", "tail", "mean")),
            hatebm.diagnostics.autocorrelation(draws),
            str(hatebm.diagnostics.summary(draws)),
        ),
        "plots": lambda: len(
            hatebm.diagnostics.plot_chain(
                draws, {"step": torch.arange(20, device="cpu"), "accept": draws[..., 0].abs()}
            ).axes
        ),
        "data": lambda: (
            digits().train,
            to_bytes(rescaled(to_pixels(resized(images.train, 16)), (-1.0, 1.0), (0.0, 1.0)), (0.0, 1.0)),
            images.thinned(7).train,
        ),
        "judged": judged,
        "imported": lambda: generator_from(theirs)(torch.ones(2, 5, dtype=torch.float32, device="cpu")),
    }


def training(create, images):
    learner = create()
    measured = [learner.advance(images) for _ in range(2)]
    saved = {key: tensor.clone() for key, tensor in learner.tensors().items()}
    learner.restore(saved, 2)
    return saved, measured, learner.samples(images, 2, seed=0), learner.scores(images.train[:5])


def generator():
    return torch.Generator("cpu").manual_seed(0)


def flat(value):
    """Everything that a job returned, tensors as they are, but for reports, which tell the time."""
    if isinstance(value, dict):
        value = [(key, value[key]) for key in sorted(value) if key != "report"]
    if isinstance(value, AIS):
        value = [value.log_z, value.log_weights, value.states, value.eps]
    return [part for item in value for part in flat(item)] if isinstance(value, list | tuple) else [value]


def same(got, want):
    got, want = flat(got), flat(want)
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        if isinstance(other, Tensor):
            assert (one.dtype, one.device) == (other.dtype, other.device)
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == other or other != other


@contextmanager
def default(kind):
    """A default dtype, or a default device that holds nothing."""
    if kind == "meta":
        with torch.device("meta"):
            yield
        return
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


KINDS = pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16, "meta"], ids=str)


@pytest.mark.parametrize("jobs", [chains, others])
def test_nothing_public_takes_note_of_them(jobs):
    made = jobs()
    wanted = {name: job() for name, job in made.items()}
    wrong = []
    for kind in (torch.float64, torch.bfloat16, torch.float16, "meta"):
        for name, job in made.items():
            try:
                with default(kind):
                    got = job()
                same(got, wanted[name])
            except Exception as error:
                wrong.append(f"{name} under {kind}: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert not wrong, "\n".join(wrong)


@KINDS
@pytest.mark.parametrize("name", SYSTEMS)
def test_nor_does_training(name, kind, monkeypatch):
    images, theirs = tiny.images(), tiny.generator()
    monkeypatch.setattr(tiny, "generator", lambda: theirs)
    wanted = training(SYSTEMS[name], images)
    with default(kind):
        got = training(SYSTEMS[name], images)
    same(got, wanted)


def test_all_that_is_public_was_tried():
    here = inspect.getsource(chains) + inspect.getsource(others)
    for module, names in (
        ("hatebm", hatebm.__all__),
        ("hatebm.energies", ["Gaussian", "Mixture", "DoubleWell", "Funnel", "MLP"]),
    ):
        assert not [name for name in names if f"{module.split('.')[-1]}.{name}" not in here and name != "energies"]
