"""What optimizers keep of each weight that is trained."""

from __future__ import annotations

# Bytes a weight, of transformers' names (5.17, training_args.py, OptimizerNames): moments in fp32 or in 8 or
# 4 bits, as many as the method has; Adafactor keeps rows and columns of matrices alone (arXiv 1804.04235).
_BYTES = {
    "adamw_torch": 8, "adamw_torch_fused": 8, "adamw_apex_fused": 8, "adamw_anyprecision": 4,
    "adamw_torch_4bit": 1, "adamw_torch_8bit": 2, "ademamix": 12, "ademamix_8bit": 3, "adafactor": 0,
    "sgd": 0, "adagrad": 4, "rmsprop": 4, "rmsprop_bnb": 4, "rmsprop_bnb_8bit": 1,
    "adamw_bnb_8bit": 2, "adamw_8bit": 2, "lion": 4, "lion_32bit": 4, "lion_8bit": 1,
    "paged_adamw_32bit": 8, "paged_adamw": 8, "paged_adamw_8bit": 2, "paged_ademamix_32bit": 12,
    "paged_ademamix_8bit": 3, "paged_lion_32bit": 4, "paged_lion": 4, "paged_lion_8bit": 1,
}  # fmt: skip
ADAMW_BYTES = 8


def optimizer_bytes(name: object) -> int | None:
    """Bytes a weight of the optimizer `trl.optim` names (None: AdamW); None of one that isn't known."""
    return ADAMW_BYTES if name is None else _BYTES.get(str(name))
