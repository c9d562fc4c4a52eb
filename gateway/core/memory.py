"""How much memory a model's weights take: parameters times bits, and what is known of the bits.

A lower bound on purpose: the cache of a long prompt and the server's own needs come on top, and depend on how it is
run. What is done about a target that cannot hold its model is decided where targets are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: Bits a weight, scales included. The q*_k mixes are llama.cpp's, as its quantize tool reports them for Llama 2 7B.
BITS: Mapping[str, float] = MappingProxyType(
    {
        "fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4, "nvfp4": 4.5, "mxfp4": 4.25,
        "q8_0": 8.5, "q6_k": 6.56, "q5_k_m": 5.68, "q5_k_s": 5.52, "q4_k_m": 4.84, "q4_k_s": 4.58, "q4_0": 4.5,
        "q3_k_l": 4.27, "q3_k_m": 3.91, "q3_k_s": 3.5, "q2_k": 3.35,
    }
)  # fmt: skip
#: What weights are published in where nobody says otherwise.
USUAL = "bf16"


def weights_gb(params_total_b: float | None, quantization: str | None) -> float | None:
    """GB (10^9 bytes) that the weights alone take; None where the parameters are not known.

    >>> weights_gb(27, None), weights_gb(27, "q4_k_m")
    (54.0, 16.3)
    """
    return None if params_total_b is None else round(params_total_b * BITS[quantization or USUAL] / 8, 1)
