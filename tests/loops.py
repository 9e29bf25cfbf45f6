"""What the loops that tests write themselves have in common."""

import math

import torch

EVERYWHERE = torch.tensor(True)
LEAST_P = 1e-3  # one draw of a seed that stays as it is


def bits(x):
    return x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)


def drawn(shape, seed=77):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drift(x, grad, law, moves=EVERYWHERE):
    """step_size * clip(grad / temperature + prior_precision * x) of the elements that move; the others count as 0."""
    s = law["step_size"]
    g = torch.where(moves, grad / law.get("temperature", 1.0) + law.get("prior_precision", 0.0) * x, 0.0)
    kind, bound = law.get("clip") or (None, math.inf)
    scale = s if law.get("clip_on") == "update" else 1.0
    if kind == "value":
        return s / scale * (scale * g).clamp(-bound, bound)
    norm = (scale * g).flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
    return s * g * (bound / norm).clamp(max=1) if kind == "norm" else s * g
