"""Pairs as TRL's older preference trainers read them: ORPO and CPO tokenise row by row."""

from __future__ import annotations

from typing import Any


def reads_pair_ids(trainer_class: type) -> type:
    """`trainer_class` whose rows come tokenised and cut as `prompt_ids`, `chosen_ids` and `rejected_ids`."""

    def tokenize_row(self: Any, row: dict[str, Any], model: Any = None) -> dict[str, list[int]]:
        prompt = row["prompt_ids"]
        made = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side in ("chosen", "rejected"):
            answer = row[f"{side}_ids"]
            made |= {
                f"{side}_input_ids": prompt + answer,
                f"{side}_attention_mask": [1] * (len(prompt) + len(answer)),
                # -100: the label pad id of transformers' losses.
                f"{side}_labels": [-100] * len(prompt) + answer,
            }
        return made

    return type(trainer_class.__name__, (trainer_class,), {"tokenize_row": tokenize_row})
