"""Of which class each chain is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hatebm.ops.checks import require


def labels_of(chain_ids: Sequence[int], classes: int, labels: Sequence[int] | None = None) -> Tensor | None:
    """The class of each chain c, labels[c % len(labels)], by default c % classes: (n,) int64; None without classes.

    Raises ValueError for labels that are no classes, and for any without classes.
    """
    if not classes:
        require(labels is None, "chain", "labels", "left out, as there are no classes", labels)
        return None
    known = range(classes) if labels is None else labels
    fits = len(known) > 0 and all(0 <= label < classes and label == int(label) for label in known)
    require(fits, "chain", "labels", f"classes from 0 to {classes - 1}", labels)
    return torch.tensor([int(known[c % len(known)]) for c in chain_ids], dtype=torch.int64, device="cpu")
