"""Detection rates against scikit-learn and closed forms, scores against a quadratic energy, outliers by their law."""

import copy
import math
from itertools import product

import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from small import images as small_images
from small import small_net
from tiny import one_thread  # noqa: F401

from hatebm.evaluation import detection, energy_score, near_outliers, outliers, score_norm
from hatebm.evaluation import letters as lettering
from hatebm.evaluation.ood import _counts, _rates
from hatebm.runs import plots


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal_scores(n=500, m=1000, shift=1.0):
    draw = generator()
    return torch.randn(n, generator=draw) + shift, torch.randn(m, generator=draw)


def by_sklearn(inside, outside):
    labels = torch.cat((torch.ones(len(inside)), torch.zeros(len(outside))))
    scores = torch.cat((inside, outside))
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return roc_auc_score(labels, scores), average_precision_score(labels, scores), false[true >= 0.8].min()


def values(found):
    return found.auroc.value, found.auprc.value, found.fpr80.value


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 1.0, 50.0])
def test_the_rates_are_those_of_scikit_learn_ties_included(decimals, shift):
    inside, outside = (scores.round(decimals=decimals) for scores in normal_scores(shift=shift))
    assert values(detection(inside, outside, bootstrap=1)) == pytest.approx(by_sklearn(inside, outside), rel=1e-12)


def test_every_resample_has_the_rates_of_its_images():
    inside, outside = (scores.round(decimals=1) for scores in normal_scores(40, 30))
    levels, rank = torch.cat((inside, outside)).neg().unique(return_inverse=True)
    drawn_in = torch.randint(40, (25, 40), generator=generator(1))
    drawn_out = torch.randint(30, (25, 30), generator=generator(2))
    found = _rates(_counts(rank[:40][drawn_in], len(levels)), _counts(rank[40:][drawn_out], len(levels)))
    for b in range(25):
        expected = by_sklearn(inside[drawn_in[b]], outside[drawn_out[b]])
        assert found[:, b].tolist() == pytest.approx(expected, rel=1e-12)


def test_the_order_alone_counts_so_torchmetrics_agrees_on_ranks():
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    inside, outside = (1e6 * scores.double() for scores in normal_scores())
    scores, labels = torch.cat((inside, outside)), torch.cat((torch.ones(500), torch.zeros(1000))).long()
    share = scores.unique(return_inverse=True)[1] / 1500  # in [0, 1]: torchmetrics squashes anything else by a sigmoid
    found = detection(inside, outside, bootstrap=1)
    assert found.auroc.value == pytest.approx(float(binary_auroc(share, labels)), abs=1e-5)  # float32 sums there
    assert found.auprc.value == pytest.approx(float(binary_average_precision(share, labels)), abs=1e-5)


def test_closed_forms():
    low, high = torch.zeros(10), torch.ones(30)
    assert values(detection(high, low)) == (1, 1, 0)
    assert values(detection(low, high)) == (0, pytest.approx(10 / 40), 1)
    assert values(detection(low, torch.zeros(30))) == (0.5, 0.25, 1)  # one threshold, which all pass
    assert values(detection(torch.tensor([3.0, 1.0]), torch.tensor([2.0]))) == (0.5, pytest.approx(5 / 6), 1)
    eight_of_ten = torch.tensor([5.0] * 8 + [1.0] * 2)
    assert detection(eight_of_ten, torch.tensor([2.0] * 3)).fpr80.value == 0
    assert detection(eight_of_ten[1:], torch.tensor([2.0] * 3)).fpr80.value == 1  # 7 of 9 are too few


def test_infinite_scores_are_the_ends_of_the_order():
    found = detection(torch.tensor([math.inf, 0.0]), torch.tensor([-math.inf, -1e300]).double())
    assert values(found) == (1, 1, 0)


def test_the_auroc_interval_has_the_width_of_delong():
    inside, outside = normal_scores()
    above = (inside[:, None] > outside).double()
    error = math.sqrt(above.mean(1).var() / len(inside) + above.mean(0).var() / len(outside))
    interval = detection(inside, outside, bootstrap=1000).auroc
    # of 1,000 resamples each end is uncertain by sqrt(.025 .975 / 1000) / phi(1.96) = 0.084 standard deviations
    tolerance = 4 * math.sqrt(2) * 0.0845 * error
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, abs=tolerance)
    assert interval.low < interval.value < interval.high


