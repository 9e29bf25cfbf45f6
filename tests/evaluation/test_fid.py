"""Frechet and kernel distances against torchmetrics, closed forms and their own spread; the feature networks."""

import math
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny import one_thread  # noqa: F401
from torch import nn

from hatebm.data import Images, digits, to_bytes
from hatebm.errors import UsageError
from hatebm.evaluation import (
    classifier_features,
    features,
    features_from,
    frechet_distance,
    inception,
    kernel_distance,
    qualities,
    quality,
)
from hatebm.runs import plots


class Small(nn.Module):
    """Twelve features of 3 x 4 x 4 bytes, with a dropout that evaluation must switch off."""

    num_features = 12

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 12))
            self.double()

    def forward(self, images):
        return self.body(images.double() / 127.5 - 1)


def flat(images):
    return images.flatten(1).double() / 64


def pictures(n, seed, top=256, shape=(3, 4, 4)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, top, (n, *shape), generator=generator, dtype=torch.uint8)


def test_the_frechet_distance_is_that_of_torchmetrics_however_the_images_are_batched():
    from torchmetrics.image.fid import FrechetInceptionDistance

    net = Small().train()
    samples, reference = pictures(200, 1, top=200), pictures(300, 2)
    metric = FrechetInceptionDistance(feature=net.eval())
    metric.update(samples, real=False)
    metric.update(reference, real=True)
    with torch.no_grad():
        expected = frechet_distance(net(samples), net(reference))
    net.train()
    for batch, groups in ((200, 2), (7, 20), (1, 3)):
        found = quality(samples.split(batch), reference.split(50), net, groups=groups, kid_subset=0)
        assert found.frechet == pytest.approx(float(metric.compute()), rel=1e-10)
        assert found.frechet == pytest.approx(expected, rel=1e-10)
        assert (found.samples, found.references, found.kid) == (200, 300, None)
    assert net.training
    assert net.body[3].training


def test_several_sets_at_once_are_each_one_alone():
    sets, reference = {0: pictures(60, 1), 10: pictures(60, 2)}, [pictures(70, 3)]
    batches = [{step: images[i : i + 13] for step, images in sets.items()} for i in range(0, 60, 13)]
    found = qualities(batches, reference, flat, kid_of=10)
    alone = {step: quality(images.split(13), reference, flat) for step, images in sets.items()}
    assert found == {0: replace(alone[0], kid=None, kid_error=None), 10: alone[10]}


def test_a_set_is_at_distance_zero_from_itself_and_at_the_squared_shift_from_its_shifted_copy():
    reference = pictures(300, 3, top=200)
    same = quality([reference], [reference], flat, kid_subset=0)
    assert abs(same.frechet) < 1e-9
    shifted = quality([reference + 32], [reference], flat, kid_subset=0)
    assert shifted.frechet == pytest.approx(48 * 0.5**2, rel=1e-10)


def test_two_streams_in_one_pass_each():
    samples, reference = iter(pictures(60, 1).split(10)), iter(pictures(60, 2).split(10))
    assert quality(samples, reference, flat, kid_subset=10).samples == 60
    assert next(samples, None) is None


def test_floats_become_the_nearest_byte_and_are_clipped():
    levels = torch.arange(256) / 127.5 - 1
    for offset in (-0.49, 0.0, 0.49):
        assert torch.equal(to_bytes(levels + offset / 127.5), torch.arange(256).byte())
    assert to_bytes(torch.tensor([-math.inf, -1.5, 1.5, math.inf])).tolist() == [0, 0, 255, 255]
    assert to_bytes(levels[:1] + 0.51 / 127.5).item() == 1


def test_the_jackknife_error_is_the_spread_over_independent_sets_of_samples():
    repetitions, groups, d = 200, 20, 8
    reference = pictures(4000, 4, shape=(1, 1, d))
    found = [
        quality([pictures(500, 100 + r, top=200, shape=(1, 1, d))], [reference], flat, groups=groups, kid_subset=0)
        for r in range(repetitions)
    ]
    spread = torch.tensor([q.frechet for q in found]).double().var()
    variance = torch.tensor([q.frechet_error for q in found]).double().square().mean()
    # relative errors of a variance from R repetitions, and of a mean of R variances from m groups each
    tolerance = 4 * math.sqrt(2 / (repetitions - 1) + 2 / ((groups - 1) * repetitions))
    assert variance / spread == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("period", [5, 10, 20])
