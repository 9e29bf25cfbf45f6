"""What learns: averages, bounds on gradients, restarts, and samples that are their own in any batch."""

import copy

import pytest
import tiny
import torch
from shell import same
from tiny import one_thread  # noqa: F401
from tiny_learners import SYSTEMS
from torch import Tensor, nn

from hatebm.errors import UsageError
from hatebm.learning import learner as learners
from hatebm.learning import scores as scoring
from hatebm.learning.learner import Learner, adam
from hatebm.learning.part import Part

EACH = pytest.mark.parametrize("create", SYSTEMS.values(), ids=SYSTEMS)
CHAINS = pytest.mark.parametrize("create", [SYSTEMS[name] for name in ("synthesis", "joint", "igebm", "conditional")])
HATS = pytest.mark.parametrize("create", [SYSTEMS["synthesis"], SYSTEMS["joint"]], ids=["synthesis", "joint"])


def floats(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights and of the statistics of batch norms, but no singular vectors: an average has its own."""
    kept = {name: t for name, t in module.state_dict().items() if name.split(".")[-1] not in ("u", "v")}
    return {name: t.detach().clone() for name, t in kept.items() if t.is_floating_point()}


@EACH
def test_the_average_is_the_exponential_one_of_weights_and_statistics(create):
    learner, images = create(), tiny.images()
    wanted = {}
    for name, part in learner.parts.items():
        if part.average is not None:
            wanted[name] = floats(part.network)
            assert all(torch.equal(t, wanted[name][key]) for key, t in floats(part.evaluated).items())
    assert wanted
    for t in range(4):
        learner.advance(images)
        for name, before in wanted.items():
            now = floats(learner.parts[name].network)
            wanted[name] = {key: 0.9 * before[key] + 0.1 * now[key] if t else now[key] for key in now}
    for name, average in wanted.items():
        part = learner.parts[name]
        assert part.evaluated is part.average.module
        assert not part.evaluated.training
        torch.testing.assert_close(floats(part.evaluated), average, rtol=1e-5, atol=1e-7)
        assert not all(torch.equal(t, average[key]) for key, t in floats(part.network).items())


@EACH
def test_without_an_average_the_last_weights_are_used(create):
    learner = create(average=0.0)
    learner.advance(tiny.images())
    for part in learner.parts.values():
        assert part.average is None
        assert part.evaluated is part.network
        assert not part.evaluated.training


def energies_by_hand(learner: Learner, pixels: Tensor) -> Tensor:
    """The energy of each image; of a conditional one that of the class which suits it best."""
    energy, classes = learner.parts["energy"].evaluated, getattr(learner.config, "classes", 0)
    if not classes:
        return energy(pixels)
    return torch.stack([energy(pixels, torch.full((len(pixels),), y)) for y in range(classes)]).min(0).values


def score_by_hand(learner: Learner, name: str, images: Tensor) -> Tensor:
    """One score of bytes by its formula."""
    network = {key: part.evaluated for key, part in learner.parts.items()}
    pixels = (images.float() / 255 if "E" in name else images.float() / 127.5 - 1).requires_grad_()
    match name:
        case "-H(x)" | "-E(x)":
            return -energies_by_hand(learner, pixels)
        case "-|dH/dx|" | "-|dE/dx|":
            (gradient,) = torch.autograd.grad(energies_by_hand(learner, pixels).sum(), pixels)
            return -gradient.square().sum((1, 2, 3)).sqrt()
        case "a D(x) + b":
            calibration = network["calibration"]
            return calibration.scale * network["discriminator"](pixels) + calibration.shift
        case "-|x - G(I(x))|":
            return -(pixels - network["decoder"](network["encoder"](pixels))).square().sum((1, 2, 3)).sqrt()


SCORES = {
    "synthesis": ["-H(x)", "-|dH/dx|"],
    "joint": ["-H(x)", "-|dH/dx|"],
    "sngan": ["a D(x) + b"],
    "autoencoder": ["-|x - G(I(x))|"],
    "igebm": ["-E(x)", "-|dE/dx|"],
    "conditional": ["-E(x)", "-|dE/dx|"],
}


@pytest.mark.parametrize("average", [0.9, 0.0])
@pytest.mark.parametrize("system", SYSTEMS)
def test_scores_are_their_formulas_by_the_averaged_weights_and_leave_the_training_alone(system, average, monkeypatch):
    monkeypatch.setattr(scoring, "AT_ONCE", 4)
    (scored, left), images = (SYSTEMS[system](average=average) for _ in range(2)), tiny.images()
    for _ in range(3):
        scored.advance(images)
        left.advance(images)
        found = scored.scores(images.train)
        assert list(found) == SCORES[system]
        for name, values in found.items():
            assert (values.dtype, values.shape, values.requires_grad) == (torch.float32, (10,), False)
            wanted = score_by_hand(scored, name, images.train).detach()
            torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-5)
            assert len(wanted.unique()) > 1
    ours, theirs = scored.tensors(), left.tensors()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@EACH
def test_scores_of_other_images_are_refused(create):
    learner = create()
    for images, error, message in (
        (torch.zeros(2, 1, 8, 8), TypeError, "a uint8 tensor, got a float32 tensor of shape"),
        ([[0]], TypeError, "a uint8 tensor, got "),
        (torch.zeros(2, 3, 8, 8).byte(), ValueError, r"of shape \(n, 1, 8, 8\), n > 0, got "),
        (torch.zeros(2, 1, 8, 9).byte(), ValueError, r"of shape \(n, 1, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8).byte(), ValueError, "of shape"),
        (torch.zeros(1, 8, 8).byte(), ValueError, r"of shape \(n, 1, 8, 8\)"),
    ):
        with pytest.raises(error, match=f"scores: images must be {message}"):
            learner.scores(images)


@HATS
@pytest.mark.parametrize("average", [0.9, 0.0])
def test_samples_and_scores_come_from_the_averaged_weights(create, average):
    learner, images = create(average=average), tiny.images()
    for _ in range(3):
        learner.advance(images)
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        before = learner.sample(3, [0, 2], seed=1)[1], learner.energy(x)
        for part in learner.parts.values():
            for weight in part.network.parameters():
                weight.mul_(1.5)
        after = learner.sample(3, [0, 2], seed=1)[1], learner.energy(x)
    assert all(torch.equal(*pair) == bool(average) for pair in zip(before, after, strict=True))


def test_each_gradient_is_bounded_by_itself():
    network = nn.ParameterList([torch.zeros(3), torch.zeros(2, 2), torch.zeros(1)])
    slopes = [torch.tensor([3.0, 0.0, 4.0]), torch.tensor([[0.5, -0.5], [1.0, 0.25]]), torch.tensor([-1e8])]

    def descended(bound: float) -> list[Tensor]:
        copied = copy.deepcopy(network)
        part = Part(copied, torch.optim.SGD(copied.parameters(), lr=1.0), lambda t: 1.0, max_grad_norm=bound)
        for _ in range(2):  # a second step has no memory of the gradient before
            loss = sum((slope * w).sum() for slope, w in zip(slopes, copied, strict=True))
            assert part.descend(loss) == loss.item()
        return [-w.detach() / 2 for w in copied]

    for got, slope in zip(descended(0.0), slopes, strict=True):
        assert torch.equal(got, slope)
    first, second, third = descended(2.0)
    torch.testing.assert_close(first, 2 * slopes[0] / 5)
    assert torch.equal(second, slopes[1])  # its norm is 1.25
    torch.testing.assert_close(third, torch.tensor([-2.0]))


def test_each_element_of_a_gradient_is_bounded_by_its_own_second_moment():
    def learned(sigmas: float) -> tuple[list[Tensor], Tensor]:
        network = nn.ParameterList([torch.zeros(50), torch.zeros(2, 3)])
        part = Part(network, adam(network, 0.1, 0.0, 0.9), lambda t: 0.1, max_grad_sigmas=sigmas)
        seen = []
        for slope in slopes:
            part.descend((slope * network[0]).sum())  # the other weight has no gradient
            seen.append(network[0].grad.clone())
        return seen, network[0].detach()

    drawn = torch.Generator().manual_seed(0)
    slopes = [scale * torch.randn(50, generator=drawn) for scale in (0.05, 1.0, 1.0, 5.0, 0.2, 100.0)]
    slopes[2][0] = float("nan")
    moment, wanted = torch.zeros(50, dtype=torch.float64), []
    for t, slope in enumerate(slopes):
        unbiased = moment / (1 - 0.9**t) if t else moment
        bound = 2.5 * unbiased.sqrt() + 0.1
        wanted.append(slope.double().maximum(-bound).minimum(bound))
        moment = 0.9 * moment + 0.1 * wanted[-1].square()
    clamped = [int((bounded != slope)[1:].sum()) for bounded, slope in zip(wanted, slopes, strict=True)]
    assert clamped == [2, 43, 33, 44, 0, 49]  # so the bound is tried on either side
    seen, weight = learned(2.5)
    torch.testing.assert_close(torch.stack(seen).double(), torch.stack(wanted), rtol=1e-5, atol=0, equal_nan=True)
    assert weight[0].isnan()
    assert all(torch.equal(a[1:], b[1:]) for a, b in zip(learned(0.0)[0], slopes, strict=True))


@HATS
def test_the_configuration_bounds_the_gradient_of_each_weight_of_h_and_of_nothing_else(create):
    def norms(bound: float) -> list[float]:
        learner = create(max_grad_norm=bound, temperature=1e-9)
        learner.advance(tiny.images())
        assert [part.max_grad_norm for part in learner.parts.values()] == [bound] + [0.0] * (len(learner.parts) - 1)
        return [float(w.grad.norm()) for w in learner.parts["energy"].network.parameters()]

    assert min(norms(0.0)) > 50
    assert norms(50.0) == pytest.approx([50.0] * len(norms(50.0)), rel=1e-5)


def test_learning_rates_drop_in_the_iteration_that_the_configuration_says():
    learner, rates = SYSTEMS["joint"](energy_lr_drops=((2, 0.5), (4, 1e-9))), []
    for _ in range(6):
        learner.advance(tiny.images())
        rates.append(learner.parts["energy"].optimizer.param_groups[0]["lr"])
        if learner.iteration == 4:
            before = floats(learner.parts["energy"].network)
    assert rates == [2e-3, 2e-3, 1e-3, 1e-3, 2e-3 * 1e-9, 2e-3 * 1e-9]
    torch.testing.assert_close(floats(learner.parts["energy"].network), before, rtol=0, atol=1e-10)


@EACH
def test_a_restored_learner_goes_on_bit_for_bit(create):
    straight, images = create(), tiny.images()
    for _ in range(3):
        straight.advance(images)
    in_a_file = torch.contiguous_format
    saved = {name: tensor.clone(memory_format=in_a_file) for name, tensor in straight.tensors().items()}
    resumed = create(seed=1)
    resumed.config, resumed.noise_seed = straight.config, straight.noise_seed
    resumed.advance(images)  # whatever it was, it becomes what was saved
    resumed.restore(saved, 3)
    assert resumed.iteration == 3
    for _ in range(2):
        assert straight.advance(images) == resumed.advance(images)
    assert same(straight.tensors(), resumed.tensors())
    assert not same(straight.tensors(), saved)
    seen, again = (learner.samples(images, 3, seed=2) for learner in (straight, resumed))
    assert same(seen, again)


@EACH
def test_a_learner_restored_to_its_beginning_starts_anew(create):
    fresh, used, images = create(), create(), tiny.images()
    beginning = {name: tensor.clone() for name, tensor in fresh.tensors().items()}
    used.advance(images)
    used.restore(beginning, 0)
    assert used.advance(images) == fresh.advance(images)
    assert same(fresh.tensors(), used.tensors())


def test_memory_is_restored_in_place_and_what_is_missing_or_of_another_size_is_refused():
    learner = SYSTEMS["synthesis"]()
    learner.advance(tiny.images())
    saved = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    bank = learner.memory["bank.x"]
    bank.zero_()
    learner.restore(saved, 1)
    assert learner.memory["bank.x"] is bank
    assert torch.equal(bank, saved["bank.x"])
    for name in ("bank.z", "energy.head.weight", "energy_average.n_averaged"):
        with pytest.raises(ValueError, match=f"the tensor {name} is missing"):
            learner.restore({key: tensor for key, tensor in saved.items() if key != name}, 1)
    with pytest.raises(ValueError, match=r"the tensor bank\.[xz] must be a float32 tensor of shape \(13, "):
        SYSTEMS["synthesis"](bank_size=13).restore(saved, 1)


@pytest.fixture
def three_at_once(monkeypatch):
    monkeypatch.setattr(learners, "CHAINS_AT_ONCE", 3)


@CHAINS
def test_samples_in_batches_are_the_chains_of_their_ids(create, three_at_once):
    learner = create()
    learner.advance(tiny.images())
    steps = [0, 2, 2, 5]
    batches = list(learner.batches(7, steps, seed=4))
    assert [[len(x) for x in seen] for seen in batches] == [[3] * 4, [3] * 4, [1] * 4]
    whole = learner.sample(7, steps, seed=4)
    assert all(torch.equal(x, torch.cat(parts)) for x, parts in zip(whole, zip(*batches, strict=True), strict=True))
    for k, step in enumerate(steps):
        assert whole[k].shape == (7, 1, 8, 8)
        assert whole[k].dtype == torch.float32
        assert torch.equal(learner.chain(range(3, 6), seed=4).run(step), whole[k][3:6])
        alone = learner.chain([4], seed=4).run(step)
        torch.testing.assert_close(alone[0], whole[k][4], rtol=1e-4, atol=1e-4)
    assert torch.equal(whole[1], whole[2])
    assert not torch.allclose(whole[0], whole[3], atol=1e-3)
    assert not torch.equal(whole[0], learner.sample(7, [0], seed=5)[0])


@HATS
@pytest.mark.parametrize("sample_steps", [6, 3, 2])
def test_the_titles_of_samples_say_their_steps_whichever_stage_is_longer(create, sample_steps):
    learner = create(sample_steps=sample_steps)
    learner.advance(tiny.images())
    named = learner.samples(tiny.images(), 4, seed=1)
    assert named.keys() == learner.stages().keys()
    for title, steps in learner.stages().items():
        assert torch.equal(named[title], learner.sample(4, [steps], seed=1)[0]), title
        assert not steps or str(steps) in title


@EACH
def test_an_iteration_gives_numbers_and_counts_itself(create):
    learner = create()
    measured = learner.advance(tiny.images())
    assert learner.iteration == 1
    assert {type(value) for value in measured.values()} == {float}
    assert learner.CURVES.keys() <= measured.keys()
    assert learner.device == torch.device("cpu")
    assert type(learner.stages()) is dict


def test_what_a_system_does_not_have_is_named():
    class Bare(Learner):
        def iterate(self, images): ...
        def chain(self, chain_ids, *, seed): ...
        def stages(self): ...
        def scores(self, images): ...

    with pytest.raises(UsageError, match="Bare has no generator"):
        Bare(tiny.CONFIG, {}).generator  # noqa: B018
    with pytest.raises(UsageError, match="SNGAN has no energy of images"):
        SYSTEMS["sngan"]().energy  # noqa: B018


def test_adam_has_the_small_constant_of_keras():
    optimizer = adam(nn.Linear(1, 1), 0.3, 0.1, 0.2)
    assert optimizer.defaults["eps"] == 1e-7
    assert optimizer.defaults["lr"] == 0.3
    assert optimizer.defaults["betas"] == (0.1, 0.2)
    assert adam(nn.Linear(1, 1), 0.3).defaults["betas"] == (0.9, 0.999)
