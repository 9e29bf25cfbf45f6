"""Energies with a formula in Triton: csrc/formulas/energies.h for blocks of chains, a row each."""

import triton
import triton.language as tl

from hatebm.kernels.law import clamp
from hatebm.kernels.noise import log_series
from hatebm.kernels.tree import fold_in_halves


@triton.jit
def exponential(x):
    """e^x within 1 ulp, step for step as in csrc/formulas/energies.h."""
    x = clamp(x, -104.0, 89.0)
    shifted = tl.fma(x, 1.4426950216293335, 12582912.0)
    whole = shifted - 12582912.0
    r = tl.fma(whole, 0.00021219444170128554, tl.fma(whole, -0.693359375, x))
    p = tl.fma(r, 0.00019875691214110702, 0.001398199936375022)
    p = tl.fma(p, r, 0.008333452045917511)
    p = tl.fma(p, r, 0.04166579619050026)
    p = tl.fma(p, r, 0.1666666567325592)
    p = tl.fma(p, r, 0.5)
    p = tl.fma(p, r, 1.0)
    p = tl.fma(p, r, 1.0)
    k = shifted.to(tl.int32, bitcast=True) - 0x4B400000
    half = k >> 1
    first = ((half + 127) << 23).to(tl.float32, bitcast=True)
    return p * first * ((k - half + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def logarithm(x):
    """The natural logarithm of a normal x > 0."""
    bits = x.to(tl.int32, bitcast=True)
    above = bits - 0x3F2AAAAB
    t = (bits - (above & -0x800000)).to(tl.float32, bitcast=True) - 1.0
    return -0.5 * tl.fma((above >> 23).to(tl.float32), -1.3862943649291992, t * log_series(t))


@triton.jit
def looked_at(x, state, live, element, where, weight, scratch, d, components, KIND: tl.constexpr):
    """The gradient at x, (chains, elements), and what each element adds to the energy; ``scale_of`` is still to come.

    ``state`` and ``scratch``, pointers (chains,), lead to the rows where x and a number a component lie: sums that go
    element by element read them there.
    """
    inside = live[:, None] & (element < d)[None, :]
    if KIND == "double_well":
        s = x * tl.load(where + 1)
        wall = tl.fma(s, s, -1.0)
        gradient = tl.load(where + 2) * (s * wall)
        terms = wall * wall
    elif KIND == "diagonal":
        away = x - tl.load(where + element, mask=element < d, other=0.0)[None, :]
        gradient = tl.load(weight + element, mask=element < d, other=0.0)[None, :] * away
        terms = gradient * away
    elif KIND == "full":
        gradient = tl.zeros_like(x)
        for j in range(d):
            column = tl.load(weight + element * d + j, mask=element < d, other=0.0)
            there = tl.load(state + j, mask=live, other=0.0) - tl.load(where + j)
            gradient = tl.fma(column[None, :], there[:, None], gradient)
        terms = gradient * (x - tl.load(where + element, mask=element < d, other=0.0)[None, :])
    elif KIND == "funnel":
        first = tl.load(state, mask=live, other=0.0)
        squares = tl.zeros_like(first)
        for e in range(1, d):
            v = tl.load(state + e, mask=live, other=0.0)
            squares = tl.fma(v, v, squares)
        narrow = exponential(0.0 - first)
        inverse = tl.load(where)
        slope = 0.5 * (d - 1).to(tl.float32)
        throat = tl.fma(narrow * squares, -0.5, tl.fma(first, inverse, slope))
        gradient = tl.where((element == 0)[None, :], throat[:, None], narrow[:, None] * x)
        height = first * tl.fma(first, 0.5 * inverse, slope)
        terms = tl.where((element == 0)[None, :], height[:, None], (0.5 * narrow)[:, None] * x * x)
    else:
        gradient, energy = mixed(x, state, live, element, where, weight, scratch, d, components)
        terms = tl.where((element == 0)[None, :], energy[:, None], 0.0)
    return tl.where(inside, gradient, 0.0), tl.where(inside, terms, 0.0)


@triton.jit
def mixed(x, state, live, element, means, weight, scratch, d, components):
    """The gradient of a mixture, (chains, elements), and its energy, (chains,)."""
    most = tl.full(live.shape, -float("inf"), tl.float32)
    for k in range(components):
        squares = tl.zeros_like(most)
        for e in range(d):
            away = tl.load(state + e, mask=live, other=0.0) - tl.load(means + k * d + e)
            squares = tl.fma(away, away, squares)
        level = tl.fma(squares, tl.load(weight + k), tl.load(weight + 2 * components + k))
        tl.store(scratch + k, level, mask=live)
        most = tl.where((level > most) | (k == 0), level, most)
    tl.debug_barrier()
    total = tl.zeros_like(most)
    for k in range(components):
        below = tl.load(scratch + k, mask=live, other=0.0) - most
        total += tl.where(below > -80.0, exponential(clamp(below, -80.0, 0.0)), 0.0)
    gradient = tl.zeros_like(x)
    for k in range(components):
        below = tl.load(scratch + k, mask=live, other=0.0) - most
        share = tl.where(below > -80.0, exponential(clamp(below, -80.0, 0.0)), 0.0)
        pull = tl.div_rn(share, total) * tl.load(weight + components + k)
        mean = tl.load(means + k * d + element, mask=element < d, other=0.0)
        gradient = tl.fma(pull[:, None], x - mean[None, :], gradient)
    tl.debug_barrier()
    return gradient, 0.0 - (most + logarithm(total))


@triton.jit
def energy_of(terms, where, KIND: tl.constexpr, LEVELS: tl.constexpr):
    """(chains, 2^LEVELS) to the energies, (chains,)."""
    total = fold_in_halves(terms.to(tl.float64), LEVELS)
    if KIND == "double_well":
        total = tl.load(where).to(tl.float64) * total
    elif KIND == "diagonal" or KIND == "full":
        total = 0.5 * total
    return total.to(tl.float32)
