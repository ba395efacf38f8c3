"""Two rewards of your own: `my_rewards.py:accuracy` and `my_rewards.py:brevity`; docs/rewards.md says how."""

import re


def text_of(completion):
    """The text of a completion: itself, or the content of its last message."""
    return completion if isinstance(completion, str) else completion[-1]["content"] or ""


def accuracy(completions, answer, **kwargs):
    """1 for each completion that ends with the answer of its row, else 0: `So it is 42.` for 42."""
    rewards = []
    for completion, right in zip(completions, answer, strict=True):
        ending = rf"(?<![\w.,-]){re.escape(str(right))}\W*$"
        rewards.append(1.0 if re.search(ending, text_of(completion)) else 0.0)
    return rewards


def brevity(completions, completion_ids, most=512, **kwargs):
    """From 1 for a completion without tokens down to 0 for one of `most` tokens or more."""
    return [max(0.0, 1 - len(ids) / most) for ids in completion_ids]
