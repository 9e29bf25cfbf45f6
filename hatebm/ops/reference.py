"""The specification: every op of hatebm in pure PyTorch, on any device, slow and exact.

The float32 results of this file are, by definition, the bits that the C++, CUDA and Triton kernels return.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

Number = float | Tensor  # of the law: one for all chains, or a column of one a chain

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

FOLD = 1024  # elements that one level of the reduction tree takes together


class Numbers(NamedTuple):
    """The numbers of a law."""

    step_size: Number
    noise_std: Number
    inverse_temperature: Number
    prior_precision: Number
    bound: Number  # of the clip

    def of_each(self, numbers: Tensor | None, x: Tensor) -> "Numbers":
        """These, or ``numbers``, (5, n) or (5, 1), as columns beside x; noise or a prior of 0 is one for all."""
        if numbers is None:
            return self
        columns = numbers.reshape(len(self), -1, *[1] * (x.dim() - 1))
        zeros = {name: 0.0 for name in ("noise_std", "prior_precision") if getattr(self, name) == 0}
        return Numbers(*columns)._replace(**zeros)


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


def tree_sum(v: Tensor) -> Tensor:
    """Sum over the last dimension of float64 (n, d) in the one order that every backend keeps.

    Runs of 1024 elements are folded in halves (element i and i + 512, then i + 256, ...); the sums of the runs
    are summed the same way.
    """
    while v.shape[1] > 1:
        runs = (v.shape[1] + FOLD - 1) // FOLD
        v = torch.nn.functional.pad(v, (0, runs * FOLD - v.shape[1])).view(v.shape[0], runs, FOLD)
        while v.shape[2] > 1:
            half = v.shape[2] // 2
            v = v[..., :half] + v[..., half:]
        v = v[..., 0]
    return v.sum(1)


def sample_norm(v: Tensor) -> Tensor:
    r"""L2 norm of each sample, (n, \*sample) to (n,)."""
    squares = tree_sum(_rows(v).double().square())
    return v.new_tensor([math.sqrt(s) for s in squares.tolist()])  # torch.sqrt is not always correctly rounded


def langevin_step_(
    x: Tensor,
    grad: Tensor | None,
    *,
    step_size: float,
    noise_std: float,
    seed: int | Tensor,
    step: int | Tensor,
    inverse_temperature: float = 1.0,
    prior_precision: float = 0.0,
    bound: float = 0.0,
    numbers: Tensor | None = None,
    add: str = "sequential",
    clip: str | None = None,
    clip_on: str = "grad",
    low: float = -math.inf,
    high: float = math.inf,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
    noise: Tensor | None = None,
    gz: Tensor | None = None,
    image: Tensor | None = None,
    grad_norm: Tensor | None = None,
    displacement: Tensor | None = None,
    diverged: Tensor | None = None,
) -> None:
    """One step in place: x <- clamp(x - step_size * clip(grad / T + prior_precision * x) + noise_std * eps).

    ``numbers``, (5, n) or (5, 1) of x's dtype, stand in place of step_size, noise_std, inverse_temperature,
    prior_precision and bound, one of each chain; a noise_std or a prior_precision of 0 is one for all.
    """
    new, noisy = x, noise_std != 0
    law = Numbers(step_size, noise_std, inverse_temperature, prior_precision, bound)
    step_size, noise_std, inverse_temperature, prior_precision, bound = law.of_each(numbers, x)
    if noisy:
        if noise is None:
            at = {"seed": seed, "step": step, "block": block, "purpose": purpose}
            noise = normal(tuple(x.shape), **at, chain_ids=chain_ids, device=x.device)
        kick = noise_std * noise.to(x.dtype)
    if grad is None:
        new = _unless_zero(noise_std, new + kick, new) if noisy else new
        if grad_norm is not None:
            grad_norm.zero_()
    else:
        g = _total_gradient(x, grad, inverse_temperature, prior_precision)
        norm = sample_norm(g) if clip == "norm" or grad_norm is not None else None
        if diverged is not None:
            bad = ~_rows(grad).isfinite().all(1)
            diverged.copy_(torch.where(bad, diverged.clamp(max=step), diverged))
        g, drift = _clipped(g, norm, step_size, clip, clip_on, bound)
        if add == "increment":
            new = _unless_zero(noise_std, x + (kick - drift), x - drift) if noisy else x - drift
        elif add == "sequential":
            new = x - drift
            new = _unless_zero(noise_std, new + kick, new) if noisy else new
        else:
            new = _fma(-step_size, g, x)
            if clip == "value" and clip_on == "update":
                new = torch.where((step_size * g).abs() > bound, x - drift, new)
            new = _unless_zero(noise_std, _fma(noise_std, noise.to(x.dtype), new), new) if noisy else new
        if grad_norm is not None:
            grad_norm.copy_(norm)
    new = _clamp(new, low, high)
    if displacement is not None:
        displacement.copy_(sample_norm(new - x))
    x.copy_(new)
    if gz is not None:
        residual_add(gz, x, out=image)


def langevin_ratio(
    x: Tensor,
    grad: Tensor,
    proposal: Tensor,
    proposal_grad: Tensor,
    *,
    step_size: float,
    noise_std: float,
    inverse_temperature: float = 1.0,
    prior_precision: float = 0.0,
    bound: float = 0.0,
    numbers: Tensor | None = None,
    halves: Tensor | None = None,
    clip: str | None = None,
    clip_on: str = "grad",
) -> Tensor:
    """Each sample's log q(x | x') - log q(x' | x) - prior_precision (|x'|^2 - |x|^2) / 2, x' = proposal, in float64.

    q(b | a) = N(b; a - drift(a), noise_std^2): with w = x' - x, the logarithms of an element differ by
    ((w + drift(x))^2 - (w - drift(x'))^2) / (2 noise_std^2), factored here. ``numbers`` as in :func:`langevin_step_`;
    ``halves``, (2, n) float64, are then the :func:`ratio_coefficients` of each chain.
    """
    law = Numbers(step_size, noise_std, inverse_temperature, prior_precision, bound)
    step_size, _, inverse_temperature, of_prior, bound = law.of_each(numbers, x)
    drifts = []
    for at, gradient in ((x.detach(), grad.detach()), (proposal.detach(), proposal_grad.detach())):
        g = _total_gradient(at, gradient, inverse_temperature, of_prior)
        norm = sample_norm(g) if clip == "norm" else None
        drifts.append(_clipped(g, norm, step_size, clip, clip_on, bound)[1].double())
    half_precision, half_prior = ratio_coefficients(noise_std, prior_precision)
    if halves is not None:
        half_precision, half_prior = (column.reshape(-1, *[1] * (x.dim() - 1)) for column in halves)
    there, back = drifts
    start, end = x.detach().double(), proposal.detach().double()
    way = end - start
    kernels = (there + back) * (way + way + there - back) * half_precision
    return tree_sum(_rows(kernels - half_prior * way * (end + start))) + 0.0  # a sum of 0 has no sign


def ratio_coefficients(noise_std: float | Tensor, prior_precision: float | Tensor) -> tuple[Any, Any]:
    """The two numbers of :func:`langevin_ratio`, 1 / (2 noise_std^2) and prior_precision / 2, rounded as here."""
    return 0.5 / noise_std / noise_std, 0.5 * prior_precision


def metropolis(
    log_ratio: Tensor,
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
) -> Tensor:
    """Whether log u < log_ratio, float64 (n,), u the uniform of each chain: word 0 of its Philox block 0."""
    log_ratio = log_ratio.detach()
    words = philox(*counters(len(log_ratio), 1, seed, step, block, purpose, chain_ids, log_ratio.device))
    return minus_2_ln(words[:, 0, 0]).double() > -2 * log_ratio


def residual_add(gz: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """The hat's input G(z) + y."""
    return torch.add(gz, y, out=out)


def _total_gradient(x: Tensor, grad: Tensor, inverse_temperature: Number, prior_precision: Number) -> Tensor:
    """What the clip sees: grad E / T + prior_precision x."""
    g = grad.to(x.dtype) * inverse_temperature
    if not isinstance(prior_precision, Tensor) and prior_precision == 0:
        return g
    return _unless_zero(prior_precision, g + prior_precision * x, g)


def _clipped(
    g: Tensor, norm: Tensor | None, step_size: Number, clip: str | None, clip_on: str, bound: Number
) -> tuple[Tensor, Tensor]:
    """The gradient after the clip, and the drift."""
    if clip == "norm":
        norm = norm.view(len(g), *[1] * (g.dim() - 1))
        length = norm * abs(step_size) if clip_on == "update" else norm
        cap = bound if isinstance(bound, Tensor) else torch.full_like(length, bound)
        g = g * torch.where(length <= cap, 1.0, cap / length)
    elif clip == "value" and clip_on == "grad":
        g = _clamp(g, -bound, bound)
    drift = step_size * g
    return g, _clamp(drift, -bound, bound) if clip == "value" and clip_on == "update" else drift


def _unless_zero(number: Number, yes: Tensor, no: Tensor) -> Tensor:
    """``yes`` where a number of the law is not 0, else ``no``."""
    return torch.where(number != 0, yes, no) if isinstance(number, Tensor) else yes if number != 0 else no


def _rows(v: Tensor) -> Tensor:
    return v.reshape(v.shape[0], math.prod(v.shape[1:]))


def _fma(a: Number, b: Tensor, c: Tensor) -> Tensor:
    if c.dtype == torch.float64:
        return a * b + c
    return fma(a if isinstance(a, Tensor) else torch.tensor(a, dtype=torch.float32, device="cpu"), b, c)


def _horner(coefficients: tuple[float, ...], t: Tensor) -> Tensor:
    total = torch.full_like(t, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = fma(total, t, coefficient)
    return total


def _clamp(v: Tensor, low: float, high: float) -> Tensor:
    v = torch.where(v < low, low, v)
    return torch.where(v > high, high, v)


def _signed(word: Tensor) -> Tensor:
    return torch.where(word >= 2**31, word - 2**32, word)


def _float64(v: Tensor | float) -> Tensor:
    return v.double() if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64, device="cpu")
