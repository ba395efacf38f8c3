"""From rows to `input_ids` and `labels`: the same conversion whatever shows or trains it.

Labels follow TRL: -100 where a token carries no loss. In `messages` the loss lies on what the template
renders for the assistant's turns, up to and including the end-of-turn token. The turns are found from the
template itself (see `turns`), so that templates without generation marks work too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.formats import Format, check_row
from tunesmith.data.turns import Span, TurnFinder
from tunesmith.errors import DataError

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Rendered:
    """A row as text and the parts of it that carry loss; `spans` is None where every token does."""

    text: str
    spans: tuple[Span, ...] | None
    add_special_tokens: bool


@dataclass(frozen=True)
class Encoder:
    """Encodes batches of rows of one format."""

    tokenizer: Any
    format_name: Format
    config: RunConfig
    source_path: str

    def __call__(self, batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """`input_ids`, `labels`, the `length` before cutting, and `ends`, for a batch of columns.

        `ends` is true where the last token that carries loss is one that ends a turn or a text.

        Raises:
            DataError: a row that can't be rendered or has nothing to learn, with its number and field.
        """
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        rendered = [self._render_checked(row, index) for row, index in zip(rows, indices, strict=True)]
        encoded = self.tokenizer(
            [each.text for each in rendered],
            add_special_tokens=rendered[0].add_special_tokens,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": [], "ends": []}
        limit, marks = self.config.max_length, marker_ids(self.tokenizer)
        for each, index, ids, offsets in zip(
            rendered, indices, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            labels = list(ids) if each.spans is None else label_spans(ids, offsets, each.spans, marks)
            if all(label == IGNORED_LABEL for label in labels):
                raise DataError(
                    f"row {index} has no token to learn: nothing of its answers is rendered",
                    where=f"{self.source_path}, row {index}",
                    fix="mend the row, or choose another chat_template",
                )
            learned = [label for label in labels[:limit] if label != IGNORED_LABEL]
            columns["input_ids"].append(ids[:limit])
            columns["labels"].append(labels[:limit])
            columns["length"].append(len(ids))
            columns["ends"].append(bool(learned) and learned[-1] in marks)
        return columns

    def _render_checked(self, row: dict[str, Any], index: int) -> Rendered:
        fault = check_row(row, self.format_name)
        if fault:
            field, message = fault
            raise DataError(
                f"row {index}: {field} {message}",
                where=f"{self.source_path}, row {index}, {field}",
                fix="mend the row or take it out",
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
        """A checked row as the text that is trained on, and the parts of it that carry loss."""
        eos = self.tokenizer.eos_token
        if self.format_name == "text":
            text = row["text"] if row["text"].endswith(eos) else row["text"] + eos
            return Rendered(text, None, add_special_tokens=True)
        if self.format_name == "messages":
            return self._render_turns(row["messages"], row, masked=self.config.assistant_only_loss)
        masked = self.config.completion_only_loss
        if isinstance(row["prompt"], list):
            messages, num_given = row["prompt"] + row["completion"], len(row["prompt"])
            return self._render_turns(messages, row, masked=masked, first_learned=num_given)
        completion = row["completion"] if row["completion"].endswith(eos) else row["completion"] + eos
        text, start = row["prompt"] + completion, len(row["prompt"])
        spans = (Span(start, len(text), len(text) - len(eos)),) if masked else None
        return Rendered(text, spans, add_special_tokens=True)

    def _render_turns(
        self, messages: list[Any], row: dict[str, Any], *, masked: bool, first_learned: int = 0
    ) -> Rendered:
        finder = TurnFinder(self.tokenizer, [plain_message(each) for each in messages], _tools(row))
        spans = finder.spans(first_learned) if masked else None
        return Rendered(finder.whole, spans, add_special_tokens=False)


def plain_message(message: dict[str, Any]) -> dict[str, Any]:
    """`message` as a template expects it: text parts joined, and no nulls that only Arrow's schema put in."""
    plain: dict[str, Any] = _without_nulls(message)
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    # Templates that know tool calls ask `content is none`; a missing key would be another thing to them.
    return plain | {"content": content}


def _without_nulls(value: Any) -> Any:
    # Arrow gives every struct of a column the same keys, null where the file had none.
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _tools(row: dict[str, Any]) -> list[Any] | None:
    tools = row.get("tools")
    return _without_nulls(json.loads(tools) if isinstance(tools, str) else tools) or None


def marker_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens beside the vocabulary, one of which may end a turn: `<|im_end|>`, `</s>`."""
    # `all_special_ids` alone lacks the end of turn of Llama 3 and Phi-3. Some tokenizers add runs of spaces.
    added = {index for token, index in tokenizer.get_added_vocab().items() if token.strip()}
    return frozenset(added | set(tokenizer.all_special_ids))


def label_spans(
    ids: list[int], offsets: list[tuple[int, int]], spans: tuple[Span, ...], marks: frozenset[int]
) -> list[int]:
    """`ids` where a token lies in a span, -100 elsewhere; a span ends with the token that ends its turn."""
    labels = [IGNORED_LABEL] * len(ids)
    for span in spans:
        inside = [
            i
            for i, place in enumerate(offsets)
            if _overlaps(place, span) and (place[1] <= span.end or ids[i] not in marks)
        ]
        marked = [i for i in inside if ids[i] in marks]
        if span.words_end is None:
            last = marked[-1] if marked else None
        else:
            last = next((i for i in marked if offsets[i][0] >= span.words_end), None)
        for i in inside:
            # What is rendered after the end-of-turn token (a newline) is never generated: don't learn it.
            if last is None or i <= last:
                labels[i] = ids[i]
    return labels


def _overlaps(place: tuple[int, int], span: Span) -> bool:
    first, last = place
    # A token that straddles the start holds the answer's first letters (TRL learns it too). Tokenizers that
    # trim offsets give a token of spaces no width; it stands where its last space ended.
    return last > span.start and (first < span.end or first == last == span.end)
