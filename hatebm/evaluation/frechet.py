"""Frechet distance between two sets of images, in any feature space."""

import torch
import torch.nn.functional as F
from torch import Tensor

FEATURE_SIDE = 8


def gaussian_frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians, `|ma - mb|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)`.

    means: (d,); covariances: (d, d), symmetric and positive semi-definite, singular ones included; all float64.
    Source: Dowson and Landau 1982; Heusel et al. 2017, equation 6.
    """
    return frechet_from(mean_a, square_root(cov_a), mean_b, cov_b)


def frechet_from(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """`gaussian_frechet` of a Gaussian whose covariance is known by its square root, (d, d)."""
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + root_a.square().sum() + cov_b.trace() - 2 * cross)


def square_root(cov: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix, (d, d)."""
    eigenvalues, vectors = torch.linalg.eigh(cov)
    return vectors * eigenvalues.clamp_min(0).sqrt() @ vectors.mT


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features, (n, d) and (m, d); 0 for equal sets."""
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        raise ValueError(
            "frechet_distance: features_a and features_b must have shapes (n, d) and (m, d), "
            f"got {tuple(features_a.shape)} and {tuple(features_b.shape)}"
        )
    return gaussian_frechet(*_moments(features_a), *_moments(features_b))


def pixel_features(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1], averaged down to at most 8 x 8, as vectors: (n, c, h, w) -> (n, c * 64)."""
    if pixels.shape[-1] > FEATURE_SIDE:
        pixels = F.adaptive_avg_pool2d(pixels, FEATURE_SIDE)
    return pixels.flatten(1)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    centred = features - features.mean(0)
    return features.mean(0), centred.mT @ centred / max(len(features) - 1, 1)
