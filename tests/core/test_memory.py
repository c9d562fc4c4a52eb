"""What weights take: parameters times bits."""

from __future__ import annotations

import pytest

from gateway.core.memory import BITS, USUAL, weights_gb


@pytest.mark.parametrize(
    ("params_b", "kept_in", "gb"),
    [
        (27, None, 54.0),
        (27, "q4_k_m", 16.3),
        (9, "q4_k_m", 5.4),
        (117, "mxfp4", 62.2),
        (0.8, "fp32", 3.2),
        (None, "int4", None),
    ],
)
def test_weights_take_parameters_times_bits(params_b: float | None, kept_in: str | None, gb: float | None) -> None:
    assert weights_gb(params_b, kept_in) == gb


def test_nothing_keeps_27_billion_weights_in_8_gb() -> None:
    assert all((weights_gb(27, name) or 0) > 8 for name in BITS)
    assert USUAL in BITS
