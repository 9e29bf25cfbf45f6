"""IGEBM against the facts of its mathematics: what its loss descends, where its chains go, what dropout leaves."""

from dataclasses import replace

import pytest
import tiny
import torch
from tiny import one_thread  # noqa: F401
from torch import Tensor, nn

import hatebm
from hatebm.data import Images, batch_indices
from hatebm.learning.part import Part
from hatebm.nets.spectral import SpectralLayer, iterate_power
from hatebm.ops.noise import Purpose, uniform
from hatebm.runs.folder import Run
from hatebm.runs.starts import create
from hatebm.runs.training import train
from hatebm.sampling.cells import from_cells
from hatebm.systems.igebm import IGEBM, IGEBMConfig
from hatebm.systems.igebm.dropout import Use, masks
from hatebm.systems.igebm.scores import least_energy
from hatebm.systems.igebm.update import loss_of, update_energy

CONFIG = IGEBMConfig(
    size=8,
    channels=1,
    stem_width=3,
    energy_widths=(4, 6),
    energy_depths=(1, 1),
    activation="swish",
    langevin_steps=3,
    sample_steps=6,
    iterations=6,
    batch=4,
    buffer_size=12,
    reinit=0.3,
    lr=1e-2,
)


def images(classes: int = 0) -> Images:
    made = tiny.images()
    labels = torch.arange(len(made.train)) % classes if classes else None
    return Images(made.train, made.held_out, labels, labels[:0] if classes else None)


class Gaussian(nn.Module):
    """E(x) = theta |x|^2 / 2 + shift."""

    def __init__(self, theta: float = 2.0, shift: float = 0.0):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * x.flatten(1).square().sum(1) / 2 + self.shift


def descended(energy: Gaussian, data: Tensor, sampled: Tensor, **loss) -> float:
    """How far one step of unit rate moves theta: minus the loss's derivative."""
    before = energy.theta.item()
    part = Part(energy, torch.optim.SGD(energy.parameters(), lr=1.0), lambda t: 1.0)
    update_energy(part, (data, None), (sampled, None), replace(CONFIG, **loss), {})
    return energy.theta.item() - before


def test_with_exact_negatives_the_energy_climbs_the_likelihood_by_hand():
    theta, d = 2.0, 64
    data, model = (
        torch.randn(4, 1, 8, 8),
        torch.full((4, 1, 8, 8), theta**-0.5),
    )  # the second moment of exp(-E), exactly
    square = data.flatten(1).square().sum(1)
    slope = d / (2 * theta) - square.mean() / 2  # of d/2 log theta - theta |x|^2 / 2
    assert descended(Gaussian(theta), data, model, energy_l2=0.0) == pytest.approx(slope.item(), rel=1e-5)
    # and of l2 (mean E(x+)^2 + mean E(x-)^2), E = theta s / 2: l2 theta / 2 (mean s+^2 + d^2 / theta^2)
    pulled = slope - 0.3 * theta / 2 * (square.square().mean() + (d / theta) ** 2)
    assert descended(Gaussian(theta), data, model, energy_l2=0.3) == pytest.approx(pulled.item(), rel=1e-5)


def test_negatives_carry_no_graph():
    learner = IGEBM.create(CONFIG)
    network, seen = learner.parts["energy"].network, []
    network.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].requires_grad))
    learner.advance(tiny.images())
    assert seen == [True] * CONFIG.langevin_steps + [False]
    assert not learner.buffer.draw(4, 0, reinit=0.0)[0].requires_grad


REAL, DRAWN = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.0, 3.0])


def by_hand(form: str) -> tuple[float, Tensor, Tensor]:
    """A loss of REAL and DRAWN with its derivatives in either."""
    third = torch.full((3,), 1 / 3)
    if form == "softplus":
        gap = REAL - DRAWN
        slope = third / (1 + (-gap).exp())
        return (1 + gap.exp()).log().mean().item(), slope, -slope
    if form == "logsumexp":
        weights = torch.tensor([1.0, 0.0, 3.0]).neg().exp()
        weights = weights / (weights.sum() + 1e-4)
        return REAL.mean().item() - (weights @ DRAWN).item(), third, -weights
    return REAL.mean().item() - DRAWN.mean().item(), third, -third