def test_the_intervals_cover_as_often_as_they_say():
    # the truth for N(1, 1) against N(0, 1): AUROC = Phi(1 / sqrt 2), FPR80 = Phi(Phi^-1(0.8) - 1)
    standard = torch.distributions.Normal(0.0, 1.0)
    truth = {
        "auroc": float(standard.cdf(torch.tensor(0.5**0.5))),
        "fpr80": float(standard.cdf(standard.icdf(torch.tensor(0.8)) - 1)),
    }
    draw, covered = generator(3), dict.fromkeys(truth, 0)
    for repetition in range(200):
        inside, outside = torch.randn(200, generator=draw) + 1, torch.randn(200, generator=draw)
        found = detection(inside, outside, bootstrap=200, seed=repetition)
        for name, value in truth.items():
            interval = getattr(found, name)
            covered[name] += interval.low <= value <= interval.high
    for name, count in covered.items():
        assert count / 200 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 200), name  # 0.888; percentiles may be somewhat short


def test_the_seed_decides_and_the_global_random_state_stays():
    inside, outside = normal_scores(50, 50)
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = detection(inside, outside, bootstrap=20, seed=7)
    assert torch.equal(torch.rand(2), expected)
    assert first == detection(inside, outside, bootstrap=20, seed=7)
    assert first != detection(inside, outside, bootstrap=20, seed=8)


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        (torch.tensor([1.0, math.nan]), torch.ones(2), "scores_in must be free of NaN"),
        (torch.ones(2), torch.tensor([math.nan]), "scores_out must be free of NaN"),
        (torch.ones(2, 1), torch.ones(2), r"scores_in must be of shape \(n,\)"),
        (torch.ones(2), torch.ones(0), "scores_out must be of shape"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(inside, outside, message):
    with pytest.raises(ValueError, match=f"detection: {message}"):
        detection(inside, outside)


@pytest.mark.parametrize("batch", [1, 4, 250])
def test_the_scores_of_a_quadratic_energy(batch):
    x = torch.randn(6, 3, 4, 4, generator=generator(), dtype=torch.float64)
    scale = torch.tensor(3.0, dtype=torch.float64)

    def energy(x):
        return scale * x.square().sum((1, 2, 3)) / 2

    torch.testing.assert_close(energy_score(energy, x, batch), -3 * x.square().sum((1, 2, 3)) / 2)
    torch.testing.assert_close(score_norm(energy, x, batch), -3 * x.flatten(1).norm(dim=1))


@pytest.mark.parametrize("score", [energy_score, score_norm])
def test_a_score_leaves_the_network_and_the_images_as_they_were(score):
    net = small_net().train()
    net[0].weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    x = small_images()
    with torch.no_grad():
        found = score(Scalar(net), x, 4)
    assert found.shape == (6,)
    assert not found.requires_grad
    torch.testing.assert_close(found, score(Scalar(net), x, 2))  # in eval mode: no dropout, no statistics of the batch
    assert net.training
    assert net[3].training
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in net.parameters())
    assert x.grad is None
    assert not x.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Scalar(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).squeeze(1)


