"""Quads in Triton: four consecutive elements of one sample, as one Philox call gives four normals."""

import math

import triton
import triton.language as tl
from torch import Tensor

QUADS = 256  # a program's share
NUMBERS = ["n", "seed", "step", "purpose_and_block"]  # one compilation serves all their values
STRIDES = ["field_stride", "step_stride", "chain_stride"]  # and all of these, of the numbers of a law
EXACT = {"enable_fp_fusion": False}  # every operation is rounded once


@triton.jit
def program(WIDE: tl.constexpr):
    """The program's index, in as many bits as its elements need."""
    index = tl.program_id(0)
    if WIDE:
        index = index.to(tl.int64)
    return index


@triton.jit
def elements_of(quad):
    """(quads,) to the (quads, 4) elements."""
    return quad[:, None] * 4 + tl.arange(0, 4)[None, :]


@triton.jit
def offsets_of(flat, sample, quad, d, shape, strides, VECTOR: tl.constexpr):
    """Where elements lie: in a row, or as the sample's shape and the strides (the chain's first) say."""
    if shape is not None:
        element = elements_of(quad)
        offset = sample[:, None] * strides[0] + element * 0
        for k in tl.static_range(len(shape) - 1, -1, -1):
            offset += element % shape[k] * strides[k + 1]
            element = element // shape[k]
    elif VECTOR:
        offset = elements_of(flat)
    else:
        offset = sample[:, None] * d + elements_of(quad)
    return offset


@triton.jit
def value_or_load(value, address):
    """A number that was passed, or the one that lies on the device where ``address`` is not None."""
    if address is not None:
        value = tl.load(address)
    return value


def place(seed: int | Tensor, step: int | Tensor, block: int, purpose: int) -> dict[str, int | Tensor | None]:
    """The place of a draw as the kernels take it: signed 64-bit numbers, or tensors that they read."""
    numbers = {"seed": seed, "step": step}
    at = {f"{name}_at": value if isinstance(value, Tensor) else None for name, value in numbers.items()}
    signed = {name: 0 if isinstance(v, Tensor) else (v + 2**63) % 2**64 - 2**63 for name, v in numbers.items()}
    return at | signed | {"purpose_and_block": block | purpose << 8}


def sizes(x: Tensor) -> tuple[int, int]:
    """Samples, and the elements of each."""
    return x.shape[0], math.prod(x.shape[1:])


def is_wide(elements: int) -> bool:
    """Whether the indices of so many elements, and of a program that reaches beyond, need 64 bits."""
    return elements + 2**16 >= 2**31