@pytest.mark.parametrize("form", ["difference", "softplus", "logsumexp"])
def test_losses_are_their_formulas_and_do_not_feel_where_zero_is(form):
    energies = REAL.clone().requires_grad_(), DRAWN.clone().requires_grad_()
    value, *slopes = by_hand(form)
    loss = loss_of(*energies, form)
    assert loss.item() == pytest.approx(value, rel=1e-6)
    for found, slope in zip(torch.autograd.grad(loss, energies), slopes, strict=True):
        torch.testing.assert_close(found, slope)
    shift = 1e-4 * 7 / (DRAWN.neg().exp().sum() + 1e-4) if form == "logsumexp" else 0.0  # its weights sum to nearly 1
    assert (loss_of(REAL + 7, DRAWN + 7, form) - loss).item() == pytest.approx(float(shift), abs=1e-6)


def test_a_constant_changes_no_chain_and_no_loss_but_by_its_square():
    data, sampled = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    ended = [hatebm.langevin(Gaussian(2.0, c), data, 5, dynamics=CONFIG.dynamics, seed=0) for c in (0.0, 8.0)]
    assert torch.equal(*ended)
    plain, shifted = (descended(Gaussian(2.0, c), data, sampled, energy_l2=0.0) for c in (0.0, 8.0))
    assert plain == pytest.approx(shifted, rel=1e-5)
    # the derivative of mean (E + c)^2 has 2 c mean dE/dtheta more, of data and samples
    more = -2 * 8.0 * (data.square().sum((1, 2, 3)).mean() + sampled.square().sum((1, 2, 3)).mean()) / 2
    plain, shifted = (descended(Gaussian(2.0, c), data, sampled, energy_l2=1.0) for c in (0.0, 8.0))
    assert shifted - plain == pytest.approx(more.item(), rel=1e-4)


def test_a_step_is_the_published_one():
    """Noise, gradient at the noised point, each element clipped, step, clamp."""
    energy, x, config = Gaussian(0.02), torch.rand(4, 1, 8, 8), replace(CONFIG, noise_std=0.3)
    eps = torch.randn(4, 1, 8, 8)
    noised = x + 0.3 * eps
    moved = noised - 10 * (0.02 * noised).clamp(-0.01, 0.01)
    assert ((0.02 * noised).abs() > 0.01).any()
    assert ((0.02 * noised).abs() < 0.01).any()
    assert ((moved < 0) | (moved > 1)).any()
    found = hatebm.langevin(energy, x, 1, dynamics=config.dynamics, noise=lambda t: eps)
    torch.testing.assert_close(found, moved.clamp(0, 1))
    unbounded = hatebm.langevin(energy, x, 1, dynamics=replace(config, max_gradient=0.0).dynamics, noise=lambda t: eps)
    torch.testing.assert_close(unbounded, (noised - 10 * 0.02 * noised).clamp(0, 1))


def kept_in(net: nn.Module, use: Use, step: int) -> dict[str, Tensor]:
    return masks(net.units, 4, use=use, seed=0, step=step, device="cpu")


