"""Quality of samples in a feature space: the Frechet and the kernel distance to data, each with a standard error."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hatebm.checks import is_count, require
from hatebm.evaluation.kid import kernel_distance
from hatebm.evaluation.moments import Moments, jackknife
from hatebm.freeze import bare, frozen, modules_of


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
    groups: int = 20,
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
        groups: number of groups; each keeps (d, d) float64, 34 MB for d = 2,048. With 20 the error is itself uncertain
            by a sixth.
        kid_subset: images in one subset, at most a tenth of the smaller set; 0 leaves KID out, and nothing then grows
            with the number of images.
        seed: decides the subsets.

    Raises:
        TypeError, ValueError: images that are not bytes, features that do not match or are not finite, fewer than 3
            samples or 2 reference images.

    Source: Heusel et al. 2017 (FID); Binkowski et al. 2018 (KID; the bias of FID); Efron and Stein 1981 (jackknife).
    """
    require(is_count(groups, 2), "quality", "groups", "a whole number of at least 2", groups)
    require(is_count(kid_subset, 0), "quality", "kid_subset", "a whole number, not negative", kid_subset)
    if kid_subset:
        import torchmetrics.image.kid  # noqa: F401  (fails before the work, not after it)
    features = bare(features)
    drawn, real = Moments(groups), Moments(1)
    kept: dict[str, list[Tensor]] = {"samples": [], "reference": []}
    with frozen(modules_of(features), "eval"), torch.no_grad():
        for name, images, moments in (("samples", samples, drawn), ("reference", reference, real)):
            for batch in images:
                found = _features(name, batch, features)
                moments.add(found)
                if kid_subset:
                    kept[name].append(found.float())
    require(drawn.n >= 3, "quality", "samples", "3 images or more", drawn.n)
    require(real.n >= 2, "quality", "reference", "2 images or more", real.n)
    require(drawn.d == real.d, "quality", "features", "as many for the samples as for the reference", (drawn.d, real.d))
    frechet, frechet_error = jackknife(drawn, real)
    kid = kid_error = None
    if kid_subset:
        kid, kid_error = kernel_distance(torch.cat(kept["samples"]), torch.cat(kept["reference"]), kid_subset, seed)
    return Quality(frechet, frechet_error, kid, kid_error, drawn.n, real.n)


def _features(name: str, images: Tensor, features: Callable[[Tensor], Tensor]) -> Tensor:
    fits = isinstance(images, Tensor) and images.dtype == torch.uint8 and images.dim() == 4
    wanted = "batches of (b, channels, size, size) uint8 (hatebm.data.to_bytes rounds and clips)"
    require(fits, "quality", name, wanted, images, TypeError)
    found = features(images)
    fits = isinstance(found, Tensor) and found.dim() == 2 and len(found) == len(images) and found.is_floating_point()
    require(fits, "quality", "features", f"a function to floats of shape ({len(images)}, d) there", found)
    require(bool(found.isfinite().all()), "quality", "features", f"finite for the {name}", found)
    return found