def test_the_error_of_samples_of_classes_in_turn_is_that_of_samples_in_any_order(period):
    samples, reference = pictures(600, 1, shape=(1, 1, 4)), pictures(500, 2, shape=(1, 1, 4))
    samples = samples // 4 + (torch.arange(600, device="cpu") % period * 180 // period).byte().view(-1, 1, 1, 1)
    orders = [torch.arange(600, device="cpu")]
    orders += [torch.randperm(600, generator=torch.Generator("cpu").manual_seed(r), device="cpu") for r in range(8)]
    found = (quality([samples[order]], [reference], flat, groups=10, kid_subset=0) for order in orders)
    in_turn, *shuffled = (one.frechet_error for one in found)
    assert min(shuffled) / 2 < in_turn < 2 * max(shuffled)


def test_fewer_samples_than_groups_leave_out_one_sample_each():
    samples, reference = pictures(7, 1, shape=(1, 1, 3)), pictures(50, 2, shape=(1, 1, 3))
    found = quality([samples], [reference], flat, groups=20, kid_subset=0)
    without = [frechet_distance(flat(samples[torch.arange(7) != i]), flat(reference)) for i in range(7)]
    spread = torch.tensor(without, dtype=torch.float64)
    expected = math.sqrt(6 / 7 * float((spread - spread.mean()).square().sum()))
    assert found.frechet_error == pytest.approx(expected, rel=1e-9)


def test_the_error_does_not_depend_on_the_batches():
    samples, reference = pictures(90, 1), pictures(100, 2)
    errors = [quality(samples.split(b), [reference], flat, groups=10, kid_subset=0).frechet_error for b in (90, 7, 1)]
    assert errors[1:] == pytest.approx(errors[:1] * 2, rel=1e-6)  # 48 dimensions: the roots of some 1e-15 are in it


def test_the_kernel_distance_is_that_of_torchmetrics_on_each_subset():
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = (torch.randn(n, 6, generator=torch.Generator().manual_seed(n)).double() for n in (40, 65))
    value, error = kernel_distance(a, b, subset=1000, seed=3)
    draw, expected = torch.Generator().manual_seed(3), []
    orders = [torch.randperm(len(x), generator=draw)[:40].split(4) for x in (a, b)]
    for i, j in zip(*orders, strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save")
            metric = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=4).set_dtype(torch.float64)
        metric.update(a[i], real=True)
        metric.update(b[j], real=False)
        expected.append(metric.compute()[0])
    expected = torch.stack(expected)
    assert value == pytest.approx(float(expected.mean()), rel=1e-10)
    assert error == pytest.approx(float(expected.std() / math.sqrt(10)), rel=1e-10)


@pytest.mark.parametrize("top", [256, 200])
def test_the_kernel_distance_is_unbiased_and_its_error_is_its_spread(top):
    # k(x, y) = (x.y / d + 1)^3 in one dimension is a cubic: MMD^2 = sum_k binom(3, k) (E a^k - E b^k)^2
    repetitions = 200
    levels = [torch.arange(n).double() / 64 for n in (256, top)]
    truth = sum(math.comb(3, k) * float(levels[0].pow(k).mean() - levels[1].pow(k).mean()) ** 2 for k in (1, 2, 3))
    found = [
        kernel_distance(flat(pictures(200, 2 * r, shape=(1, 1, 1))), flat(pictures(200, 2 * r + 1, top, (1, 1, 1))))
        for r in range(repetitions)
    ]
    values, errors = torch.tensor(found).double().mT
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(repetitions)
    # the values are skewed where the sets are alike: their own fourth moment tells the error of their variance
    kurtosis = ((values - values.mean()) ** 4).mean() / values.var() ** 2
    tolerance = 4 * math.sqrt((kurtosis - 1) / repetitions + float(errors.square().var() / values.var() ** 2) / 200)
    assert errors.square().mean() / values.var() == pytest.approx(1, abs=float(tolerance))