@pytest.mark.parametrize("classes", [0, 3])
def test_an_iteration_is_the_loop_people_write(classes):
    config = replace(CONFIG, classes=classes, noise_std=0.05)
    ours, data = IGEBM.create(config), images(classes)
    theirs = IGEBM.create(config)
    for learner in (ours, theirs):  # blocks that are felt, so that dropout is
        with torch.no_grad():
            for block in learner.parts["energy"].network.blocks:
                block.conv2.weight.copy_(
                    torch.randn(block.conv2.weight.shape, generator=torch.Generator().manual_seed(0))
                )
        learner.advance(data)
    net, optimizer = theirs.parts["energy"].network, theirs.parts["energy"].optimizer

    iterate_power(net)
    index = batch_indices(len(data.train), 4, seed=0, iteration=1)
    real = from_cells(data.train[index], (0.0, 1.0), seed=0, step=1, purpose=Purpose.DATA_NOISE, device="cpu")
    labels = data.train_labels[index] if classes else None
    fresh = lambda rows: uniform(  # noqa: E731
        (len(rows), 1, 8, 8), seed=0, step=1, purpose=Purpose.INITIAL_STATE, chain_ids=rows
    )
    x, own, _ = theirs.buffer.draw(4, 1, reinit=0.3, labels=labels, init=fresh)
    of = lambda y: {} if y is None else {"labels": y}  # noqa: E731
    for t in (3, 4, 5):
        x = (x + 0.05 * hatebm.normal((4, 1, 8, 8), seed=0, step=t)).requires_grad_()
        kept = kept_in(net, Use.CHAIN, t)
        grad = torch.autograd.grad(net(x, **of(own), **kept).sum(), x)[0].clamp(-0.01, 0.01)
        x = (x.detach() - 10 * grad).clamp(0, 1)
    kept = [kept_in(net, use, 1) for use in (Use.DATA, Use.SAMPLES)]
    positive, negative = net(real, **of(labels), **kept[0]), net(x, **of(own), **kept[1])
    loss = positive.mean() - negative.mean() + positive.square().mean() + negative.square().mean()
    optimizer.zero_grad()
    loss.backward()
    for weight in net.parameters():
        state = optimizer.state[weight]
        bound = 3 * (state["exp_avg_sq"] / (1 - 0.999 ** state["step"])).sqrt() + 0.1
        weight.grad.clamp_(-bound, bound)
    optimizer.step()

    measured = ours.advance(data)
    torch.testing.assert_close(ours.buffer.state_dict()["states"][4:8] / 256, x, rtol=0, atol=1.01 / 256)
    assert measured["energy_gap"] == pytest.approx((positive.mean() - negative.mean()).item(), abs=1e-5)
    for name, weight in ours.parts["energy"].network.named_parameters():
        torch.testing.assert_close(weight, dict(net.named_parameters())[name], rtol=1e-3, atol=1e-5)


def test_a_training_with_dropout_resumes_bit_for_bit_and_samples_use_none():
    whole, data = IGEBM.create(CONFIG), tiny.images()
    for _ in range(2):
        whole.advance(data)
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    resumed = IGEBM.create(replace(CONFIG, seed=0))
    resumed.restore(saved, 2)
    for _ in range(2):
        assert whole.advance(data) == resumed.advance(data)
    assert all(torch.equal(tensor, resumed.tensors()[name]) for name, tensor in whole.tensors().items())
    off = IGEBM.create(replace(CONFIG, dropout=False))
    off.restore(saved, 2)
    resumed.restore(saved, 2)
    assert torch.equal(off.sample(3, [2], seed=1)[0], resumed.sample(3, [2], seed=1)[0])
    assert off.advance(data) != resumed.advance(data)


def test_the_averaged_energy_has_layers_of_norm_one_however_fast_weights_turn():
    learner, data = IGEBM.create(replace(CONFIG, average=0.95, langevin_steps=1)), tiny.images()
    turning = torch.Generator().manual_seed(0)
    for _ in range(60):
        with torch.no_grad():
            for layer in learner.parts["energy"].network.modules():
                if isinstance(layer, SpectralLayer) and not layer.capped:
                    layer.weight.mul_(0.95).add_(0.3 * torch.randn(layer.weight.shape, generator=turning))
        learner.advance(data)
    layers = [layer for layer in learner.energy.modules() if isinstance(layer, SpectralLayer) and not layer.capped]
    norms = [torch.linalg.matrix_norm(layer.normalised().detach().flatten(1), 2).item() for layer in layers]
    assert norms == pytest.approx([1] * 5, abs=0.03)


