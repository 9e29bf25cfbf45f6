"""Triton's interpreter: what numpy says of it, and whether it rounds like a GPU."""

import functools

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

MARKS = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, of inf - inf and 0 / 0
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # numpy's, of loops in Triton 3.6
]


def patched_once(patch):
    """Let device functions find the language as their kernel's call has patched it, not patch it again at each call."""

    def once(fn):
        named = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        return patch(fn) if any(tl.core.is_builtin(lang.load) for lang in named) else interpreter._LangPatchScope()

    return once


interpreter._patch_lang = patched_once(interpreter._patch_lang)  # which is a third of the interpreter's time


@triton.jit
def fma_of_one(a, b, c, out):
    tl.store(out, tl.fma(tl.load(a), tl.load(b), tl.load(c)))


@functools.cache
def rounds_once() -> bool:
    """Whether this interpreter rounds tl.fma once, as every GPU does; Triton 3.6's rounds twice."""
    a, b, c, out = (torch.full((1,), v) for v in (1 + 2.0**-12, 1 + 2.0**-12, -1 - 2.0**-11, 0.0))
    fma_of_one[(1,)](a, b, c, out)
    return float(out) == 2.0**-24
