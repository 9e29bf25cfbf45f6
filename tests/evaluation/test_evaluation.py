"""Frechet distances against closed forms; the classifier on digits it has not seen."""

import pytest
import torch
from tiny import one_thread  # noqa: F401

from hatebm.data import digits, to_pixels
from hatebm.evaluation import Classifier, class_shares, frechet_distance, gaussian_frechet, pixel_features


def covariance(d: int, seed: int) -> torch.Tensor:
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT


def test_one_dimension():
    def gaussian(mean: float, deviation: float):
        return torch.tensor([mean]).double(), torch.tensor([[deviation**2]]).double()

    assert gaussian_frechet(*gaussian(1, 2), *gaussian(4, 0.5)) == pytest.approx(3**2 + 1.5**2, rel=1e-12)
    assert gaussian_frechet(*gaussian(1, 2), *gaussian(1, 0)) == pytest.approx(4, rel=1e-12)


def test_scaled_covariance():
    cov, mean = covariance(6, 0), torch.zeros(6).double()
    assert gaussian_frechet(mean, cov, mean, 9 * cov) == pytest.approx(4 * float(cov.trace()), rel=1e-10)


def test_covariances_that_do_not_commute_against_the_two_by_two_closed_form():
    # tr (A^1/2 B A^1/2)^1/2 = sqrt(tr(AB) + 2 sqrt(det A det B)) for 2 x 2 matrices
    a, b, mean = covariance(2, 1), covariance(2, 2), torch.zeros(2).double()
    assert not torch.allclose(a @ b, b @ a)
    cross = ((a @ b).trace() + 2 * (a.det() * b.det()).sqrt()).sqrt()
    expected = float(a.trace() + b.trace() - 2 * cross)
    assert gaussian_frechet(mean, a, mean, b) == pytest.approx(expected, rel=1e-10)
    assert gaussian_frechet(mean, b, mean, a) == pytest.approx(expected, rel=1e-10)


def test_a_set_is_at_distance_zero_from_itself_and_at_the_shift_from_its_shifted_copy():
    features = torch.randn(300, 7, generator=torch.Generator().manual_seed(0))
    assert abs(frechet_distance(features, features)) < 1e-9
    assert frechet_distance(features, features + 2) == pytest.approx(7 * 4, rel=1e-5)


def test_fewer_samples_than_dimensions_and_a_single_one():
    few = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    assert abs(frechet_distance(few, few)) < 1e-5  # 36 eigenvalues of 0 come out near 1e-15, their roots near 3e-8
    assert frechet_distance(few[:1], few[1:2]) == pytest.approx(float((few[0] - few[1]).square().sum()), rel=1e-6)


def test_features_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"frechet_distance: .* got \(3, 4\) and \(3, 5\)"):
        frechet_distance(torch.zeros(3, 4), torch.zeros(3, 5))


def test_pixel_features_average_down_to_eight_by_eight():
    small = torch.rand(2, 3, 8, 8)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(pixel_features(large), pixel_features(small))
    assert torch.equal(pixel_features(small), small.flatten(1))


def test_class_shares():
    assert class_shares(torch.tensor([0, 0, 2, 2]), 4).tolist() == [0.5, 0, 0.5, 0]


def test_the_classifier_knows_digits_it_has_not_seen_and_leaves_the_random_state_alone():
    images = digits()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    classifier = Classifier.fit(to_pixels(images.train), images.train_labels)
    assert torch.equal(torch.rand(3), expected)
    held_out = to_pixels(images.held_out)
    assert (classifier.predict(held_out) == images.held_out_labels).float().mean() > 0.96
    assert classifier.features(held_out).shape == (500, 32)
