"""How the rows of a batch reach the model: one behind the other without padding, or padded."""

from __future__ import annotations

from typing import Literal

from tunesmith.config.run_config import RunConfig
from tunesmith.plan.facts import MachineFacts

Attention = Literal["varlen", "blocks", "padded"]
# Arguments of TRL that lay rows out or attend in their own way: what users ask for there is done.
_OWN_LAYOUT = ("packing", "padding_free")


def choose_attention(
    config: RunConfig, machine: MachineFacts, precision: str, whole_logits: bool = False
) -> tuple[Attention, str]:
    """The way, and the reason for it.

    `whole_logits` says that a loss keeps the logits of every token. `varlen` attends within documents by
    where they begin; `blocks` by a mask, where that kernel isn't.
    """
    asked = next((key for key in _OWN_LAYOUT if config.trl.get(key)), None)
    if (config.trl.get("model_init_kwargs") or {}).get("attn_implementation"):
        asked = "model_init_kwargs.attn_implementation"
    if asked:
        return "padded", f"rows as trl.{asked} has them"
    if whole_logits:
        return "padded", f"rows padded: TRL's trainer for {config.method} works on padded logits"
    if machine.device == "cuda" and machine.has_varlen and precision != "fp32":
        return "varlen", "rows one behind the other, without padding (varlen attention)"
    if machine.device == "mps":
        return "padded", "rows padded"
    return "blocks", "rows one behind the other where padding would cost more (block mask)"
