"""Activations and their slopes in Triton, to float32 rounding."""

import triton
import triton.language as tl

from hatebm.ops.native.chains import ACTIVATIONS

RELU, LEAKY_RELU, SILU, SOFTPLUS, TANH, GELU, GELU_TANH, *_ = map(tl.constexpr, range(len(ACTIVATIONS)))


@triton.jit
def logistic(x):
    return tl.div_rn(1.0, 1.0 + tl.exp(-x))


@triton.jit
def activated(x, parameter: tl.constexpr, KIND: tl.constexpr):
    """What ``KIND``, a place in ACTIVATIONS, makes of x, and its slope there."""
    if KIND == RELU:
        value, slope = tl.where(x < 0.0, 0.0, x), tl.where(x > 0.0, 1.0, 0.0)
    elif KIND == LEAKY_RELU:
        value, slope = tl.where(x > 0.0, x, parameter * x), tl.where(x > 0.0, 1.0, parameter)
    elif KIND == SILU:
        here = logistic(x)
        value = x * here
        slope = here + value * logistic(-x)
    elif KIND == SOFTPLUS:
        value, slope = tl.where(x < 0.0, 0.0, x) + tl.log(1.0 + tl.exp(-tl.abs(x))), logistic(x)
    elif KIND == TANH:
        here, there = logistic(2.0 * x), logistic(-2.0 * x)
        value, slope = here - there, 4.0 * here * there
    elif KIND == GELU:
        phi = 0.5 * (1.0 + tl.erf(0.7071067811865476 * x))
        value, slope = x * phi, phi + x * (0.3989422804014327 * tl.exp(-0.5 * x * x))
    elif KIND == GELU_TANH:
        u = x * (1.5957691216057308 + 0.07135481282787556 * x * x)
        here = logistic(u)
        value = x * here
        slope = here + value * logistic(-u) * (1.5957691216057308 + 0.21406443848362668 * x * x)
    else:
        below = parameter * tl.exp(tl.where(x < 0.0, x, 0.0))
        value, slope = tl.where(x > 0.0, x, below - parameter), tl.where(x > 0.0, 1.0, below)
    return value, slope
