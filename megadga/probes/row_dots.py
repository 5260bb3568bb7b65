"""Inner products of rows on a GPU, in one pass over both matrices.

torch has no operation that multiplies bfloat16 and adds up in float32 without copies of its
operands: by its operations a pass reads and writes 20 bytes an element, here it reads 4. Only
imported on a GPU: Triton comes with torch for CUDA and ROCm.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportIndexIssue=false
# (the language of kernels has no types)

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096  # elements that a program multiplies at once, at most
_PROGRAMS = 1024  # at least, if rows are long enough: some for each multiprocessor


def row_dots(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner product of each row in summands, shape ``(rows, summands)``.

    Multiplied and added up in float32 in a fixed order, or in float64 if an operand is: equal bits
    for equal operands.

    Args:
        left: A matrix on a GPU, of a floating-point dtype, with at least one element.
        right: Of its shape and device.
    """
    left, right = left.contiguous(), right.contiguous()
    num_rows, num_columns = left.shape
    block = min(_BLOCK, triton.next_power_of_2(num_columns))
    parts = max(1, min(-(-num_columns // block), -(-_PROGRAMS // num_rows)))
    precise = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    sums = torch.empty((num_rows, parts), dtype=precise, device=left.device)
    _row_dots[(num_rows, parts)](left, right, sums, num_columns, parts, BLOCK=block, num_warps=8)
    return sums


@triton.jit
def _row_dots(left, right, sums, num_columns, parts, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202, N803
    """Add up every ``parts``-th block of a row, from the program's own part on."""
    row, part = tl.program_id(0), tl.program_id(1)
    own = row.to(tl.int64) * num_columns
    total = tl.zeros((BLOCK,), dtype=sums.dtype.element_ty)
    for start in range(part * BLOCK, num_columns, parts * BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < num_columns
        one = tl.load(left + own + columns, mask=inside, other=0.0).to(total.dtype)
        other = tl.load(right + own + columns, mask=inside, other=0.0).to(total.dtype)
        total += one * other
    tl.store(sums + row * parts + part, tl.sum(total, 0))
