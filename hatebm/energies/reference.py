"""The float32 formulas of the energies, slow and exact: by definition the bits of csrc/formulas/energies.h.

Every function takes x, (n, d) float32, and returns the energies (n,) and the gradient (n, d). Sums over elements that
a gradient needs are taken in ascending order; energies sum in float64, in the order of the ops.
"""

import torch
from torch import Tensor

from hatebm.ops.reference import fma, tree_sum
from hatebm.ops.reference_noise import LOG, MINUS_2_LN2, TWO_THIRDS_BITS

EXP = (
    1.0, 1.0, 0.5, 0.1666666567325592, 0.04166579619050026, 0.008333452045917511, 0.001398199936375022,
    0.00019875691214110702,
)  # fmt: skip
LOG2_E = 1.4426950216293335
LN2 = (0.693359375, -0.00021219444170128554)  # ln 2 as a sum: the first has few bits
SHIFT = 12582912.0  # 1.5 * 2^23: what is added to it is rounded to an integer
SHIFT_BITS = 0x4B400000

Looked = tuple[Tensor, Tensor]


def exponential(x: Tensor) -> Tensor:
    """e^x within 1 ulp, subnormal results included."""
    x = torch.where(x < -104.0, -104.0, x)
    x = torch.where(x > 89.0, 89.0, x)
    shifted = fma(x, torch.full_like(x, LOG2_E), SHIFT)
    whole = shifted - SHIFT
    r = fma(whole, torch.full_like(x, -LN2[1]), fma(whole, torch.full_like(x, -LN2[0]), x))
    p = _series(EXP, r)
    k = shifted.view(torch.int32) - SHIFT_BITS
    half = k >> 1
    return p * _power_of_two(half) * _power_of_two(k - half)


def logarithm(x: Tensor) -> Tensor:
    """The natural logarithm of a normal x > 0."""
    bits = x.view(torch.int32)
    exponent = bits - TWO_THIRDS_BITS >> 23
    t = (bits - (exponent << 23)).view(torch.float32) - 1.0
    return -0.5 * fma(exponent.float(), torch.full_like(t, MINUS_2_LN2), t * _series(LOG, t))


def diagonal(x: Tensor, mean: Tensor, precision: Tensor) -> Looked:
    """E = sum p (x - m)^2 / 2."""
    away = x - mean
    grad = precision * away
    return _summed(grad * away, 0.5), grad


def full(x: Tensor, mean: Tensor, precision: Tensor) -> Looked:
    """E = (x - m)' P (x - m) / 2."""
    away = x - mean
    grad = torch.zeros_like(x)
    for j in range(x.shape[1]):
        grad = fma(precision[:, j].expand_as(x), away[:, j, None].expand_as(x), grad)
    return _summed(grad * away, 0.5), grad


def mixture(x: Tensor, means: Tensor, fall: Tensor, precision: Tensor, log_weight: Tensor) -> Looked:
    """E = -ln sum_k exp(log_weight_k + fall_k |x - m_k|^2), fall = -precision / 2; e^-80 counts as 0."""
    levels = []
    for k in range(len(means)):
        squares = x.new_zeros(len(x))
        for e in range(x.shape[1]):
            away = x[:, e] - means[k, e]
            squares = fma(away, away, squares)
        levels.append(fma(squares, fall[k].expand_as(squares), log_weight[k].expand_as(squares)))
    most = levels[0]
    for level in levels:
        most = torch.where(level > most, level, most)
    shares = [torch.where(level - most > -80.0, exponential(level - most), 0.0) for level in levels]
    total = torch.zeros_like(most)
    for share in shares:
        total = total + share
    grad = torch.zeros_like(x)
    for k, share in enumerate(shares):
        pull = share / total * precision[k]
        grad = fma(pull[:, None].expand_as(x), x - means[k], grad)
    energy = 0.0 - (most + logarithm(total))
    return _summed(torch.nn.functional.pad(energy[:, None], (0, x.shape[1] - 1)), 1.0), grad


def double_well(x: Tensor, height: float, inverse: float, slope: float) -> Looked:
    """E = height sum ((x / a)^2 - 1)^2, given 1 / a and 4 height / a."""
    s = x * inverse
    wall = fma(s, s, -1.0)
    return _summed(wall * wall, height), slope * (s * wall)


def funnel(x: Tensor, inverse: float, slope: float) -> Looked:
    """E = v^2 / (2 scale^2) + (d - 1) v / 2 + e^-v sum x^2 / 2, given 1 / scale^2 and (d - 1) / 2."""
    v, rest = x[:, 0], x[:, 1:]
    squares = torch.zeros_like(v)
    for e in range(rest.shape[1]):
        squares = fma(rest[:, e], rest[:, e], squares)
    narrow = exponential(0.0 - v)
    throat = fma(narrow * squares, torch.full_like(v, -0.5), _affine(v, inverse, slope))
    grad = torch.cat([throat[:, None], narrow[:, None] * rest], 1)
    first = v * _affine(v, 0.5 * inverse, slope)
    return _summed(torch.cat([first[:, None], (0.5 * narrow)[:, None] * rest * rest], 1), 1.0), grad


def _affine(x: Tensor, factor: float, shift: float) -> Tensor:
    return fma(x, torch.full_like(x, factor), shift)


def _series(coefficients: tuple[float, ...], t: Tensor) -> Tensor:
    total = torch.full_like(t, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = fma(total, t, coefficient)
    return total


def _power_of_two(k: Tensor) -> Tensor:
    return (k + 127 << 23).view(torch.float32)


def _summed(terms: Tensor, factor: float) -> Tensor:
    return (factor * tree_sum(terms.double())).float()
