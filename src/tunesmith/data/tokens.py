"""From rows to `input_ids` and `labels`: the same conversion whatever shows or trains it.

Labels follow TRL: -100 where a token carries no loss. In `messages` the loss lies on what the template renders for
the assistant's turns, up to and including the end-of-turn token, found from the template itself (the text before
a turn is a prefix of the text with it), so that templates without generation marks work too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.formats import Format, check_row
from tunesmith.errors import DataError

IGNORED_LABEL = -100
Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A row as text and the character spans of it that carry loss."""

    text: str
    spans: tuple[Span, ...]
    add_special_tokens: bool


@dataclass(frozen=True)
class Encoder:
    """Encodes batches of rows of one format."""

    tokenizer: Any
    format_name: Format
    config: RunConfig
    source_path: str

    def __call__(self, batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """`input_ids`, `labels` and the `length` before cutting, for a batch of columns.

        Raises:
            DataError: a row that can't be rendered, with its number and field.
        """
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        rendered = [self._render_checked(row, index) for row, index in zip(rows, indices, strict=True)]
        encoded = self.tokenizer(
            [each.text for each in rendered],
            add_special_tokens=rendered[0].add_special_tokens,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": [], "num_loss_tokens": []}
        limit = self.config.max_length
        for each, ids, offsets in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            labels = _labels(ids, offsets, each.spans, self.tokenizer.all_special_ids)
            columns["input_ids"].append(ids[:limit])
            columns["labels"].append(labels[:limit])
            columns["length"].append(len(ids))
            columns["num_loss_tokens"].append(sum(label != IGNORED_LABEL for label in labels))
        return columns

    def _render_checked(self, row: dict[str, Any], index: int) -> Rendered:
        fault = check_row(row, self.format_name)
        if fault:
            field, message = fault
            raise DataError(
                f"row {index}: {field} {message}", where=f"{self.source_path}, row {index}, {field}"
            )
        try:
            return self.render(row)
        except Exception as error:  # a chat template is a program and may raise anything (test_tokens.py)
            raise DataError(
                f"row {index} can't be rendered by the chat template: {error}",
                where=f"{self.source_path}, row {index}",
                fix="mend the row, or choose another chat_template",
            ) from error

    def render(self, row: dict[str, Any]) -> Rendered:
        """A checked row as the text that is trained on, and its loss spans in characters."""
        eos = self.tokenizer.eos_token
        if self.format_name == "text":
            text = row["text"] if row["text"].endswith(eos) else row["text"] + eos
            return Rendered(text, ((0, len(text)),), add_special_tokens=True)
        if self.format_name == "messages":
            return self._render_turns(row["messages"], row)
        if isinstance(row["prompt"], list):
            return self._render_turns(
                row["prompt"] + row["completion"], row, first_learned=len(row["prompt"])
            )
        completion = row["completion"] if row["completion"].endswith(eos) else row["completion"] + eos
        text = row["prompt"] + completion
        start = len(row["prompt"]) if self.config.completion_only_loss else 0
        return Rendered(text, ((start, len(text)),), add_special_tokens=True)

    def _render_turns(self, messages: list[Any], row: dict[str, Any], first_learned: int = 0) -> Rendered:
        messages = [
            {key: value for key, value in message.items() if value is not None} for message in messages
        ]
        whole = self._apply(messages, row)
        is_pair = self.format_name == "prompt-completion"
        masked = self.config.completion_only_loss if is_pair else self.config.assistant_only_loss
        if not masked:
            return Rendered(whole, ((0, len(whole)),), add_special_tokens=False)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant" or index < first_learned:
                continue
            before = self._apply(messages[:index], row, add_generation_prompt=True)
            through = self._apply(messages[: index + 1], row)
            if not (through.startswith(before) and whole.startswith(through)):
                raise ValueError(
                    f"its rendering of turn {index} changes with the turns after it, so the tokens to learn can't be told"
                )
            spans.append((len(before), len(through)))
        return Rendered(whole, tuple(spans), add_special_tokens=False)

    def _apply(self, messages: list[Any], row: dict[str, Any], *, add_generation_prompt: bool = False) -> str:
        text: str = self.tokenizer.apply_chat_template(
            messages, tools=row.get("tools"), tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text


def _labels(
    ids: list[int], offsets: list[Span], spans: tuple[Span, ...], special_ids: list[int]
) -> list[int]:
    """`ids` where a token starts inside a span, -100 elsewhere; a span ends at its last special token."""
    labels = [IGNORED_LABEL] * len(ids)
    for inside in _tokens_of_spans(offsets, spans):
        last_special = next((i for i in reversed(inside) if ids[i] in special_ids), None)
        for i in inside:
            # What a template renders after the end-of-turn token (a newline) is never generated: don't learn it.
            if last_special is None or i <= last_special:
                labels[i] = ids[i]
    return labels


def _tokens_of_spans(offsets: list[Span], spans: tuple[Span, ...]) -> Iterator[list[int]]:
    for start, end in spans:
        yield [i for i, (first, last) in enumerate(offsets) if start <= first < end and last > first]
