"""The noise contract in pure PyTorch: Philox words, and normals by Box-Muller of operations rounded exactly once."""

import math

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF

# Minimax polynomials of -2 ln(1 + t) / t on [-1/3, 1/3], and of sin(pi a / 2) / a and cos(pi a / 2) in a^2.
LOG = (
    -1.9999996423721313, 0.9999975562095642, -0.6667597889900208, 0.5002408027648926,
    -0.39590030908584595, 0.3268110454082489, -0.34222617745399475, 0.3154946267604828,
)  # fmt: skip
SIN = (1.5707963705062866, -0.6459637880325317, 0.07968992739915848, -0.004674157593399286, 0.0001516786142019555)
COS = (0.9999999403953552, -1.2336982488632202, 0.2536507546901703, -0.020810628309845924, 0.000858191167935729)
MINUS_2_LN2 = -1.3862943649291992
TWO_THIRDS_BITS = 0x3F2AAAAB


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Philox4x32-10 (Salmon et al. 2011, section 3.3): (..., 4) counters and (..., 2) keys to (..., 4) words."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # modulo 2^64: the right bits, whatever the sign
        c0, c1, c2, c3 = (p1 >> 32 & MASK) ^ c1 ^ k0, p1 & MASK, (p0 >> 32 & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = k0 + WEYL[0] & MASK, k1 + WEYL[1] & MASK
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), -1)


def fma(a: Tensor | float, b: Tensor, c: Tensor | float) -> Tensor:
    """The float32 fused multiply-add: exact product, sum rounded to odd in float64, then once to float32."""
    product = _float64(a) * _float64(b)
    addend = _float64(c)
    total = product + addend
    shadow = total - product
    error = (product - (total - shadow)) + (addend - shadow)
    bits = total.contiguous().view(torch.int64)
    towards = torch.where((error > 0) == (total > 0), 1, -1)
    inexact = (error != 0) & error.isfinite() & (bits & 1 == 0)
    return (bits + towards * inexact).view(torch.float64).float()


def minus_2_ln(word: Tensor) -> Tensor:
    """-2 ln u in float32, u in (0, 1] from the upper 31 bits of a word."""
    u = ((word >> 1).float() + 0.5) * 2.0**-31
    bits = u.view(torch.int32)
    exponent = bits - TWO_THIRDS_BITS >> 23
    t = (bits - (exponent << 23)).view(torch.float32) - 1.0
    return fma(exponent.float(), torch.full_like(t, MINUS_2_LN2), t * _horner(LOG, t))


def box_muller(even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
    """Two float32 normals from two 32-bit words: r cos(pi a / 2) with a sign bit of its own, and r sin(pi a / 2)."""
    r = minus_2_ln(even).double().sqrt().float()
    a = _signed(odd).float() * 2.0**-31
    square = a * a
    cosine = r * _horner(COS, square)
    return torch.where(even & 1 == 1, -cosine, cosine), r * (a * _horner(SIN, square))


def counters(
    n: int,
    quads: int,
    seed: int | Tensor,
    step: int | Tensor,
    block: int,
    purpose: int,
    chain_ids: Tensor | None,
    device: torch.device | str | None,
) -> tuple[Tensor, Tensor]:
    """The Philox counters (n, quads, 4) and key (2,) of the first quads of n chains: the noise contract."""
    seed, step = (torch.as_tensor(v, dtype=torch.int64, device=device).reshape(()) for v in (seed, step))
    chain = torch.arange(n, dtype=torch.int64, device=device) if chain_ids is None else chain_ids.to(device)
    quad = torch.arange(quads, dtype=torch.int64, device=device)
    last = block | purpose << 8 | (chain >> 32 & 0xFF) << 16 | (step >> 32 & 0xFF) << 24
    counter = torch.stack(torch.broadcast_tensors(quad, chain[:, None] & MASK, step & MASK, last[:, None]), -1)
    return counter, torch.stack([seed & MASK, seed >> 32 & MASK])


def normal(
    shape: tuple[int, ...],
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Standard normals of the noise contract, float32 of ``shape`` (n, \*sample): see :func:`hatebm.normal`."""
    n, numel = shape[0], math.prod(shape[1:])
    words = philox(*counters(n, (numel + 3) // 4, seed, step, block, purpose, chain_ids, device))
    pairs = box_muller(words[..., 0], words[..., 1]) + box_muller(words[..., 2], words[..., 3])
    return torch.stack(pairs, -1).flatten(1)[:, :numel].reshape(shape)


def _horner(coefficients: tuple[float, ...], t: Tensor) -> Tensor:
    total = torch.full_like(t, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = fma(total, t, coefficient)
    return total


def _signed(word: Tensor) -> Tensor:
    return torch.where(word >= 2**31, word - 2**32, word)


def _float64(v: Tensor | float) -> Tensor:
    return v.double() if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64, device="cpu")
