"""How near an exported file has to come to the trained model, by its precision.

Divergences are llama.cpp's own for LLaMA 3 8B (mean KLD to its 16-bit weights, no importance matrix;
tools/perplexity/README.md at ggml-org/llama.cpp, read on 2026-11-27), times SLACK: small models lose more
of the same format, untrained SmolLM2-135M seven times as much at Q8_0 (0.009 over 282 positions). Where that
table has no row, the next smaller format's stands. Agreements are what SmolLM2-135M keeps, less a margin for
few samples.
"""

from __future__ import annotations

from typing import NamedTuple

SLACK = 10.0


class Limit(NamedTuple):
    """The largest mean divergence in nats, and the smallest share of equal likeliest tokens."""

    divergence: float
    agreement: float


_OF_LLAMA_3_8B = {
    "F16": 0.000551, "BF16": 0.000551, "F32": 0.000551, "Q8_0": 0.001355, "Q6_K": 0.005452,
    "Q5_K_M": 0.010762, "Q5_K_S": 0.016595, "Q5_0": 0.022239, "Q5_1": 0.022239, "Q4_K_M": 0.031273,
    "Q4_K_S": 0.043136, "IQ4_NL": 0.043136, "IQ4_XS": 0.043136, "Q4_1": 0.071940, "Q4_0": 0.071940,
    "Q3_K_L": 0.087176, "Q3_K_M": 0.101913, "Q3_K_S": 0.228217, "IQ3_M": 0.228217, "IQ3_S": 0.228217,
}  # fmt: skip
_AGREEMENTS = {"F": 0.98, "B": 0.98, "Q8": 0.92, "Q6": 0.90, "Q5": 0.85, "Q4": 0.75, "IQ4": 0.75}
_OTHERWISE = Limit(5.0, 0.4)
# A merge is the same sum in another order: in fp32 that alone differs, in 16 bit each weight is rounded once.
MERGED = {"float32": Limit(1e-6, 0.995), "float16": Limit(1e-4, 0.98), "bfloat16": Limit(5e-3, 0.95)}


def limit_of(kind: str) -> Limit:
    """The limits of a precision by its llama.cpp name; of formats under three bits only ruin is noticed."""
    if kind not in _OF_LLAMA_3_8B:
        return _OTHERWISE
    agreement = next((share for start, share in _AGREEMENTS.items() if kind.startswith(start)), 0.6)
    return Limit(_OF_LLAMA_3_8B[kind] * SLACK, agreement)