def test_outliers_by_their_law():
    pictures = torch.randint(0, 256, (400, 3, 8, 8), generator=generator(), dtype=torch.uint8)
    pictures[1] = pictures[0]
    found = outliers(pictures, seed=3)
    assert all(x.shape == pictures.shape and x.dtype == torch.uint8 for x in found.values())

    permuted = found["permuted pixels"]
    code = torch.tensor([1, 256, 65536])  # a whole pixel as one number: colours move together
    sorted_pixels = [(x.long().flatten(2) * code[:, None]).sum(1).sort(1).values for x in (pictures, permuted)]
    assert torch.equal(*sorted_pixels)
    assert not torch.equal(permuted[0], permuted[1])  # an order of its own for each image

    noise = found["uniform noise"].double()
    n = noise.numel()
    assert abs(noise.mean() - 127.5) < 4 * math.sqrt((256**2 - 1) / 12 / n)
    counts = torch.bincount(found["uniform noise"].flatten().int(), minlength=256)
    chi2 = ((counts - n / 256).square() / (n / 256)).sum()
    assert abs(chi2 - 255) < 4 * math.sqrt(2 * 255)
    correlation = torch.corrcoef(torch.stack((noise[..., :-1].flatten(), noise[..., 1:].flatten())))[0, 1]
    assert abs(correlation) < 4 / math.sqrt(n * 7 / 8)

    constant = found["constant"]
    assert torch.equal(constant, constant[:, :, :1, :1].expand_as(constant))
    colours = constant[:, :, 0, 0].double()
    assert (colours.mean(0) - 127.5).abs().max() < 4 * math.sqrt((256**2 - 1) / 12 / 400)
    shared = (found["uniform noise"].flatten(1)[:, :3] == constant[:, :, 0, 0]).double().mean()
    assert shared < 1 / 256 + 4 * math.sqrt(1 / 256 / 1200)  # the kinds draw apart from one another
    assert (torch.corrcoef(colours.mT) - torch.eye(3)).abs().max() < 4 / math.sqrt(400)


def test_a_pixel_goes_anywhere_equally_often():
    marked = torch.zeros(2000, 1, 2, 2, dtype=torch.uint8)
    marked[:, :, 0, 0] = 1
    counts = outliers(marked)["permuted pixels"].flatten(1).sum(0)
    chi2 = ((counts - 500.0).square() / 500).sum()
    assert chi2 < 3 + 4 * math.sqrt(6)


def test_the_outliers_are_fixed_by_the_seed_image_by_image():
    pictures = torch.randint(0, 256, (6, 1, 8, 8), generator=generator(), dtype=torch.uint8)
    found, again, other = outliers(pictures), outliers(pictures[:4]), outliers(pictures, seed=1)
    for name in found:
        assert torch.equal(found[name][:4], again[name])
        assert not torch.equal(found[name], other[name])


@pytest.mark.parametrize("made", [outliers, near_outliers])
@pytest.mark.parametrize("images", [torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5).byte(), torch.zeros(4, 4).byte()])
def test_outliers_of_floats_and_of_other_shapes_are_refused(made, images):
    with pytest.raises(TypeError, match=f"^{made.__name__}: images must be uint8 of shape"):
        made(images)


def handwriting(n=40, size=16, ground=(10, 60, 200), ink=(250, 60, 20)):
    """Bars, each 2 wide and at a place of its own: 3 rows a bit more than half ink, 6 all, 3 a fifth; and a stain."""
    pictures = torch.tensor(ground, dtype=torch.uint8).view(1, 3, 1, 1).repeat(n, 1, size, size)
    colours = torch.tensor([ground, ink]).float()
    for i, picture in enumerate(pictures):
        top, left = 2 + i % 3, 5 + i % 4
        bar = slice(left, left + 2)
        for rows, columns, share in (
            (slice(top, top + 3), bar, 0.55),
            (slice(top + 3, top + 9), bar, 1.0),
            (slice(top + 9, top + 12), bar, 0.2),
            (slice(0, 1), slice(0, 8), 0.3),
        ):
            picture[:, rows, columns] = torch.lerp(*colours, share).round().byte()[:, None, None]
    return pictures


