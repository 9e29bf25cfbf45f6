"""Quality of samples in a feature space: the Frechet and the kernel distance to data, each with a standard error."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from hatebm.energies.closure import modules_of
from hatebm.energies.modes import bare, in_mode
from hatebm.evaluation.frechet import square_root
from hatebm.evaluation.kid import kernel_distance
from hatebm.evaluation.moments import Moments, gaussian, jackknife
from hatebm.ops.checks import is_count, require

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Quality:
    """How far samples are from reference images in a feature space; lower is better.

    Attributes:
        frechet: squared Frechet distance of the two Gaussians; with Inception's features this is the FID. Finite sets
            make it too large, by about a constant over their size: compare numbers of equal sizes only.
        frechet_error: standard error over the draw of the samples, with the reference images as they are: how far
            another set of as many samples of the same model would differ. Neither the bias, nor the choice of the
            reference, nor another training is in it. Where the distance is little more than its bias it is too large.
        kid: unbiased squared maximum mean discrepancy; may be negative, None if not asked for.
        kid_error: standard error over the draw of both sets, None if not asked for, NaN of fewer than 2 subsets.
        samples, references: how many images there were.
    """

    frechet: float
    frechet_error: float
    kid: float | None
    kid_error: float | None
    samples: int
    references: int


def quality(
    samples: Iterable[Tensor],
    reference: Iterable[Tensor],
    features: Callable[[Tensor], Tensor],
    *,
    groups: int = 10,
    kid_subset: int = 1000,
    seed: int = 0,
) -> Quality:
    """Frechet and kernel distance between two streams of images, seen batch by batch.

    Frechet: `|ma - mb|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)` of the means and covariances of the features, summed in
    float64; its error is the jackknife's, which leaves out one group of samples after the other.

    KID: the mean over disjoint random subsets of the unbiased MMD^2 of the kernel `(x.y / d + 1)^3`, its error the
    spread over subsets by the root of their number. It keeps every feature: 50,000 of 2,048 are 400 MB for each side.

    Args:
        samples: batches of (b, channels, size, size) uint8, as `hatebm.data.to_bytes` rounds and clips them.
        reference: batches of the data, alike.
        features: (b, channels, size, size) uint8 -> (b, d); a module is in eval mode here and left as it was found.
        groups: number of groups; each keeps (d, d) float64, 34 MB for d = 2,048, and takes one eigenvalue problem of
            that size, some seconds on a CPU. With 10 the error is itself uncertain by a quarter.
        kid_subset: images in one subset, at most a tenth of the smaller set; 0 leaves KID out, and nothing then grows
            with the number of images.
        seed: decides the subsets.

    Raises:
        TypeError, ValueError: images that are not bytes, features that do not match or are not finite, fewer than 3
            samples or 2 reference images.

    Source: Heusel et al. 2017 (FID); Binkowski et al. 2018 (KID; the bias of FID); Efron and Stein 1981 (jackknife).
    """
    batches = ({"": batch} for batch in samples)
    return qualities(batches, reference, features, groups=groups, kid_subset=kid_subset, kid_of="", seed=seed)[""]


def qualities(
    samples: Iterable[Mapping[Key, Tensor]],
    reference: Iterable[Tensor],
    features: Callable[[Tensor], Tensor],
    *,
    groups: int = 10,
    kid_subset: int = 1000,
    kid_of: Key | None = None,
    seed: int = 0,
) -> dict[Key, Quality]:
    """`quality` of several sets at once, as chains give them that are seen after growing numbers of steps.

    samples: batches, each with its part of every set, key -> (b, channels, size, size) uint8; kid_of: the set whose
    KID is wanted, whose features alone are kept. All else as in `quality`.
    """
    require(is_count(groups, 2), "quality", "groups", "a whole number of at least 2", groups)
    require(is_count(kid_subset, 0), "quality", "kid_subset", "a whole number, not negative", kid_subset)
    wanted = kid_of is not None and kid_subset > 0
    if wanted:
        import torchmetrics.image.kid  # noqa: F401  (fails before the work, not after it)
    features = bare(features)
    drawn, real = defaultdict(lambda: Moments(groups)), Moments(1)
    kept: dict[str, list[Tensor]] = {"samples": [], "reference": []}
    with in_mode(modules_of(features), "eval"), torch.no_grad():
        for parts in samples:
            for key, batch in parts.items():
                found = _features("samples", batch, features)
                drawn[key].add(found)
                if wanted and key == kid_of:
                    kept["samples"].append(found.float())
        for batch in reference:
            found = _features("reference", batch, features)
            real.add(found)
            if wanted:
                kept["reference"].append(found.float())
    counts = [moments.n for moments in drawn.values()] or [0]
    require(min(counts) >= 3, "quality", "samples", "3 images or more", min(counts))
    require(real.n >= 2, "quality", "reference", "2 images or more", real.n)
    same = all(moments.d == real.d for moments in drawn.values())
    require(same, "quality", "features", f"as many for the samples as for the reference, {real.d}", "others")
    kid = {}
    if wanted:
        kid[kid_of] = kernel_distance(torch.cat(kept["samples"]), torch.cat(kept["reference"]), kid_subset, seed)
    mean, cov = gaussian(*real.total())
    root = square_root(cov)
    return {
        key: Quality(*jackknife(moments, mean, root), *kid.get(key, (None, None)), moments.n, real.n)
        for key, moments in drawn.items()
    }


def _features(name: str, images: Tensor, features: Callable[[Tensor], Tensor]) -> Tensor:
    fits = isinstance(images, Tensor) and images.dtype == torch.uint8 and images.dim() == 4
    wanted = "batches of (b, channels, size, size) uint8 (hatebm.data.to_bytes rounds and clips)"
    require(fits, "quality", name, wanted, images, TypeError)
    found = features(images)
    fits = isinstance(found, Tensor) and found.dim() == 2 and len(found) == len(images) and found.is_floating_point()
    require(fits, "quality", "features", f"a function to floats of shape ({len(images)}, d) there", found)
    require(bool(found.isfinite().all()), "quality", "features", f"finite for the {name}", found)
    return found