def test_the_kernel_distance_of_two_images_has_no_error_and_does_not_touch_the_global_random_state():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    value, error = kernel_distance(torch.ones(3, 2), torch.zeros(2, 2))
    assert value == pytest.approx(2**3 + 1 - 2)
    assert math.isnan(error)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("samples", "reference", "function", "error", "message"),
    [
        ([torch.rand(4, 3, 4, 4)], [pictures(4, 0)], flat, TypeError, "samples must be batches of .* uint8"),
        ([pictures(4, 0)], [pictures(4, 0)[0]], flat, TypeError, "reference must be batches of"),
        ([pictures(4, 0)], [pictures(4, 0)], nn.Identity(), ValueError, r"features must be a function to floats"),
        ([pictures(4, 0)], [pictures(4, 0)], lambda x: flat(x) / 0, ValueError, "features must be finite for the"),
        ([pictures(2, 0)], [pictures(4, 0)], flat, ValueError, "samples must be 3 images or more, got 2"),
        ([pictures(4, 0)], [], flat, ValueError, "reference must be 2 images or more, got 0"),
        ([pictures(4, 0)], [pictures(4, 0, shape=(1, 4, 4))], flat, ValueError, r"features must be as many"),
    ],
)
def test_what_cannot_be_compared_is_refused(samples, reference, function, error, message):
    with pytest.raises(error, match=f"quality: {message}"):
        quality(samples, reference, function, kid_subset=0)


class Scripted(nn.Module):
    """The calling convention of NVIDIA's detectors."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, images, return_features: bool = False, no_output_bias: bool = False):
        pooled = images.float().mean((2, 3))
        return pooled if return_features else self.layer(pooled)


def test_a_torchscript_file_gives_its_features_for_grey_and_for_colour(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Scripted()), tmp_path / "net.pt")
    found = inception(tmp_path / "net.pt")
    colour, grey = pictures(5, 0), pictures(5, 0, shape=(1, 4, 4))
    assert torch.equal(found(colour), colour.float().mean((2, 3)))
    assert torch.equal(found(grey), grey.float().mean((2, 3)).expand(-1, 3))
    assert quality([colour], [pictures(9, 1)], found, kid_subset=0).samples == 5


def test_a_state_dict_asks_for_the_package_that_knows_its_network(tmp_path, monkeypatch):
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UsageError, match=r"needs torch-fidelity and torchvision .* TorchScript file https"):
        inception(tmp_path / "net.pth")


class Surprise:
    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


def test_files_that_are_no_network_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    torch.save(Surprise(), tmp_path / "surprise.pth")
    for name in ("text.pt", "surprise.pth"):
        with pytest.raises(UsageError, match="neither TorchScript nor a state dict"):
            inception(tmp_path / name)
    with pytest.raises(UsageError, match="--weights: no file"):
        inception(tmp_path / "none.pt")


def test_without_a_connection_the_address_and_the_ways_around_it_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "INCEPTION", "http://127.0.0.1:9/inception-2015-12-05.pt")  # a port nobody answers
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    with pytest.raises(UsageError, match=r"cannot download http://127.0.0.1:9/.* --weights.* --features"):
        inception()


def test_features_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_features.py").write_text("double = lambda x: x.double()\nnumber = 3\nclass Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert features_from("my_features:double")(torch.zeros(1)).dtype == torch.float64
    for place in ("my_features", "my_features:", ":double", "my_features:triple", "no_such_module:x"):
        with pytest.raises(UsageError, match="--features: "):
            features_from(place)
    for place in ("my_features:number", "my_features:Net"):
        with pytest.raises(UsageError, match="must be a module or a function of images"):
            features_from(place)
    sys.modules.pop("my_features")


def test_a_classifier_fitted_on_the_spot_tells_held_out_digits_from_noise():
    data = digits()
    data = replace(data, train=data.train[:600], train_labels=data.train_labels[:600])
    found = classifier_features(data)
    real = quality(data.train.split(250), data.held_out.split(250), found)
    noise = quality([pictures(500, 0, shape=(1, 8, 8))], data.held_out.split(250), found)
    assert (real.samples, real.references) == (600, 500)
    assert real.frechet + 4 * real.frechet_error < noise.frechet - 4 * noise.frechet_error
    assert real.kid + 4 * real.kid_error < noise.kid - 4 * noise.kid_error
    with pytest.raises(UsageError, match="needs data with labels"):
        classifier_features(Images(data.train, data.held_out))


def test_the_curve_of_quality_against_steps_opens(tmp_path):
    plots.save_quality(tmp_path / "quality.png", [0, 10, 20, 40], [30.0, 9.0, 6.0, 8.0], [1.0, 0.5, 0.4, 0.5], 10)
    with Image.open(tmp_path / "quality.png") as picture:
        assert picture.size == (770, 440)