def test_chains_may_start_at_half_plus_half_a_normal():
    config = replace(CONFIG, start="normal", batch=400)
    learner, other = IGEBM.create(config), IGEBM.create(replace(config, start="uniform"))
    began, ran = {}, {}
    for one in (learner, other):
        chain = one.chain(range(400), seed=3)
        began[one] = chain.run(0)
        ran[one] = chain.run(1)
    x = (began[learner] + 1) / 2
    assert abs(x.mean().item() - 0.5) < 4 * 0.5 / x.numel() ** 0.5
    assert abs(x.std().item() - 0.5) < 4 * 0.5 / (2 * x.numel()) ** 0.5
    assert (ran[learner].abs() <= 1).all()
    assert (began[other].abs() <= 1).all()
    starts = []
    learner.parts["energy"].network.register_forward_pre_hook(
        lambda net, inputs: starts.append(inputs[0].detach().clone())
    )
    learner.advance(tiny.images())
    assert starts[0].min() < -0.5
    assert starts[0].std().item() == pytest.approx(0.5, abs=0.01)


def test_a_training_follows_its_energy_once_and_makes_its_weights_once_an_iteration(monkeypatch):
    """Weights move in place, power iterations move u and v: the prepared form of the first iteration serves all."""
    prepare, values, followed, made = hatebm.engine.prepare, hatebm.engine.prepare.fixed.Values, [], []
    honest, renewed = prepare.traced, values.renewed
    monkeypatch.setattr("hatebm.engine.prepare.rules.WORTH", 0.0)
    monkeypatch.setattr(prepare, "traced", lambda *args, **how: followed.append(1) or honest(*args, **how))
    widths = {"network": "conv", "energy_widths": (16, 16), "dropout": False, "classes": 3}
    learner = IGEBM.create(replace(CONFIG, **widths))
    learner.advance(images(3))
    first = len(followed)
    monkeypatch.setattr(values, "renewed", lambda self, *given: made.append(renewed(self, *given)) or made[-1])
    for _ in range(2):
        learner.advance(images(3))
    assert len(followed) == first > 0
    assert made == [True, True, *[False] * 4] * 2  # weights, then the numbers of classes, at each of three steps
    chain = learner.chain(range(4), seed=0).chain
    chain.run(1)
    assert "3 computed weights kept for the run" in chain.report()


def test_the_least_of_many_energies_keeps_the_graph_of_one_alone():
    def energy(x: Tensor, labels: Tensor) -> Tensor:
        keeping.append(torch.is_grad_enabled())
        return (labels - 1.2) ** 2 * x.flatten(1).sum(1)

    x, keeping = torch.randn(5, 1, 8, 8, requires_grad=True), []
    least = least_energy(energy, 7, x)
    (gradient,) = torch.autograd.grad(least.sum(), x)
    assert keeping.count(True) == 1
    best = torch.where(x.flatten(1).sum(1) > 0, 0.2**2, 4.8**2)  # of class 1, else of class 6
    torch.testing.assert_close(least, best * x.flatten(1).sum(1))
    torch.testing.assert_close(gradient, best.view(-1, 1, 1, 1).expand_as(x))


def test_an_iteration_leaves_what_the_buffer_holds_where_it_lies(tmp_path, monkeypatch):
    """However large it is: only a checkpoint copies it."""
    run = Run(tmp_path / "run", "igebm", "digits", ".", 10, replace(CONFIG, iterations=3))
    create(run)
    kept, copies = hatebm.systems.igebm.buffer.kept, []
    monkeypatch.setattr(hatebm.systems.igebm.buffer, "kept", lambda *given: copies.append(1) or kept(*given))
    assert train(run, IGEBM.create(run.config), tiny.images(), lambda row: None)
    assert len(copies) == 3  # at the start, for the first point, and at the end
