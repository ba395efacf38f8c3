"""Batches as TRL pads them, and what its fused head says of them."""

from __future__ import annotations

from typing import Any


def batch(rows: list[tuple[list[int], list[int]]], *, left: bool = False) -> tuple[Any, ...]:
    """Prompts and answers as TRL pads them: input ids, attention mask, labels of the answers."""
    import torch

    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    made = []
    for prompt, answer in rows:
        ids, rest = prompt + answer, width - len(prompt) - len(answer)
        columns = [ids, [1] * len(ids), [-100] * len(prompt) + answer]
        pads = [0] * rest, [0] * rest, [-100] * rest
        made.append([pad + each if left else each + pad for pad, each in zip(pads, columns, strict=True)])
    return tuple(torch.tensor([row[i] for row in made]) for i in range(3))


def results(model: Any, ids: Any, mask: Any, labels: Any) -> tuple[Any, ...]:
    """Log-probabilities, entropies, which are the likeliest, and the gradients of a loss of the first two."""
    model.zero_grad()
    out = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, fused_lm_head=True)
    (out.log_probs.sum() + 0.3 * (out.entropy**2).sum()).backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    return out.log_probs.detach(), out.entropy.detach(), out.is_top1, gradients
