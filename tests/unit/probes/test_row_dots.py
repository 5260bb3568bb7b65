"""The kernel of inner products, by Triton's interpreter where Triton is installed."""

import pytest
import torch

ROUNDING = {torch.float64: 2.0**-52, torch.float32: 2.0**-23}


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 9001), (300, 24)])
@pytest.mark.parametrize(
    ("left_dtype", "right_dtype"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
        (torch.float64, torch.float32),
    ],
)
def test_inner_products_are_as_exact_as_those_of_torch(
    monkeypatch, left_dtype, right_dtype, rows, columns
):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton", reason="torch for CPUs comes without Triton")
    from megadga.probes.row_dots import row_dots  # noqa: PLC0415  (needs Triton)

    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, columns, generator=generator).to(left_dtype)
    right = torch.randn(columns, rows, generator=generator).to(right_dtype).T

    found = row_dots(left, right)

    products = left.double() * right.double()
    error = (found.double().sum(1) - products.sum(1)).abs() / products.abs().sum(1)
    precise = torch.promote_types(torch.promote_types(left_dtype, right_dtype), torch.float32)
    assert found.dtype == precise
    assert error.max() <= ROUNDING[precise] * (1 if columns == 1 else 4)
