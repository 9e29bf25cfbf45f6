"""The hat's input in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def residual_elements(gz, y, out, numel, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < numel
    tl.store(out + i, tl.load(gz + i, mask=inside) + tl.load(y + i, mask=inside), mask=inside)


def residual_add(gz: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """Twin of :func:`hatebm.reference.residual_add`."""
    dense = torch._prims_common.is_non_overlapping_and_dense(gz)
    if not dense or any(v is not None and v.stride() != gz.stride() for v in (y, out)):
        gz, y = gz.contiguous(), y.contiguous()
    result = torch.empty_like(gz) if out is None or out.stride() != gz.stride() else out
    if gz.numel() > 0:
        with torch.cuda.device_of(gz):
            residual_elements[(triton.cdiv(gz.numel(), BLOCK),)](gz, y, result, gz.numel(), BLOCK=BLOCK)
    return result if out is None or result is out else out.copy_(result)
