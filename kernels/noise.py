"""The noise contract in Triton: Philox's words, and the normals made of them."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hatebm.kernels.quads import (
    EXACT,
    NUMBERS,
    QUADS,
    elements_of,
    is_wide,
    offsets_of,
    place,
    program,
    sizes,
    value_or_load,
)
from hatebm.ops.native.extension import readable


@triton.jit
def log_series(t):
    """-2 ln(1 + t) / t on [-1/3, 1/3]."""
    p = tl.fma(t, 0.3154946267604828, -0.34222617745399475)
    p = tl.fma(p, t, 0.3268110454082489)
    p = tl.fma(p, t, -0.39590030908584595)
    p = tl.fma(p, t, 0.5002408027648926)
    p = tl.fma(p, t, -0.6667597889900208)
    p = tl.fma(p, t, 0.9999975562095642)
    return tl.fma(p, t, -1.9999996423721313)


@triton.jit
def minus_2_ln(even):
    """-2 ln u, step for step as in csrc/formulas/philox.h."""
    bits = ((even >> 1).to(tl.int32, bitcast=True).to(tl.float32) + 0.5).to(tl.int32, bitcast=True)
    above = bits - 0x4EAAAAAB  # the exponent above the sign, then a rest
    t = tl.fma((bits - (above & -0x800000)).to(tl.float32, bitcast=True), 2.0**-31, -1.0)
    return tl.fma((above >> 23).to(tl.float32), -1.3862943649291992, t * log_series(t))


@triton.jit
def box_muller(even, odd):
    """Two normals from two words."""
    r = tl.sqrt_rn(minus_2_ln(even))
    a = odd.to(tl.int32, bitcast=True).to(tl.float32) * 2.0**-31
    s = a * a
    cosine = tl.fma(s, 0.000858191167935729, -0.020810628309845924)
    cosine = tl.fma(cosine, s, 0.2536507546901703)
    cosine = tl.fma(cosine, s, -1.2336982488632202)
    cosine = tl.fma(cosine, s, 0.9999999403953552)
    sine = tl.fma(s, 0.0001516786142019555, -0.004674157593399286)
    sine = tl.fma(sine, s, 0.07968992739915848)
    sine = tl.fma(sine, s, -0.6459637880325317)
    sine = tl.fma(sine, s, 1.5707963705062866)
    first = ((r * cosine).to(tl.uint32, bitcast=True) ^ (even << 31)).to(tl.float32, bitcast=True)
    return first, r * (a * sine)


@triton.jit
def philox_rounds(seed, c0, c1, c2, c3):
    """Philox4x32-10: uint32 counters and a 64-bit seed to four words. A 64-bit product is one instruction."""
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, p1.to(tl.uint32)
        c2, c3 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1, p0.to(tl.uint32)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def words_of(seed, step, purpose_and_block, chain, quad):
    """The four words of quads of chains."""
    last = (purpose_and_block | (chain >> 32 & 0xFF) << 16 | (step >> 32 & 0xFF) << 24).to(tl.uint32)
    return philox_rounds(seed, quad.to(tl.uint32), chain.to(tl.uint32), step.to(tl.uint32), last)


@triton.jit
def normals_of(seed, step, purpose_and_block, chain, quad):
    """The normals of quads of chains: (quads,) to (quads, 4)."""
    w0, w1, w2, w3 = words_of(seed, step, purpose_and_block, chain, quad)
    n0, n1 = box_muller(w0, w1)
    n2, n3 = box_muller(w2, w3)
    return tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), (quad.shape[0], 4))


@triton.jit
def chain_of(chain_ids, sample, live):
    """Chain ids of samples, in 64 bits."""
    chain = sample.to(tl.int64)
    if chain_ids is not None:
        chain = tl.load(chain_ids + sample, mask=live, other=0)
    return chain


@triton.jit(do_not_specialize=NUMBERS)
def normal_quads(
    out, chain_ids, seed: tl.int64, step: tl.int64, seed_at, step_at, purpose_and_block: tl.int64, n, d,
    VECTOR: tl.constexpr, WIDE: tl.constexpr, QUADS: tl.constexpr,
):  # fmt: skip
    seed, step = value_or_load(seed, seed_at), value_or_load(step, step_at)
    flat = program(WIDE) * QUADS + tl.arange(0, QUADS)
    quads = (d + 3) // 4
    sample, quad = flat // quads, flat % quads
    live = sample < n
    values = normals_of(seed, step, purpose_and_block, chain_of(chain_ids, sample, live), quad)
    inside = live[:, None] & (VECTOR | (elements_of(quad) < d))
    tl.store(out + offsets_of(flat, sample, quad, d, None, None, VECTOR), values, mask=inside)


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
    """Twin of :func:`hatebm.ops.reference.normal`."""
    out = torch.empty(shape, dtype=torch.float32, device=device)
    n, d = sizes(out)
    if out.numel() > 0:
        at = place(seed, step, block, purpose) | {"n": n, "d": d}
        sharing = {"VECTOR": d % 4 == 0, "WIDE": is_wide(out.numel()), "QUADS": QUADS}
        with torch.cuda.device_of(out):
            normal_quads[(triton.cdiv(n * triton.cdiv(d, 4), QUADS),)](out, chain_ids, **at, **sharing, **EXACT)
    return out


@triton.jit
def philox_words(counter, key, words, m, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = i < m
    k0 = tl.load(key + 2 * i, mask=live, other=0)
    k1 = tl.load(key + 2 * i + 1, mask=live, other=0)
    c0 = tl.load(counter + 4 * i, mask=live, other=0).to(tl.uint32)
    c1 = tl.load(counter + 4 * i + 1, mask=live, other=0).to(tl.uint32)
    c2 = tl.load(counter + 4 * i + 2, mask=live, other=0).to(tl.uint32)
    c3 = tl.load(counter + 4 * i + 3, mask=live, other=0).to(tl.uint32)
    w0, w1, w2, w3 = philox_rounds(k1 << 32 | k0, c0, c1, c2, c3)
    tl.store(words + 4 * i, w0.to(tl.int64), mask=live)
    tl.store(words + 4 * i + 1, w1.to(tl.int64), mask=live)
    tl.store(words + 4 * i + 2, w2.to(tl.int64), mask=live)
    tl.store(words + 4 * i + 3, w3.to(tl.int64), mask=live)


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Twin of :func:`hatebm.ops.reference.philox`."""
    shape = torch.broadcast_shapes(counter.shape[:-1], key.shape[:-1])
    counter = readable(counter.expand(*shape, 4))
    key = readable(key.expand(*shape, 2))
    words = torch.empty_like(counter)
    m = math.prod(shape)
    if m > 0:
        with torch.cuda.device_of(words):
            philox_words[(triton.cdiv(m, QUADS),)](counter, key, words, m, BLOCK=QUADS, **EXACT)
    return words
