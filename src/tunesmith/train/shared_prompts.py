"""A prompt with several answers is read once, by the losses of pairs and groups and in sampling.

TRL gives the model one row an answer, so that it reads the prompt of a pair twice and that of a group of
eight eight times, and pads every row to the longest. Here all answers to a prompt stand behind it in one row,
each seeing the prompt and itself alone: `[prompt][answer 1][answer 2]`, with positions that go on from the
prompt.
Log-probabilities and gradients are the same (tests/test_shared_prompts.py); the gain stands in
benchmarks/RESULTS.md: on a CPU, where every token counts. A GPU that a small model can't fill has none of it,
and is left alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from tunesmith.train.relayout import fused, read_by, window_of

# Below this saving the layout isn't worth its making.
WORTH = 0.9


class Layout(NamedTuple):
    """A batch with each prompt once. All but `take` and `is_taken` are (prompts, tokens).

    `take` says for each place of the padded batch, (answers, tokens - 1), where it is found among all places.
    """

    input_ids: Any
    position_ids: Any
    attention_mask: Any
    shift_labels: Any
    take: Any
    is_taken: Any

    def call(self) -> dict[str, Any]:
        """Keyword arguments for the model."""
        names = ("input_ids", "position_ids", "attention_mask", "shift_labels")
        return {name: getattr(self, name) for name in names}

    def put_back(self, value: Any) -> Any:
        """Numbers of the layout's places, as (answers, tokens - 1)."""
        import torch

        nothing = torch.zeros((), dtype=value.dtype, device=value.device)
        return torch.where(self.is_taken, value.reshape(-1)[self.take], nothing)


def lay_out(input_ids: Any, attention_mask: Any, labels: Any) -> Layout | None:
    """The batch with each prompt once, or None where that saves too little.

    All three are (answers, tokens) tensors, padded on either side; a label is -100 outside the answers.
    """
    import torch

    rows = [
        _Answer(*row)
        for row in zip(*(each.tolist() for each in (input_ids, attention_mask, labels)), strict=True)
    ]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.prompt, []).append(index)
    width = max(len(prompt) + sum(len(rows[i].tokens) for i in members) for prompt, members in groups.items())
    if len(groups) * width > WORTH * input_ids.numel():
        return None
    ids, places, shift, owners = ([] for _ in range(4))
    num_places = input_ids.shape[1] - 1
    take, is_taken = [[0] * num_places for _ in rows], [[False] * num_places for _ in rows]
    for number, (prompt, members) in enumerate(groups.items()):
        line, place = list(prompt), list(range(len(prompt)))
        label, owner = [-100] * len(prompt), [-1] * len(prompt)
        for i in members:
            row = rows[i]
            for offset in range(len(row.tokens) - 1):
                take[i][row.first_column + offset] = number * width + len(line) + offset
                is_taken[i][row.first_column + offset] = True
            line += row.tokens
            place += range(len(prompt), len(prompt) + len(row.tokens))
            label += [*row.labels[1:], -100]
            owner += [i] * len(row.tokens)
        rest = width - len(line)
        ids.append(line + [0] * rest)
        places.append(place + [0] * rest)
        shift.append(label + [-100] * rest)
        owners.append(owner + [-2] * rest)
    device = input_ids.device
    made = [torch.tensor(each, device=device) for each in (ids, places, shift, take, is_taken, owners)]
    return Layout(made[0], made[1], _mask(made[5]), made[2], made[3], made[4])


class _Answer:
    """A row of the padded batch: its prompt but for the last token, and from there on the answer's tokens."""

    def __init__(self, ids: list[int], mask: list[int], labels: list[int]) -> None:
        columns = [column for column, seen in enumerate(mask) if seen]
        tokens = [ids[column] for column in columns]
        learned = [labels[column] for column in columns]
        # The prompt's last token is the answer's first: what it predicts is learned, for each answer apart.
        start = max(0, next((i for i, label in enumerate(learned) if label != -100), len(tokens)) - 1)
        self.prompt = tuple(tokens[:start])
        self.tokens, self.labels = tokens[start:], learned[start:]
        self.first_column = columns[start] if start < len(columns) else 0


def _mask(owners: Any) -> Any:
    """(prompts, 1, tokens, tokens): what a token sees. `owners` is -1 for prompts, -2 for padding."""
    import torch

    size = owners.shape[1]
    seen, sees = owners[:, None, :], owners[:, :, None]
    causal = torch.ones(size, size, dtype=torch.bool, device=owners.device).tril()
    # Padding sees itself: a row of nothing would be a softmax of nothing.
    itself = torch.eye(size, dtype=torch.bool, device=owners.device)
    return ((causal & ((seen == -1) | (seen == sees)) & (seen != -2)) | itself)[:, None]


def share_prompts(model: Any, notify: Callable[[str], None]) -> None:
    """Let `model`, to which TRL added its fused head, read each prompt of a batch once.

    `notify` hears when the model turns out not to fit.
    """
    sentence = "this model reads each prompt once an answer: it can't share one among answers"
    read_by(model, fused(lay_out, window_of(model)), lambda why: notify(sentence))


def share_prefill(model: Any, notify: Callable[[str], None]) -> None:
    """Let `model.generate` read prompts that stand in the batch several times in a row once."""
    as_before = model.generate
    failed: list[str] = []

    @functools.wraps(as_before)
    def generate(*args: Any, **kwargs: Any) -> Any:
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        times = 1 if args or ids is None or mask is None or failed else repeats(ids)
        if times == 1 or kwargs.get("past_key_values") is not None:
            return as_before(*args, **kwargs)
        try:
            cache = prefill(model, ids[::times, :-1], mask[::times, :-1])
            cache.batch_repeat_interleave(times)
        except Exception as error:  # whatever such a model keeps for a cache, generate itself knows how to
            # (test_shared_prompts.py)
            failed.append(str(error))
            notify("this model reads a prompt once an answer when it generates: its cache can't be shared")
            return as_before(*args, **kwargs)
        return as_before(*args, past_key_values=cache, **kwargs)

    model.generate = generate


def repeats(ids: Any) -> int:
    """How many times in a row each row of `ids` stands there; 1 where the numbers differ."""
    num_rows = ids.shape[0]
    same = (ids == ids[0]).all(dim=1).tolist()
    times = same.index(False) if False in same else num_rows
    if num_rows % times:
        return 1
    groups = ids.view(num_rows // times, times, -1)
    return times if bool((groups == groups[:, :1]).all()) else 1


def prefill(model: Any, ids: Any, mask: Any) -> Any:
    """The cache that `model` keeps of prompts, (rows, tokens) padded on the left."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return cache
