"""The kernel distance between two sets of features."""

import math

import torch
from torch import Tensor


def kernel_distance(a: Tensor, b: Tensor, subset: int = 1000, seed: int = 0) -> tuple[float, float]:
    """KID of two sets of features, (n, d) and (m, d), and its standard error; see `quality`.

    The subsets do not overlap, so that they are independent and their spread tells the error of their mean.
    """
    from torchmetrics.image.kid import poly_mmd

    smaller = min(len(a), len(b))
    size = max(2, min(subset, smaller // 10))
    generator = torch.Generator("cpu").manual_seed(seed)
    blocks = []
    for features in (a, b):
        order = torch.randperm(len(features), generator=generator, dtype=torch.int64, device="cpu")
        order = order[: smaller // size * size]
        blocks.append(order.to(features.device).split(size))
    pairs = zip(*blocks, strict=True)
    found = [float(poly_mmd(a[i].double(), b[j].double())) for i, j in pairs]
    values = torch.tensor(found, dtype=torch.float64, device="cpu")
    error = values.std() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)
