"""Greedy answers to prompts, and how many are exactly right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Message = dict[str, str]


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[Message]],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """The greedy answer to each prompt, cut at the end-of-turn token, in the order of `prompts`.

    Prompts of similar length share a batch, padded on the left. `on_progress` hears how many are done.
    """
    import torch

    texts = [
        tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    answers = [""] * len(texts)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer(
            [texts[index] for index in chosen],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        new_tokens = output[:, batch["input_ids"].shape[1] :]
        for index, text in zip(
            chosen, tokenizer.batch_decode(new_tokens, skip_special_tokens=True), strict=True
        ):
            answers[index] = text.strip()
        on_progress(min(start + batch_size, len(order)))
    model.train(was_training)
    return answers