def test_letters_lie_where_the_ink_lies_in_its_colour_on_the_ground_of_the_data():
    pictures = handwriting()
    drawn = near_outliers(pictures, seed=1)["letters"]
    assert (drawn.shape, drawn.dtype) == (pictures.shape, torch.uint8)
    assert torch.equal(drawn[:, 1], torch.full_like(drawn[:, 1], 60))  # where ground and ink are alike
    assert (drawn[:, 0].amin((1, 2)) == 10).all()
    assert (drawn[:, 0].amax((1, 2)) == 250).all()
    assert ((drawn[:, 0] > 10) & (drawn[:, 0] < 250)).flatten(1).any(1).all()  # smooth edges
    cover = (drawn[:, 0].double() - 10) / 240
    torch.testing.assert_close((200 - drawn[:, 2].double()) / 180, cover, rtol=0, atol=1 / 180)
    for i, ink in enumerate(cover > 0):
        rows, columns = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
        assert 9 <= rows[-1] + 1 - rows[0] <= 11, i  # from half the ink's colour on, and the pixels at either end
        for line, middle in ((rows, 2 + i % 3 + 4.5), (columns, 5 + i % 4 + 1)):
            assert abs((line[0] + line[-1] + 1) / 2 - middle) <= 1, i  # moved by half a pixel, seen in whole ones
    swapped = near_outliers(handwriting(ground=(250, 60, 20), ink=(10, 60, 200)), seed=1)["letters"]
    assert (swapped[:, 0].int() + drawn[:, 0] - 260).abs().max() <= 1  # dark on bright as bright on dark


def test_letters_are_many_in_many_fonts_and_places_fixed_by_the_seed_image_by_image(monkeypatch):
    chosen, draw = [], lettering._drawn
    monkeypatch.setattr(lettering, "_drawn", lambda *given: chosen.append(given) or draw(*given))
    pictures = handwriting(1).expand(1500, -1, -1, -1)
    drawn = near_outliers(pictures)["letters"]
    kinds = {(letter, font) for letter, font, *_ in chosen}
    assert kinds == set(product(lettering.LETTERS, lettering.FONTS))  # one is missing with p = 1e-5
    assert not set(lettering.LETTERS) & set("BDGIJOQSTZ")
    indices = torch.tensor([lettering.LETTERS.index(letter) for letter, *_ in chosen])
    shared = (outliers(pictures)["constant"][:, 0, 0, 0] % 16 == indices).double().mean()
    assert shared < 1 / 16 + 4 * math.sqrt(1 / 16 / 1500)  # the kinds draw apart from one another
    moves = torch.tensor([move for *_, move, _ in chosen])
    assert (moves.abs() <= 0.5).all()
    assert (moves.mean(0).abs() < 4 / math.sqrt(12 * 1500)).all()
    assert (moves.var(0, correction=0) - 1 / 12).abs().max() < 4 / math.sqrt(180 * 1500)
    assert len(drawn.unique(dim=0)) > 1400
    assert torch.equal(near_outliers(pictures[:7])["letters"], drawn[:7])
    assert not torch.equal(near_outliers(pictures[:7], seed=1)["letters"], drawn[:7])


@pytest.mark.parametrize("size", [1, 2, 8, 100])
def test_letters_are_drawn_at_any_size_also_where_nothing_is_written(size):
    pictures = torch.randint(0, 256, (20, 1, size, size), generator=generator(), dtype=torch.uint8)
    blank = torch.full_like(pictures, 7)
    assert near_outliers(pictures)["letters"].shape == pictures.shape
    assert torch.equal(near_outliers(blank)["letters"], blank)  # ground and ink are one


def test_mirrored_and_inverted_images():
    pictures = torch.randint(0, 256, (5, 3, 4, 4), generator=generator(), dtype=torch.uint8)
    found = near_outliers(pictures)
    assert list(found) == ["letters", "mirrored", "inverted"]
    assert torch.equal(found["mirrored"][..., 0], pictures[..., 3])
    assert torch.equal(found["inverted"].int() + pictures, torch.full((5, 3, 4, 4), 255, dtype=torch.int32))


def test_the_histogram_opens_with_one_panel_for_each_set(tmp_path):
    inside, outside = normal_scores()
    for count in (1, 3):
        scores = {"data": inside} | {f"set {i}": outside - i for i in range(count)}
        scores["set 0"] = torch.full((5,), 1e6)  # far away, and without any spread
        plots.save_histogram(tmp_path / f"{count}.png", scores, "a title", "-H(x)")
        with Image.open(tmp_path / f"{count}.png") as picture:
            assert picture.size == (770, pytest.approx(110 * (0.6 + 2 * count), abs=1))
    alike = {"data": torch.zeros(3), "same": torch.zeros(4)}
    plots.save_histogram(tmp_path / "alike.png", alike)
